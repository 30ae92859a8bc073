//! `connect(2)`: applies the outbound rules, stores the original destination, and redirects to the
//! proxy.

use aya_ebpf::{bindings::bpf_sock, programs::SockAddrContext};
use sluice_abi::{
    Addr, Endpoint, NetnsEntry, OrigDst, PodConfig, PodCounter, PodFlags, Port, Reason, SockRole,
    SourceVerdict, decide::DNS,
};

use crate::{
    ALLOW, DENY, accelerate, before_proxy, conn_rate,
    context::{self, Family},
    count::count,
    decision::Decision,
    dns, dst_alias, filter,
    maps::{self, FOREIGN_LISTENERS, ORIGINAL_DST},
    mptcp, original_source, outbound, pending, refuse,
    sk_storage::SocketStorage as _,
};

/// Decides about one connect. A caller outside every meshed Pod costs one hash lookup and one array
/// lookup (for pending Pods); a UDP socket that connects to another port than DNS costs a comparison.
#[inline(always)]
pub(crate) fn connect<F: Family>(ctx: &SockAddrContext) -> i32 {
    let datagram = context::is_udp(ctx);
    if !datagram && !context::is_tcp(ctx) {
        return ALLOW;
    }
    let dst = context::destination::<F>(ctx);
    if datagram && !dst.port.const_eq(DNS) {
        return ALLOW;
    }
    let cookie = context::netns_cookie(ctx);
    let resolve_pending = || (!datagram).then(|| pending::resolve::<F>(ctx, cookie))?;
    let Some(netns) = maps::netns_entry(cookie).or_else(resolve_pending) else {
        return ALLOW;
    };
    let source = F::source(context::socket(ctx));
    let dst = Endpoint::new(dst.addr.reached_from(source), dst.port);
    let (source, dst) = context::hide::<F>(netns, (source, dst));
    if datagram {
        if !outbound::captures_dns(netns, dst.port) {
            return ALLOW;
        }
    } else if let Some(verdict) = original_source::decide::<F>(ctx, netns, dst) {
        return keep_source(ctx, netns, dst, verdict);
    }
    let (source, dst) = context::hide::<F>(netns, (source, dst));
    let decision = outbound::decide(ctx, netns, (source, dst));
    let (source, dst) = context::hide::<F>(netns, (source, dst));
    if would_loop(&netns.pod, decision) {
        outbound::record(netns, dst, Reason::OutboundLoop, PodCounter::Refused);
        return DENY;
    }
    if outbound::refuses_device(context::socket(ctx), netns, dst, decision) {
        return DENY;
    }
    if decision.is_by(Reason::OutboundBeforeProxy) {
        before_proxy::count(cookie);
    }
    outbound::record_decision(netns, dst, decision);
    let (source, dst) = context::hide::<F>(netns, (source, dst));
    // Read again: the verifier would know `datagram`, and explore every stage for each kind of socket.
    if context::is_udp(ctx) {
        return dns::carry_out::<F>(ctx, dst, decision, || {
            bind_source::<F>(ctx, netns, dst.addr, Addr::UNSPECIFIED);
        });
    }
    mark_accel_candidate(ctx, netns, dst, decision);
    carry_out::<F>(ctx, cookie, netns, (source, dst), decision)
}

/// Carries out a decision. `cookie`: the caller's netns, also while its Pod has a provisional cookie.
#[inline(always)]
fn carry_out<F: Family>(
    ctx: &SockAddrContext,
    cookie: u64,
    netns: &NetnsEntry,
    (source, dst): (Addr, Endpoint),
    decision: Decision,
) -> i32 {
    if decision.is_refused() {
        return refuse::with_einval();
    }
    let Some(port) = decision.proxy_port() else {
        clear_orig_dst(context::socket(ctx));
        return ALLOW;
    };
    match alias_for(cookie, netns, (source, dst), port) {
        Some(alias) => redirect_to_alias::<F>(ctx, netns, dst, alias),
        None => redirect_with_storage::<F>(ctx, netns, dst, port),
    }
}

/// Carries out a decision about the proxy's connection to its own Pod. If the kernel does not route the
/// socket over `lo`, the connection is refused.
#[inline(always)]
fn keep_source(
    ctx: &SockAddrContext,
    netns: &NetnsEntry,
    dst: Endpoint,
    verdict: SourceVerdict,
) -> i32 {
    let pod = &netns.pod;
    if verdict == SourceVerdict::Refuse || !original_source::pin_to_loopback(ctx, pod.source_mark) {
        outbound::record(netns, dst, Reason::OutboundLoop, PodCounter::Refused);
        return DENY;
    }
    outbound::record(
        netns,
        dst,
        Reason::OutboundOriginalSource,
        PodCounter::OutboundDirect,
    );
    let sk = context::socket(ctx);
    clear_orig_dst(sk);
    if pod.flags.has(PodFlags::ACCELERATE_PROXIES) {
        accelerate::clear_candidate(sk);
    }
    ALLOW
}

/// Whether the caller itself listens on the proxy's outbound port, as a user that is not the proxy's:
/// its connection would return to it, again and again. A Pod without such a listener costs no lookup.
#[inline(always)]
fn would_loop(pod: &PodConfig, decision: Decision) -> bool {
    let Some(port) = decision.proxy_port() else {
        return false;
    };
    if !pod.flags.has(PodFlags::FOREIGN_LISTENER) || !port.const_eq(pod.outbound_port) {
        return false;
    }
    // SAFETY: the value is copied at once.
    let listener = unsafe { FOREIGN_LISTENERS.get(pod.cookie) }.copied();
    listener == Some(context::current_uid_gid().0)
}

/// Clears stale storage from an earlier `connect(2)`. Only then can the MPTCP connection above have
/// some, too; this lookup is cheaper than that one.
#[inline(always)]
fn clear_orig_dst(sk: *mut bpf_sock) {
    if ORIGINAL_DST.load(sk).is_none() {
        return;
    }
    ORIGINAL_DST.remove(sk);
    let connection = mptcp::connection(sk);
    if !connection.is_null() {
        ORIGINAL_DST.remove(connection);
    }
}

/// Marks a connection for acceleration if the Pod enables it and one or both ends will be proxies.
#[inline(always)]
fn mark_accel_candidate(
    ctx: &SockAddrContext,
    netns: &NetnsEntry,
    dst: Endpoint,
    decision: Decision,
) {
    let flags = netns.pod.flags;
    if !flags.has(PodFlags::ACCELERATE_PROXIES) {
        return;
    }
    let sk = context::socket(ctx);
    if !mptcp::connection(sk).is_null() {
        // MPTCP: its bytes have two sequence numbers, and a sockhash uses one of them.
        return;
    }
    let own = netns.pod.cookie;
    let within_pod = decision.is_by(Reason::OutboundToProxy)
        || decision.is_by(Reason::OutboundPortListed)
        || decision.is_by(Reason::OutboundPassthrough);
    let shared = if within_pod {
        // Application and proxy.
        let accelerates = flags.has(PodFlags::ACCELERATE_ALL) && !accelerate::netns_splices(own);
        accelerates.then_some(own)
    } else if decision.is_by(Reason::OutboundByProxy) && is_accelerated(dst.addr) {
        // This proxy, and the one of another Pod that will accept.
        Some(0)
    } else {
        None
    };
    // As the connection's end counts it.
    let to = Endpoint::new(dst.addr.connected(), dst.port);
    match shared {
        Some(cookie) if conn_rate::within_limit(own, to) => accelerate::mark_candidate(sk, cookie),
        _ => accelerate::clear_candidate(sk),
    }
}

/// Whether an address belongs to a Pod of this node with acceleration enabled.
#[inline(always)]
fn is_accelerated(addr: Addr) -> bool {
    maps::pod(addr).is_some_and(|pod| pod.flags.has(PodFlags::ACCELERATE_PROXIES))
}

/// Returns the alias address for this destination, if one can be allocated.
///
/// Hairpin connections and DNS queries use one loopback address. Connections to a loopback destination
/// have a loopback source, but the alias route has another preferred source. Without that route, IPv6
/// alias addresses are unreachable.
///
/// The proxy answers the source. If that is an address of another host (`IPV6_FREEBIND`), the host could
/// complete the handshake with an IPv6 alias address. The kernel drops its packets to `::1`.
#[inline(always)]
fn alias_for(
    cookie: u64,
    netns: &NetnsEntry,
    (source, dst): (Addr, Endpoint),
    port: Port,
) -> Option<Endpoint> {
    let pod = &netns.pod;
    if !port.const_eq(pod.outbound_port)
        || pod.flags.has(PodFlags::PROXY_ON_LOCALHOST_ONLY)
        || dst.addr.connects_to_loopback()
        || !(dst.addr.is_v4() || (netns.has_alias_route(dst.addr) && is_own(netns, source)))
    {
        return None;
    }
    let alias = dst_alias::allocate(cookie, dst, port);
    if alias.is_none() {
        count(Reason::OutboundNoAlias);
    }
    alias
}

/// Whether a socket has no source yet, or an address of the Pod or of `lo`.
#[inline(always)]
fn is_own(netns: &NetnsEntry, source: Addr) -> bool {
    source.connects_to_loopback()
        || source.is_passthrough_source()
        || filter::is_pod_addr(netns, source)
}

/// Redirects the connection to its alias address at the proxy.
#[inline(always)]
fn redirect_to_alias<F: Family>(
    ctx: &SockAddrContext,
    netns: &NetnsEntry,
    dst: Endpoint,
    alias: Endpoint,
) -> i32 {
    clear_orig_dst(context::socket(ctx));
    let routed = if netns.has_alias_route(dst.addr) {
        netns.addr_for(dst.addr)
    } else {
        Addr::UNSPECIFIED
    };
    bind_source::<F>(ctx, netns, dst.addr, routed);
    context::set_destination::<F>(ctx, alias);
    ALLOW
}

/// Redirects the connection to the proxy at `port`, and stores the destination in the socket. If that
/// fails, the connect fails, because the proxy could not find the destination.
#[inline(always)]
fn redirect_with_storage<F: Family>(
    ctx: &SockAddrContext,
    netns: &NetnsEntry,
    dst: Endpoint,
    port: Port,
) -> i32 {
    let sk = context::socket(ctx);
    let orig_dst = OrigDst {
        dst: Endpoint::new(dst.addr.connected(), dst.port),
        role: SockRole::CLIENT,
    };
    if !ORIGINAL_DST.store(sk, orig_dst) {
        count(Reason::OutboundOrigDstStoreFailed);
        return DENY;
    }
    // `getpeername` on an MPTCP socket sees the MPTCP connection.
    let _is_no_subflow = ORIGINAL_DST.store(mptcp::connection(sk), orig_dst);
    bind_source::<F>(ctx, netns, dst.addr, Addr::UNSPECIFIED);
    // Hairpin connections arrive where iptables' REDIRECT would send them: Istio's validation listens
    // at 127.0.0.1 only and connects to 127.0.0.6 before the Pod starts.
    let single = netns.pod.flags.has(PodFlags::PROXY_ON_LOCALHOST_ONLY)
        || port.const_eq(netns.pod.dns_port)
        || port.const_eq(netns.pod.inbound_port);
    let loopback = if single && dst.addr.is_v4() {
        Addr::V4_LOOPBACK
    } else {
        dst.addr.proxy_loopback(dst.port)
    };
    context::set_destination::<F>(ctx, Endpoint::new(loopback, port));
    ALLOW
}

/// Under iptables the proxy sees the preferred source of the route to the destination: a Pod IP. The
/// route to the proxy selects `routed`, or a loopback address if that is unspecified; any other source
/// needs a bind, which is expensive.
#[inline(always)]
fn bind_source<F: Family>(ctx: &SockAddrContext, netns: &NetnsEntry, dst: Addr, routed: Addr) {
    if F::source(context::socket(ctx)).is_unspecified()
        && let Some(source_addr) = outbound::source_addr(netns, dst)
        && !source_addr.const_eq(routed)
    {
        let _keeps_its_route = F::bind(ctx.sock_addr, source_addr);
    }
}
