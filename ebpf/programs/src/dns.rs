//! DNS capture over UDP: redirects queries to the proxy's resolver, and restores the server's address
//! as the source of the reply.

use aya_ebpf::programs::SockAddrContext;
use sluice_abi::{Addr, Endpoint, NetnsEntry, OrigDst, Port, Reason, SockRole, decide::DNS};

use crate::{
    ALLOW, DENY,
    context::{self, Family},
    count::count,
    maps::{self, ORIGINAL_DST},
    order::Level,
    outbound, refuse,
    sk_storage::SocketStorage as _,
};

/// `sendmsg(2)` with a destination address.
#[inline(always)]
pub(crate) fn sendmsg<F: Family>(ctx: &SockAddrContext, level: Level) -> i32 {
    let source = || F::message_source(ctx.sock_addr);
    capture::<F>(ctx, Some(level), source, |netns, dst| {
        if let Some(source_addr) = outbound::source_addr(netns, dst) {
            F::set_source(ctx.sock_addr, source_addr);
        }
    })
}

/// Redirects a DNS query. A datagram to another port costs one comparison. The source is set before the
/// new destination. `level` is that of the program, unless it was tested before. `source` is the source
/// that the datagram would have.
#[inline(always)]
pub(crate) fn capture<F: Family>(
    ctx: &SockAddrContext,
    level: Option<Level>,
    source: impl FnOnce() -> Addr,
    come_from: impl FnOnce(&NetnsEntry, Addr),
) -> i32 {
    let dst = context::destination::<F>(ctx);
    if !dst.port.const_eq(DNS) {
        return ALLOW;
    }
    let Some(netns) = maps::netns_entry(context::netns_cookie(ctx)) else {
        return ALLOW;
    };
    let is_decided = || level.is_some_and(|level| level.is_decided(ctx));
    if !outbound::captures_dns(netns, dst.port) || is_decided() {
        return ALLOW;
    }
    let source = F::opaque(source(), netns.pod.cookie);
    let decision = outbound::decide(ctx, netns, (source, dst));
    let dst = Endpoint::new(F::opaque(dst.addr, netns.pod.cookie), dst.port);
    if outbound::refuses_device(context::socket(ctx), netns, dst, decision) {
        return DENY;
    }
    outbound::record_decision(netns, dst, decision);
    match decision.proxy_port() {
        Some(port) => {
            come_from(netns, dst.addr);
            redirect_query::<F>(ctx, dst, port)
        }
        None if decision.is_refused() => refuse::with_einval(),
        None => ALLOW,
    }
}

/// Redirects the datagram to the resolver. If the original server cannot be stored, the call fails.
#[inline(always)]
fn redirect_query<F: Family>(ctx: &SockAddrContext, dst: Endpoint, port: Port) -> i32 {
    let orig_dst = OrigDst {
        dst: Endpoint::new(dst.addr.connected(), dst.port),
        role: SockRole::DNS_CLIENT,
    };
    if !ORIGINAL_DST.store(context::socket(ctx), orig_dst) {
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

/// `recvmsg(2)`: shows the original server as the source of the resolver's reply.
///
/// A socket that queried several servers sees the most recent one.
#[inline(always)]
pub(crate) fn recvmsg<F: Family>(ctx: &SockAddrContext) -> i32 {
    let from = context::destination::<F>(ctx);
    if !from.addr.is_loopback() {
        return ALLOW;
    }
    let Some(orig_dst) = ORIGINAL_DST.load(context::socket(ctx)) else {
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
