//! DNS over UDP: a query goes to the proxy's resolver, and its answer seems to come from the server
//! that was asked.

use aya_ebpf::programs::SockAddrContext;
use sluice_abi::{
    Addr, Endpoint, NetnsEntry, OrigDst, Port, Reason, SockRole,
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
pub(crate) fn sendmsg<F: Family>(ctx: &SockAddrContext, level: Level) -> i32 {
    capture::<F>(ctx, level, |netns, dst| {
        if let Some(source_addr) = connect::source_addr(netns, dst) {
            F::set_source(ctx.sock_addr, source_addr);
        }
    })
}

/// Whatever is no query costs one comparison. `come_from` gives the query its source, before it
/// gets its new destination.
#[inline(always)]
pub(crate) fn capture<F: Family>(
    ctx: &SockAddrContext,
    level: Level,
    come_from: impl FnOnce(&NetnsEntry, Addr),
) -> i32 {
    let dst = context::destination::<F>(ctx);
    if !dst.port.const_eq(DNS) {
        return ALLOW;
    }
    let Some(netns) = maps::netns_entry(context::netns_cookie(ctx)) else {
        return ALLOW;
    };
    if !connect::captures_dns(netns, dst.port) || level.is_decided(ctx) {
        return ALLOW;
    }
    let verdict = connect::decide::<F>(ctx, netns, dst);
    connect::record(netns, dst, verdict.reason());
    match verdict {
        Verdict::Direct(_) => ALLOW,
        Verdict::ToProxy(port, _) => {
            come_from(netns, dst.addr);
            redirect_query::<F>(ctx, dst, port)
        }
    }
}

/// Sends the datagram to the resolver. If nobody could tell the answer's source, it is refused.
#[inline(always)]
fn redirect_query<F: Family>(ctx: &SockAddrContext, dst: Endpoint, port: Port) -> i32 {
    let orig_dst = OrigDst {
        dst,
        role: SockRole::DNS_CLIENT,
    };
    if !context::set_orig_dst(context::socket(ctx), orig_dst) {
        count(Reason::OutboundOrigDstStoreFailed);
        return DENY;
    }
    let resolver = if dst.addr.is_v4() {
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
pub(crate) fn recvmsg<F: Family>(ctx: &SockAddrContext) -> i32 {
    let from = context::destination::<F>(ctx);
    if !from.addr.is_loopback() {
        return ALLOW;
    }
    let Some(orig_dst) = context::orig_dst(context::socket(ctx)) else {
        return ALLOW;
    };
    let netns = maps::netns_entry(context::netns_cookie(ctx));
    let answers = netns.is_some_and(|netns| netns.pod.dns_port.const_eq(from.port));
    if answers
        && orig_dst.role.const_eq(SockRole::DNS_CLIENT)
        && F::can_represent(orig_dst.dst.addr)
    {
        context::set_destination::<F>(ctx, orig_dst.dst);
    }
    ALLOW
}
