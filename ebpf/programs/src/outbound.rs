//! The outbound rules for a connection or a DNS query: gathers their inputs from the context and the
//! maps, decides, and reports the decision.

use aya_ebpf::{bindings::bpf_sock, programs::SockAddrContext};
use sluice_abi::{
    Addr, Endpoint, Event, Facts, NetnsEntry, PodCounter, PodFlags, Port, Reason,
    decide::{self, DNS, OutboundConn},
};

use crate::{
    before_proxy,
    context::{self, read},
    count::{count_for_pod, count_number},
    decision::Decision,
    device, events, filter,
    maps::DNS_CAPTURE,
    owner,
};

/// The decision on a socket's connection, or for its datagram to a DNS server. `src` is the address that
/// the socket is bound to, or the source of the datagram.
#[inline(always)]
pub(crate) fn decide(
    ctx: &SockAddrContext,
    netns: &NetnsEntry,
    (src, dst): (Addr, Endpoint),
) -> Decision {
    let verdict = decide::outbound(&netns.pod, &facts(ctx, netns, (src, dst)));
    Decision::new(verdict, netns.pod.cookie)
}

/// Whether the Pod's proxy answers queries to this port.
#[inline(always)]
pub(crate) fn captures_dns(netns: &NetnsEntry, port: Port) -> bool {
    port.const_eq(DNS) && DNS_CAPTURE.get_ptr(netns.pod.cookie).is_some()
}

/// The inputs of the outbound rules.
#[inline(always)]
fn facts(ctx: &SockAddrContext, netns: &NetnsEntry, (src, dst): (Addr, Endpoint)) -> OutboundConn {
    let pod = &netns.pod;
    let sk = context::socket(ctx);
    let (uid, gid) = owner::judged(sk, |uid, gid| {
        pod.is_proxy_owner(uid, gid) || filter::excludes_group(pod, gid)
    });
    let inbound_listed =
        || pod.flags.has(PodFlags::TPROXY) && filter::lists_inbound_port(pod, dst.port);
    let facts = Facts::opaque(pod.cookie)
        .with_opaque(Facts::LOCAL, filter::is_pod_addr(netns, dst.addr))
        .with_opaque(Facts::PORT_EXCLUDED, filter::excludes_port(pod, dst.port))
        .with_opaque(Facts::DATAGRAM, context::is_udp(ctx))
        .with_opaque(Facts::CAPTURES_DNS, captures_dns(netns, dst.port))
        .with_opaque(Facts::INBOUND_LISTED, inbound_listed())
        .with_opaque(Facts::CIDR_EXCLUDED, filter::excludes(pod, dst.addr))
        .with_opaque(Facts::PORT_INCLUDED, filter::includes_port(pod, dst.port))
        .with_opaque(Facts::CIDR_INCLUDED, filter::includes(pod, dst.addr))
        .with_opaque(Facts::GROUP_EXCLUDED, filter::excludes_group(pod, gid))
        .with_opaque(Facts::BEFORE_PROXY, before_proxy::is_open(pod))
        .with_opaque(
            Facts::BYPASS,
            filter::bypasses_to(pod, dst.addr, read!(sk, bound_dev_if)),
        );
    OutboundConn {
        uid,
        gid,
        mark: read!(sk, mark),
        src,
        dst,
        facts,
    }
}

/// Refuses the redirection of a socket that is bound to a device, and counts it.
#[inline(always)]
pub(crate) fn refuses_device(
    sk: *const bpf_sock,
    netns: &NetnsEntry,
    dst: Endpoint,
    decision: Decision,
) -> bool {
    let refuses = decision.proxy_port().is_some() && device::is_bound(sk);
    if refuses {
        record(netns, dst, Reason::OutboundDevice, PodCounter::Refused);
    }
    refuses
}

/// Counts a decision about a process in the Pod by its rule, and emits an event.
#[inline(always)]
pub(crate) fn record_decision(netns: &NetnsEntry, dst: Endpoint, decision: Decision) {
    record_number(netns, dst, decision.reason(), decision.counter());
}

/// Counts a decision about a process in the Pod, and emits an event.
#[inline(always)]
pub(crate) fn record(netns: &NetnsEntry, dst: Endpoint, reason: Reason, counter: PodCounter) {
    record_number(netns, dst, reason as u32, counter);
}

#[inline(always)]
fn record_number(netns: &NetnsEntry, dst: Endpoint, reason: u32, counter: PodCounter) {
    count_number(reason);
    count_for_pod(netns.pod.cookie, counter);
    if events::enabled() {
        let (uid, gid) = context::current_uid_gid();
        events::emit(&Event {
            cookie: netns.pod.cookie,
            from: Endpoint::new(netns.addr_for(dst.addr), Port::new(0)),
            to: dst,
            reason,
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
