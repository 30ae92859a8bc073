//! `sk_lookup`: assigns inbound connections of a meshed Pod to the proxy's listener in place of the
//! application's.

use aya_ebpf::{
    bindings::{
        BPF_SK_LOOKUP_F_REPLACE,
        sk_action::{SK_DROP, SK_PASS},
    },
    programs::SkLookupContext,
};
use sluice_abi::{
    Endpoint, Event, Facts, ListenerKey, NetnsEntry, PodConfig, PodCounter, Port, Reason,
    decide::{self, Arrival, InboundConn, Verdict},
};

use crate::{
    context::{AF_INET, AF_INET6, TCP, read},
    count::{count, count_for_pod},
    endpoint::Ends,
    events, filter,
    maps::{self, LOOKUP_NETNS, PROXY_LISTENERS},
    node_conn,
};

/// Whether the kernel reports the ingress interface (Linux 5.17). The daemon sets it before it loads
/// the programs, as `mptcp::HAS_MPTCP`.
#[unsafe(no_mangle)]
static HAS_INGRESS_IFINDEX: u32 = 0;

/// Handles one connection. If it is dropped, the kernel sends a reset.
///
/// The network namespace that the connection enters identifies the Pod, whatever the destination
/// address: link-local addresses, those of interfaces that no CNI result listed, and those of other
/// Pods, too. A namespace without a Pod accepts nothing: the daemon writes the Pod before it attaches
/// this program.
#[inline(always)]
pub(crate) fn redirect(ctx: &SkLookupContext) -> u32 {
    if read!(ctx.lookup, protocol) != TCP {
        return SK_PASS;
    }
    if is_lookup_of_helper(ctx) {
        return SK_PASS;
    }
    let (peer, dst) = (Ends::remote(ctx.lookup), Ends::local(ctx.lookup));
    let arrival = Arrival {
        from: peer.addr,
        to: dst.addr,
        interface: ingress(ctx),
    };
    if arrival.is_over_loopback() {
        return SK_PASS;
    }
    let Some(netns) = LOOKUP_NETNS
        .get(0)
        .and_then(|cookie| maps::netns_entry(*cookie))
    else {
        count(Reason::InboundNoPod);
        return SK_DROP;
    };
    let is_virtual = filter::is_virtual(&netns.pod, arrival.interface);
    if dst.addr.is_alias() && is_virtual {
        // `reroute` has decided.
        return SK_PASS;
    }
    if arrival.is_foreign_to_alias() {
        return SK_DROP;
    }
    match decide::inbound(&netns.pod, &facts(netns, arrival, (peer, dst), is_virtual)) {
        Verdict::Direct(reason) => {
            count_for_pod(netns.pod.cookie, PodCounter::InboundDirect);
            record(&netns.pod, peer, dst, reason);
            SK_PASS
        }
        Verdict::ToProxy(_, reason) => hand_over(ctx, &netns.pod, (peer, dst), reason),
        // No inbound rule refuses.
        Verdict::Refused(_) => SK_DROP,
    }
}

/// Assigns the proxy's listener. Without one, the peer gets a reset.
#[inline(always)]
fn hand_over(
    ctx: &SkLookupContext,
    pod: &PodConfig,
    (peer, dst): (Endpoint, Endpoint),
    reason: Reason,
) -> u32 {
    let v4 = read!(ctx.lookup, family) == u32::from(AF_INET);
    let assigned = (v4 && assign_listener(ctx, pod.cookie, AF_INET))
        || assign_listener(ctx, pod.cookie, AF_INET6);
    if assigned {
        count_for_pod(pod.cookie, PodCounter::InboundToProxy);
        record(pod, peer, dst, reason);
        SK_PASS
    } else {
        count_for_pod(pod.cookie, PodCounter::Refused);
        record(pod, peer, dst, Reason::InboundNoProxy);
        SK_DROP
    }
}

/// Counts a decision, and emits an event.
#[inline(always)]
fn record(pod: &PodConfig, peer: Endpoint, dst: Endpoint, reason: Reason) {
    count(reason);
    if events::enabled() {
        events::emit(&Event {
            cookie: pod.cookie,
            from: peer,
            to: dst,
            reason: reason as u32,
            uid: Event::NO_UID,
            gid: Event::NO_UID,
            pad: 0,
        });
    }
}

/// The inputs of the inbound rules.
#[inline(always)]
fn facts(
    netns: &NetnsEntry,
    arrival: Arrival,
    (peer, dst): (Endpoint, Endpoint),
    is_virtual: bool,
) -> InboundConn {
    let (pod, port) = (&netns.pod, dst.port);
    let local = arrival.is_local(filter::is_pod_addr(netns, arrival.from));
    // -A PREROUTING -i INTERFACE -j RETURN
    let bypass = is_virtual || filter::bypasses_from(pod, arrival.from, arrival.interface);
    InboundConn {
        port,
        facts: Facts::opaque(pod.cookie)
            .with_opaque(Facts::LOCAL, local)
            .with_opaque(Facts::BYPASS, bypass)
            .with_opaque(Facts::FROM_NODE, node_conn::is_open(pod, peer, dst))
            .with_opaque(Facts::INBOUND_LISTED, filter::lists_inbound_port(pod, port)),
    }
}

/// Whether no packet causes this lookup, but the helper `bpf_sk_lookup_tcp` of another program or
/// `sock_diag`: only these have no interface. They ask for the listener of an address, such as Cilium for
/// the backend of a local redirect policy. Before Linux 5.17 they are answered as for a packet.
#[inline(always)]
fn is_lookup_of_helper(ctx: &SkLookupContext) -> bool {
    has_ingress() && read!(ctx.lookup, ingress_ifindex) == 0
}

/// Whether the kernel reports the ingress interface.
#[inline(always)]
fn has_ingress() -> bool {
    // SAFETY: a constant of the object, which the daemon may have overwritten.
    unsafe { (&raw const HAS_INGRESS_IFINDEX).read_volatile() != 0 }
}

/// The ingress interface index; zero, which no interface has, if it is not known.
#[inline(always)]
fn ingress(ctx: &SkLookupContext) -> u32 {
    if has_ingress() {
        read!(ctx.lookup, ingress_ifindex)
    } else {
        0
    }
}

/// Whether a connection from outside to this port of a Pod is redirected.
#[inline(always)]
pub(crate) fn would_redirect(pod: &PodConfig, port: Port) -> bool {
    let listed = filter::lists_inbound_port(pod, port);
    let facts = Facts::opaque(pod.cookie).with_opaque(Facts::INBOUND_LISTED, listed);
    let from = InboundConn { port, facts };
    matches!(decide::inbound(pod, &from), Verdict::ToProxy(..))
}

/// Assigns the connection to the first listener of this family that accepts it.
#[inline(always)]
fn assign_listener(ctx: &SkLookupContext, cookie: u64, family: u16) -> bool {
    for slot in 0..ListenerKey::SLOTS {
        let key = ListenerKey::new(cookie, family, slot);
        let flags = u64::from(BPF_SK_LOOKUP_F_REPLACE);
        if PROXY_LISTENERS.redirect_sk_lookup(ctx, key, flags).is_ok() {
            return true;
        }
    }
    false
}
