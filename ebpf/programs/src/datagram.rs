//! DNS over UDP: a query goes to the proxy's resolver, and its answer seems to come from the server
//! that was asked.

use aya_ebpf::programs::SockAddrContext;
use sluice_abi::{
    Addr, End, Endpoint, Original, Port, Process, Reason,
    decide::{DNS, Verdict},
};

use crate::{
    ALLOW, DENY, connect,
    context::{self, Family, read},
    count::count,
    maps,
    order::Level,
};

/// `SOCK_DGRAM`.
const DATAGRAM: u32 = 2;
/// `IPPROTO_UDP`.
const UDP: u32 = 17;

/// Whether a socket is a UDP one.
#[inline(always)]
pub(crate) fn is_udp(ctx: &SockAddrContext) -> bool {
    read!(ctx.sock_addr, type_) == DATAGRAM && read!(ctx.sock_addr, protocol) == UDP
}

/// A datagram is sent to an address.
#[inline(always)]
pub(crate) fn send<F: Family>(ctx: &SockAddrContext, level: Level) -> i32 {
    capture::<F>(ctx, level, |process, asked| {
        if let Some(home) = connect::home(process, asked) {
            F::set_source(ctx.sock_addr, home);
        }
    })
}

/// Whatever is no query costs one comparison. `come_from` gives the query its source, before it
/// gets its new destination.
#[inline(always)]
pub(crate) fn capture<F: Family>(
    ctx: &SockAddrContext,
    level: Level,
    come_from: impl FnOnce(&Process, Addr),
) -> i32 {
    let asked = context::destination::<F>(ctx);
    if !asked.port.same(DNS) {
        return ALLOW;
    }
    let Some(process) = maps::process(context::netns_cookie(ctx)) else {
        return ALLOW;
    };
    if !connect::captures_dns(process, asked.port) || level.is_decided(ctx) {
        return ALLOW;
    }
    let verdict = connect::decide::<F>(ctx, process, asked);
    connect::tell(process, asked, verdict.reason());
    match verdict {
        Verdict::Direct(_) => ALLOW,
        Verdict::ToProxy(port, _) => {
            come_from(process, asked.addr);
            divert::<F>(ctx, asked, port)
        }
    }
}

/// Sends the datagram to the resolver. If nobody could tell the answer's source, it is refused.
#[inline(always)]
fn divert<F: Family>(ctx: &SockAddrContext, asked: Endpoint, port: Port) -> i32 {
    let original = Original {
        to: asked,
        end: End::QUERY,
    };
    if !context::remember(context::socket(ctx), original) {
        count(Reason::OutboundRefused);
        return DENY;
    }
    let resolver = if asked.addr.is_v4() {
        Addr::V4_LOOPBACK
    } else {
        Addr::V6_LOOPBACK
    };
    context::set_destination::<F>(ctx, Endpoint::new(resolver, port));
    ALLOW
}

/// A datagram was received: if it is the resolver's answer, it is shown as the asked server's.
///
/// A socket that asked several servers is shown the one that it asked last.
#[inline(always)]
pub(crate) fn receive<F: Family>(ctx: &SockAddrContext) -> i32 {
    let from = context::destination::<F>(ctx);
    if !from.addr.is_loopback() {
        return ALLOW;
    }
    let Some(original) = context::recall(context::socket(ctx)) else {
        return ALLOW;
    };
    let process = maps::process(context::netns_cookie(ctx));
    let answers = process.is_some_and(|process| process.pod.dns_port.same(from.port));
    if answers && original.end.same(End::QUERY) && F::shows(original.to.addr) {
        context::set_destination::<F>(ctx, original.to);
    }
    ALLOW
}
