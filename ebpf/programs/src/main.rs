//! The kernel side of Sluice: programs at the hooks of sockets.
//!
//! A program reads its context into values, asks [`sluice_abi::decide`] and carries the verdict
//! out. Entry points are here; what they do is in the module named after the moment in a
//! connection's life: `connect`, then `established`, then `original` when somebody asks where the
//! connection wanted to go; `inbound` for connections that enter the Pod.
#![no_std]
#![no_main]

mod accelerate;
mod bind;
mod connect;
mod context;
mod count;
mod datagram;
mod established;
mod filter;
mod habit;
mod inbound;
mod kernel;
mod learn;
mod maps;
mod meeting;
mod mptcp;
mod original;
mod renounce;
mod veil;
mod watch;

use aya_ebpf::{
    macros::{cgroup_sock, cgroup_sock_addr, cgroup_sockopt, fentry, sk_lookup, sk_msg, sock_ops},
    programs::{
        FEntryContext, SkLookupContext, SkMsgContext, SockAddrContext, SockContext, SockOpsContext,
        SockoptContext,
    },
};

use crate::context::{V4, V6};

/// Return value of a cgroup program: let the operation go on.
pub(crate) const ALLOW: i32 = 1;
/// Return value of a cgroup program: the operation fails with `EPERM`.
pub(crate) const DENY: i32 = 0;

/// `connect(2)` on an `AF_INET` socket.
#[cgroup_sock_addr(connect4)]
fn connect4(ctx: SockAddrContext) -> i32 {
    connect::connect::<V4>(&ctx)
}

/// `connect(2)` on an `AF_INET6` socket, v4-mapped destinations included.
#[cgroup_sock_addr(connect6)]
fn connect6(ctx: SockAddrContext) -> i32 {
    connect::connect::<V6>(&ctx)
}

/// After `bind(2)` on an `AF_INET` socket.
#[cgroup_sock(post_bind4)]
fn post_bind4(ctx: SockContext) -> i32 {
    bind::bound(&ctx)
}

/// After `bind(2)` on an `AF_INET6` socket.
#[cgroup_sock(post_bind6)]
fn post_bind6(ctx: SockContext) -> i32 {
    bind::bound(&ctx)
}

/// `getpeername(2)` on an `AF_INET` socket.
#[cgroup_sock_addr(getpeername4)]
fn getpeername4(ctx: SockAddrContext) -> i32 {
    original::peer_name::<V4>(&ctx)
}

/// `getpeername(2)` on an `AF_INET6` socket.
#[cgroup_sock_addr(getpeername6)]
fn getpeername6(ctx: SockAddrContext) -> i32 {
    original::peer_name::<V6>(&ctx)
}

/// `sendto(2)` with an address on an `AF_INET` UDP socket.
#[cgroup_sock_addr(sendmsg4)]
fn sendmsg4(ctx: SockAddrContext) -> i32 {
    datagram::send::<V4>(&ctx)
}

/// `sendto(2)` with an address on an `AF_INET6` UDP socket.
#[cgroup_sock_addr(sendmsg6)]
fn sendmsg6(ctx: SockAddrContext) -> i32 {
    datagram::send::<V6>(&ctx)
}

/// `recvfrom(2)` on an `AF_INET` UDP socket.
#[cgroup_sock_addr(recvmsg4)]
fn recvmsg4(ctx: SockAddrContext) -> i32 {
    datagram::receive::<V4>(&ctx)
}

/// `recvfrom(2)` on an `AF_INET6` UDP socket.
#[cgroup_sock_addr(recvmsg6)]
fn recvmsg6(ctx: SockAddrContext) -> i32 {
    datagram::receive::<V6>(&ctx)
}

/// After the kernel's own `getsockopt(2)`.
#[cgroup_sockopt(getsockopt)]
fn getsockopt(ctx: SockoptContext) -> i32 {
    original::socket_option(&ctx)
}

/// Before the kernel's own `setsockopt(2)`.
#[cgroup_sockopt(setsockopt)]
fn setsockopt(ctx: SockoptContext) -> i32 {
    renounce::set_option(&ctx)
}

/// Moments in the life of a TCP socket.
#[sock_ops]
fn sock_life(ctx: SockOpsContext) -> u32 {
    established::on(&ctx);
    // The only value besides 0 that the verifier takes here: the reply in the context stands.
    1
}

/// A message is sent on a socket of an accelerated connection.
#[sk_msg]
fn send(ctx: SkMsgContext) -> u32 {
    accelerate::send(&ctx)
}

/// `splice(2)` from a TCP socket.
#[fentry(function = "tcp_splice_read")]
fn splice(ctx: FEntryContext) -> i32 {
    accelerate::spliced(&ctx);
    0
}

/// A TCP connection arrives in a meshed Pod's network namespace.
#[sk_lookup]
fn steer(ctx: SkLookupContext) -> u32 {
    inbound::steer(&ctx)
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Reading the kernel's structures, and a hook at one of its functions, are for programs under the GPL.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
