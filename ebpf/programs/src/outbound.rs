//! The outbound rules for a connection or a DNS query: gathers their inputs from the context and the
//! maps, decides, and reports the decision.

use aya_ebpf::programs::SockAddrContext;
use sluice_abi::{
    Addr, Endpoint, Event, NetnsEntry, PodCounter, PodFlags, Port, Reason,
    decide::{self, DNS, ListMatch, OutboundConn, Verdict},
};

use crate::{
    before_proxy,
    context::{self, Family, read},
    count::{count, count_for_pod},
    events, filter,
    maps::DNS_CAPTURE,
    opaque_flags::{Fact, OpaqueFlags},
};

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

/// The inputs of the outbound rules.
#[inline(always)]
fn facts<F: Family>(ctx: &SockAddrContext, netns: &NetnsEntry, dst: Endpoint) -> OutboundConn {
    let (uid, gid) = context::current_uid_gid();
    let pod = &netns.pod;
    let sk = context::socket(ctx);
    let inbound_listed =
        || pod.flags.has(PodFlags::TPROXY) && filter::lists_inbound_port(pod, dst.port);
    let facts = OpaqueFlags::new(uid.into())
        .set_if(Fact::LocalAddr, filter::is_pod_addr(netns, dst.addr))
        .set_if(Fact::PortExcluded, filter::excludes_port(pod, dst.port))
        .set_if(Fact::Datagram, context::is_udp(ctx))
        .set_if(Fact::CapturesDns, captures_dns(netns, dst.port))
        .set_if(Fact::InboundListed, inbound_listed())
        .set_if(Fact::NetworkExcluded, filter::excludes(pod, dst.addr))
        .set_if(Fact::PortListed, filter::includes_port(pod, dst.port))
        .set_if(Fact::NetworkListed, filter::includes(pod, dst.addr))
        .set_if(Fact::GroupExcluded, filter::excludes_group(pod, gid))
        .set_if(Fact::BeforeProxy, before_proxy::is_open(pod))
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
        group_excluded: facts.has(Fact::GroupExcluded),
        before_proxy: facts.has(Fact::BeforeProxy),
        list_match: ListMatch {
            excluded: facts.has(Fact::NetworkExcluded),
            port: facts.has(Fact::PortListed),
            network: facts.has(Fact::NetworkListed),
        },
    }
}

/// Counts a verdict about a process in the Pod, and emits an event.
#[inline(always)]
pub(crate) fn record_verdict(netns: &NetnsEntry, dst: Endpoint, verdict: Verdict) {
    let counter = match verdict {
        Verdict::ToProxy(..) => PodCounter::OutboundToProxy,
        Verdict::Direct(_) => PodCounter::OutboundDirect,
    };
    record(netns, dst, verdict.reason(), counter);
}

/// Counts a decision about a process in the Pod, and emits an event.
#[inline(always)]
pub(crate) fn record(netns: &NetnsEntry, dst: Endpoint, reason: Reason, counter: PodCounter) {
    count(reason);
    count_for_pod(netns.pod.cookie, counter);
    if events::enabled() {
        let (uid, gid) = context::current_uid_gid();
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

/// The Pod's source address for a destination, unless that is a loopback address. The source of a
/// connection to an own IPv6 address is that address (RFC 6724, rule 1); the local routes of IPv4 use
/// the first address of a network.
#[inline(always)]
pub(crate) fn source_addr(netns: &NetnsEntry, dst: Addr) -> Option<Addr> {
    let source_addr = if !dst.is_v4() && filter::is_pod_addr(netns, dst) {
        dst
    } else {
        filter::source(&netns.pod, dst).unwrap_or_else(|| netns.addr_for(dst))
    };
    (!dst.connects_to_loopback() && !source_addr.is_unspecified()).then_some(source_addr)
}
