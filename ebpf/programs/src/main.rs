//! The eBPF programs of Sluice, at the kernel's socket hooks.
//!
//! A program reads its context into values, calls [`sluice_abi::decide`] and carries out the verdict.
//! This file has the entry points. Each module has one stage of a connection: `connect`, then
//! `sockops`, then `orig_dst` for reads of the original destination; `inbound` for connections that
//! enter the Pod.
#![no_std]
#![no_main]

mod accelerate;
mod before_proxy;
mod bind;
mod conn_rate;
mod connect;
mod context;
mod count;
mod decision;
mod device;
mod dns;
mod dst_alias;
mod endpoint;
mod events;
mod filter;
mod inbound;
mod kread;
mod maps;
mod mptcp;
mod node_conn;
mod order;
mod orig_dst;
mod original_source;
mod outbound;
mod owner;
mod packet;
mod pending;
mod raw_socket;
mod refuse;
mod reroute;
mod setsockopt;
mod sk_storage;
mod sockops;

use aya_ebpf::{
    macros::{
        cgroup_sock, cgroup_sock_addr, cgroup_sockopt, classifier, fentry, sk_lookup, sk_msg,
        sock_ops,
    },
    programs::{
        FEntryContext, SkLookupContext, SkMsgContext, SockAddrContext, SockContext, SockOpsContext,
        SockoptContext, TcContext,
    },
};

use crate::{
    context::{V4, V6},
    maps::{CONNECT4_PROG, CONNECT6_PROG, SENDMSG4_PROG, SENDMSG6_PROG},
    order::Level,
};

/// Return value of a cgroup program: the operation continues.
pub(crate) const ALLOW: i32 = 1;
/// Return value of a cgroup program: the operation fails with `EPERM`.
pub(crate) const DENY: i32 = 0;

/// `connect(2)` on an `AF_INET` socket.
#[cgroup_sock_addr(connect4)]
fn connect4(ctx: SockAddrContext) -> i32 {
    order::continue_once(&ctx, Level::Child, &CONNECT4_PROG)
}

/// The root copy of `connect4`.
#[cgroup_sock_addr(connect4)]
fn root_connect4(ctx: SockAddrContext) -> i32 {
    order::continue_once(&ctx, Level::Root, &CONNECT4_PROG)
}

/// The continuation of both.
#[cgroup_sock_addr(connect4)]
fn decide_connect4(ctx: SockAddrContext) -> i32 {
    connect::connect::<V4>(&ctx)
}

/// `connect(2)` on an `AF_INET6` socket, v4-mapped destinations included.
#[cgroup_sock_addr(connect6)]
fn connect6(ctx: SockAddrContext) -> i32 {
    order::continue_once(&ctx, Level::Child, &CONNECT6_PROG)
}

/// The root copy of `connect6`.
#[cgroup_sock_addr(connect6)]
fn root_connect6(ctx: SockAddrContext) -> i32 {
    order::continue_once(&ctx, Level::Root, &CONNECT6_PROG)
}

/// The continuation of both.
#[cgroup_sock_addr(connect6)]
fn decide_connect6(ctx: SockAddrContext) -> i32 {
    connect::connect::<V6>(&ctx)
}

/// After `bind(2)` on an `AF_INET` socket.
#[cgroup_sock(post_bind4)]
fn post_bind4(ctx: SockContext) -> i32 {
    bind::bound(&ctx, Level::Child)
}

/// The root copy of `post_bind4`.
#[cgroup_sock(post_bind4)]
fn root_post_bind4(ctx: SockContext) -> i32 {
    bind::bound(&ctx, Level::Root)
}

/// After `bind(2)` on an `AF_INET6` socket.
#[cgroup_sock(post_bind6)]
fn post_bind6(ctx: SockContext) -> i32 {
    bind::bound(&ctx, Level::Child)
}

/// The root copy of `post_bind6`.
#[cgroup_sock(post_bind6)]
fn root_post_bind6(ctx: SockContext) -> i32 {
    bind::bound(&ctx, Level::Root)
}

/// `socket(2)` in the families `AF_INET` and `AF_INET6`.
#[cgroup_sock(sock_create)]
fn sock_create(ctx: SockContext) -> i32 {
    raw_socket::create(&ctx)
}

/// `getpeername(2)` on an `AF_INET` socket.
#[cgroup_sock_addr(getpeername4)]
fn getpeername4(ctx: SockAddrContext) -> i32 {
    orig_dst::rewrite_peer::<V4>(&ctx)
}

/// `getpeername(2)` on an `AF_INET6` socket.
#[cgroup_sock_addr(getpeername6)]
fn getpeername6(ctx: SockAddrContext) -> i32 {
    orig_dst::rewrite_peer::<V6>(&ctx)
}

/// `sendto(2)` with an address on an `AF_INET` UDP socket.
#[cgroup_sock_addr(sendmsg4)]
fn sendmsg4(ctx: SockAddrContext) -> i32 {
    dns::sendmsg::<V4>(&ctx, Level::Child, &SENDMSG4_PROG)
}

/// The root copy of `sendmsg4`.
#[cgroup_sock_addr(sendmsg4)]
fn root_sendmsg4(ctx: SockAddrContext) -> i32 {
    dns::sendmsg::<V4>(&ctx, Level::Root, &SENDMSG4_PROG)
}

/// The continuation of both.
#[cgroup_sock_addr(sendmsg4)]
fn decide_sendmsg4(ctx: SockAddrContext) -> i32 {
    dns::decide::<V4>(&ctx)
}

/// `sendto(2)` with an address on an `AF_INET6` UDP socket.
#[cgroup_sock_addr(sendmsg6)]
fn sendmsg6(ctx: SockAddrContext) -> i32 {
    dns::sendmsg::<V6>(&ctx, Level::Child, &SENDMSG6_PROG)
}

/// The root copy of `sendmsg6`.
#[cgroup_sock_addr(sendmsg6)]
fn root_sendmsg6(ctx: SockAddrContext) -> i32 {
    dns::sendmsg::<V6>(&ctx, Level::Root, &SENDMSG6_PROG)
}

/// The continuation of both.
#[cgroup_sock_addr(sendmsg6)]
fn decide_sendmsg6(ctx: SockAddrContext) -> i32 {
    dns::decide::<V6>(&ctx)
}

/// `recvfrom(2)` on an `AF_INET` UDP socket.
#[cgroup_sock_addr(recvmsg4)]
fn recvmsg4(ctx: SockAddrContext) -> i32 {
    dns::recvmsg::<V4>(&ctx)
}

/// `recvfrom(2)` on an `AF_INET6` UDP socket.
#[cgroup_sock_addr(recvmsg6)]
fn recvmsg6(ctx: SockAddrContext) -> i32 {
    dns::recvmsg::<V6>(&ctx)
}

/// After the kernel's own `getsockopt(2)`.
#[cgroup_sockopt(getsockopt)]
fn getsockopt(ctx: SockoptContext) -> i32 {
    orig_dst::getsockopt(&ctx)
}

/// Before the kernel's own `setsockopt(2)`.
#[cgroup_sockopt(setsockopt)]
fn setsockopt(ctx: SockoptContext) -> i32 {
    setsockopt::set(&ctx)
}

/// TCP socket events.
#[sock_ops]
fn sock_ops(ctx: SockOpsContext) -> u32 {
    sockops::handle(&ctx);
    // The only value besides 0 that the verifier accepts here: the reply in the context is valid.
    1
}

/// An accelerated socket sends a message.
#[sk_msg]
fn msg_verdict(ctx: SkMsgContext) -> u32 {
    accelerate::send(&ctx)
}

/// `splice(2)` from a TCP socket.
#[fentry(function = "tcp_splice_read")]
fn tcp_splice_read(ctx: FEntryContext) -> i32 {
    accelerate::on_splice_read(&ctx);
    0
}

/// A TCP connection arrives in a meshed Pod's network namespace.
#[sk_lookup]
fn inbound_lookup(ctx: SkLookupContext) -> u32 {
    inbound::redirect(&ctx)
}

/// A packet arrives on a virtual interface of a meshed Pod.
#[classifier]
fn reroute_in(ctx: TcContext) -> i32 {
    reroute::arrive(&ctx)
}

/// A packet leaves through a virtual interface of a meshed Pod.
#[classifier]
fn reroute_out(ctx: TcContext) -> i32 {
    reroute::leave(&ctx)
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Reads of kernel structures and the `fentry` hook require a GPL-compatible license.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
