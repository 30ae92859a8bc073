//! `connect(2)`: applies the outbound rules, stores the original destination, and redirects to the
//! proxy.

use aya_ebpf::{bindings::bpf_sock, helpers::bpf_get_current_uid_gid, programs::SockAddrContext};
use sluice_abi::{
    Addr, Endpoint, Event, NetnsEntry, OrigDst, PodCounter, PodFlags, Port, Reason,
    SockRole,
    decide::{self, DNS, ListMatch, OutboundConn, Verdict},
};

use crate::{
    ALLOW, DENY, accelerate, conn_rate,
    context::{self, Family, read},
    count::{count, count_for_pod},
    dns, dst_alias, events, filter, inbound,
    maps::{self, DNS_CAPTURE},
    mptcp,
    opaque_flags::{Fact, OpaqueFlags},
    order::Level,
    pending,
};

/// `SOCK_STREAM`.
const STREAM: u32 = 1;
/// `IPPROTO_TCP`.
const TCP: u32 = 6;

/// Handles one connect. A caller outside every meshed Pod costs one hash lookup and one array lookup
/// (for pending Pods).
#[inline(always)]
pub(crate) fn connect<F: Family>(ctx: &SockAddrContext, level: Level) -> i32 {
    if dns::is_udp(ctx) {
        return dns::capture::<F>(ctx, level, |netns, dst| {
            bind_source::<F>(ctx, netns, dst, Addr::UNSPECIFIED);
        });
    }
    if !is_tcp(ctx) {
        return ALLOW;
    }
    let cookie = context::netns_cookie(ctx);
    let Some(netns) = maps::netns_entry(cookie).or_else(|| pending::resolve::<F>(ctx, cookie))
    else {
        return ALLOW;
    };
    if level.is_decided(ctx) {
        return ALLOW;
    }
    let dst = context::destination::<F>(ctx);
    let verdict = decide::<F>(ctx, netns, dst);
    record(netns, dst, verdict);
    mark_accel_candidate(ctx, netns, dst, verdict);
    match verdict {
        Verdict::Direct(_) => {
            clear_orig_dst(context::socket(ctx));
            ALLOW
        }
        Verdict::ToProxy(port, _) => match alias_for(cookie, netns, dst, port) {
            Some(alias) => redirect_to_alias::<F>(ctx, netns, dst, alias),
            None => redirect_with_storage::<F>(ctx, netns, dst, port),
        },
    }
}

/// Counts a decision about a process in the Pod, and emits an event.
#[inline(always)]
pub(crate) fn record(netns: &NetnsEntry, dst: Endpoint, verdict: Verdict) {
    let reason = verdict.reason();
    count(reason);
    let counter = match verdict {
        Verdict::ToProxy(..) => PodCounter::OutboundToProxy,
        Verdict::Direct(_) => PodCounter::OutboundDirect,
    };
    count_for_pod(netns.pod.cookie, counter);
    if events::enabled() {
        let (uid, gid) = current_uid_gid();
        events::emit(&Event {
            cookie: netns.pod.cookie,
            from: Endpoint::new(netns.addr_for(dst.addr), Port::new(0)),
            to: dst,
            reason: reason as u32,
            uid,
            gid,
            pad: 0,
        });
    }
}

/// Clears stale storage from an earlier `connect(2)`. Only then can the MPTCP connection above have
/// some, too; this lookup is cheaper than that one.
#[inline(always)]
fn clear_orig_dst(sk: *mut bpf_sock) {
    if context::orig_dst(sk).is_none() {
        return;
    }
    context::clear_orig_dst(sk);
    let connection = mptcp::connection(sk);
    if !connection.is_null() {
        context::clear_orig_dst(connection);
    }
}

/// Marks a connection for acceleration if the Pod enables it and one or both ends will be proxies.
#[inline(always)]
fn mark_accel_candidate(
    ctx: &SockAddrContext,
    netns: &NetnsEntry,
    dst: Endpoint,
    verdict: Verdict,
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
    let shared = match verdict.reason() {
        // Within the Pod: application and proxy.
        Reason::OutboundToProxy | Reason::OutboundPortListed | Reason::OutboundPassthrough
            if flags.has(PodFlags::ACCELERATE_ALL) && !accelerate::netns_splices(own) =>
        {
            Some(own)
        }
        // Between Pods: this proxy, and the one that will accept.
        Reason::OutboundByProxy if is_accelerated(dst.addr) => Some(0),
        _ => None,
    };
    match shared {
        Some(cookie) if conn_rate::within_limit(own, dst) => accelerate::mark_candidate(sk, cookie),
        _ => accelerate::clear_candidate(sk),
    }
}

/// Whether an address belongs to a Pod of this node with acceleration enabled.
#[inline(always)]
fn is_accelerated(addr: Addr) -> bool {
    maps::pod(addr).is_some_and(|pod| pod.flags.has(PodFlags::ACCELERATE_PROXIES))
}

/// Whether a socket uses TCP, also as the first subflow of an MPTCP connection.
#[inline(always)]
fn is_tcp(ctx: &SockAddrContext) -> bool {
    read!(ctx.sock_addr, type_) == STREAM && read!(ctx.sock_addr, protocol) == TCP
}

/// The verdict for a socket's connection, or for its datagram to a DNS server.
#[inline(always)]
pub(crate) fn decide<F: Family>(
    ctx: &SockAddrContext,
    netns: &NetnsEntry,
    dst: Endpoint,
) -> Verdict {
    decide::outbound(&netns.pod, &facts::<F>(ctx, netns, dst))
}

/// Whether the Pod's proxy answers queries to this port.
#[inline(always)]
pub(crate) fn captures_dns(netns: &NetnsEntry, port: Port) -> bool {
    port.const_eq(DNS) && DNS_CAPTURE.get_ptr(netns.pod.cookie).is_some()
}

/// UID and GID of the calling process in the initial user namespace.
#[inline(always)]
pub(crate) fn current_uid_gid() -> (u32, u32) {
    let owner = bpf_get_current_uid_gid();
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the helper packs gid << 32 | uid"
    )]
    let (uid, gid) = (owner as u32, (owner >> 32) as u32);
    (uid, gid)
}

/// The inputs of the outbound rules.
#[inline(always)]
fn facts<F: Family>(ctx: &SockAddrContext, netns: &NetnsEntry, dst: Endpoint) -> OutboundConn {
    let (uid, gid) = current_uid_gid();
    let pod = &netns.pod;
    let sk = context::socket(ctx);
    let inbound_listed = || pod.flags.has(PodFlags::TPROXY) && inbound::is_listed(pod, dst.port);
    let facts = OpaqueFlags::new(uid.into())
        .set_if(Fact::LocalAddr, is_pod_addr(netns, dst.addr))
        .set_if(Fact::PortExcluded, filter::excludes_port(pod, dst.port))
        .set_if(Fact::Datagram, dns::is_udp(ctx))
        .set_if(Fact::CapturesDns, captures_dns(netns, dst.port))
        .set_if(Fact::InboundListed, inbound_listed())
        .set_if(Fact::NetworkExcluded, filter::excludes(pod, dst.addr))
        .set_if(Fact::PortListed, filter::includes_port(pod, dst.port))
        .set_if(Fact::NetworkListed, filter::includes(pod, dst.addr))
        .set_if(
            Fact::Bypass,
            filter::bypasses_to(pod, dst.addr, read!(sk, bound_dev_if)),
        );
    OutboundConn {
        uid,
        gid,
        mark: read!(sk, mark),
        source: F::source(sk),
        addr: dst.addr,
        port: dst.port,
        is_local_addr: facts.has(Fact::LocalAddr),
        bypass: facts.has(Fact::Bypass),
        excluded: facts.has(Fact::PortExcluded),
        datagram: facts.has(Fact::Datagram),
        captures_dns: facts.has(Fact::CapturesDns),
        inbound_listed: facts.has(Fact::InboundListed),
        list_match: ListMatch {
            excluded: facts.has(Fact::NetworkExcluded),
            port: facts.has(Fact::PortListed),
            network: facts.has(Fact::NetworkListed),
        },
    }
}

/// Whether an address belongs to the Pod.
#[inline(always)]
pub(crate) fn is_pod_addr(netns: &NetnsEntry, addr: Addr) -> bool {
    if netns.owns(addr) {
        return true;
    }
    netns.pod.flags.has(PodFlags::HAS_EXTRA_ADDRS)
        && maps::pod(addr).is_some_and(|pod| pod.cookie == netns.pod.cookie)
}

/// Returns the alias address for this destination, if one can be allocated.
///
/// Hairpin connections and DNS queries use one loopback address. Connections to a loopback destination
/// have a loopback source, but the alias route has another preferred source. Without that route, IPv6
/// alias addresses are unreachable.
#[inline(always)]
fn alias_for(cookie: u64, netns: &NetnsEntry, dst: Endpoint, port: Port) -> Option<Endpoint> {
    let pod = &netns.pod;
    if !port.const_eq(pod.outbound_port)
        || pod.flags.has(PodFlags::PROXY_ON_LOCALHOST_ONLY)
        || dst.addr.connects_to_loopback()
        || !(dst.addr.is_v4() || netns.has_alias_route(dst.addr))
    {
        return None;
    }
    let alias = dst_alias::allocate(cookie, dst, port);
    if alias.is_none() {
        count(Reason::OutboundNoAlias);
    }
    alias
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
        dst,
        role: SockRole::CLIENT,
    };
    if !context::set_orig_dst(sk, orig_dst) {
        count(Reason::OutboundOrigDstStoreFailed);
        return DENY;
    }
    // `getpeername` on an MPTCP socket sees the MPTCP connection.
    let _is_no_subflow = context::set_orig_dst(mptcp::connection(sk), orig_dst);
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
        && let Some(source_addr) = source_addr(netns, dst)
        && !source_addr.const_eq(routed)
    {
        let _keeps_its_route = F::bind(ctx.sock_addr, source_addr);
    }
}

/// The Pod's source address for a destination, unless that is a loopback address. The source of a
/// connection to an own IPv6 address is that address (RFC 6724, rule 1); the local routes of IPv4 use
/// the first address of a network.
#[inline(always)]
pub(crate) fn source_addr(netns: &NetnsEntry, dst: Addr) -> Option<Addr> {
    let source_addr = if !dst.is_v4() && is_pod_addr(netns, dst) {
        dst
    } else {
        filter::source(&netns.pod, dst).unwrap_or_else(|| netns.addr_for(dst))
    };
    (!dst.connects_to_loopback() && !source_addr.is_unspecified()).then_some(source_addr)
}
