//! Socket options that `setsockopt(2)` denies.
//!
//! A source route or a routing header sends the packets of a connection to its first hop, whatever the
//! destination is: to the kernel, a connection to the proxy with such a route is one to another host.
//! Accelerated sockets would accept some options without effect.
//!
//! The kernel does not run these programs for 32-bit system calls (`in_compat_syscall` in
//! `__sys_setsockopt`, since Linux 6.7 in `do_sock_setsockopt`).

use aya_ebpf::programs::SockoptContext;
use sluice_abi::Reason;

use crate::{
    ALLOW, DENY, accelerate,
    context::{self, read},
    count::count,
    maps,
};

/// `SOL_IP`.
const SOL_IP: i32 = 0;
/// `IP_OPTIONS`: loose and strict source routes, among others.
const IP_OPTIONS: i32 = 4;
/// `SOL_IPV6`.
const SOL_IPV6: i32 = 41;
/// `IPV6_RTHDR`, and `IPV6_2292PKTOPTIONS`, which may contain one.
const IPV6_RTHDR: i32 = 57;
const IPV6_2292PKTOPTIONS: i32 = 6;
/// `SOL_SOCKET`.
const SOL_SOCKET: i32 = 1;
/// `SO_ZEROCOPY`: redirected `MSG_ZEROCOPY` data would never produce a completion.
const SO_ZEROCOPY: i32 = 60;
/// `SOL_TCP`.
const SOL_TCP: i32 = 6;
/// `TCP_ULP`: kTLS data would reach the peer unencrypted.
const TCP_ULP: i32 = 31;

/// Denies routes in meshed Pods, and options that accelerated sockets do not support; does not change
/// other options.
#[inline(always)]
pub(crate) fn set(ctx: &SockoptContext) -> i32 {
    let option = (read!(ctx.sockopt, level), read!(ctx.sockopt, optname));
    let unsupported = option == (SOL_SOCKET, SO_ZEROCOPY) || option == (SOL_TCP, TCP_ULP);
    if unsupported && accelerate::is_in_sockhash(read!(ctx.sockopt, __bindgen_anon_1.sk)) {
        count(Reason::AccelSetsockoptDenied);
        return DENY;
    }
    if sets_route(ctx, option) && maps::netns_entry(context::netns_cookie(ctx)).is_some() {
        count(Reason::SourceRouteDenied);
        return DENY;
    }
    context::pass_long_optval(ctx.sockopt);
    ALLOW
}

/// Whether an option may set the route of packets. Without a value it removes the route.
#[inline(always)]
fn sets_route(ctx: &SockoptContext, option: (i32, i32)) -> bool {
    let is_route = option == (SOL_IPV6, IPV6_RTHDR)
        || option == (SOL_IPV6, IPV6_2292PKTOPTIONS)
        || option == (SOL_IP, IP_OPTIONS);
    is_route && read!(ctx.sockopt, optlen) > 0
}
