//! DNS capture over UDP: redirects queries to the proxy's resolver, and restores the server's address
//! as the source of the reply.

use aya_ebpf::{btf_maps::ProgramArray, programs::SockAddrContext};
use sluice_abi::{Addr, Endpoint, OrigDst, Port, Reason, SockRole, decide::DNS};

use crate::{
    ALLOW, DENY,
    context::{self, Family},
    count::count,
    decision::Decision,
    maps::{self, ORIGINAL_DST},
    order::{self, Level},
    outbound, refuse,
    sk_storage::SocketStorage as _,
};

/// `sendmsg(2)` with a destination address: a captured query continues with the program in `deciding`. A
/// datagram to another port costs one comparison.
#[inline(always)]
pub(crate) fn sendmsg<F: Family>(
    ctx: &SockAddrContext,
    level: Level,
    deciding: &ProgramArray<1>,
) -> i32 {
    let port = context::destination::<F>(ctx).port;
    if !port.const_eq(DNS) {
        return ALLOW;
    }
    match maps::netns_entry(context::netns_cookie(ctx)) {
        Some(netns) if outbound::captures_dns(netns, port) => {
            order::continue_once(ctx, level, deciding)
        }
        _ => ALLOW,
    }
}

/// Decides about one query: `sendmsg` has found that the caller's Pod captures it.
#[inline(always)]
pub(crate) fn decide<F: Family>(ctx: &SockAddrContext) -> i32 {
    let dst = context::destination::<F>(ctx);
    let Some(netns) = maps::netns_entry(context::netns_cookie(ctx)) else {
        return ALLOW;
    };
    let source = F::message_source(ctx.sock_addr);
    let dst = Endpoint::new(dst.addr.reached_from(source), dst.port);
    let (source, dst) = context::hide::<F>(netns, (source, dst));
    let decision = outbound::decide(ctx, netns, (source, dst));
    let (_, dst) = context::hide::<F>(netns, (source, dst));
    if outbound::refuses_device(context::socket(ctx), netns, dst, decision) {
        return DENY;
    }
    outbound::record_decision(netns, dst, decision);
    carry_out::<F>(ctx, dst, decision, || {
        if let Some(source_addr) = outbound::source_addr(netns, dst.addr) {
            F::set_source(ctx.sock_addr, source_addr);
        }
    })
}

/// Carries out a decision about a query. `set_source` runs before the destination changes.
#[inline(always)]
pub(crate) fn carry_out<F: Family>(
    ctx: &SockAddrContext,
    dst: Endpoint,
    decision: Decision,
    set_source: impl FnOnce(),
) -> i32 {
    match decision.proxy_port() {
        Some(port) => {
            set_source();
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
