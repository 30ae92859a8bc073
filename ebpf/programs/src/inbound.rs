//! `sk_lookup`: a connection arrives in a meshed Pod's network namespace, and the proxy's
//! listener is given to it in place of the application's.

use aya_ebpf::{
    bindings::{
        BPF_SK_LOOKUP_F_REPLACE,
        sk_action::{SK_DROP, SK_PASS},
    },
    programs::SkLookupContext,
};
use sluice_abi::{
    Endpoint, Event, ListenerKey, Pod, PodFlags, Port, PortList, Process, Reason,
    decide::{self, Arrival, Inbound, Verdict},
};

use crate::{
    connect,
    context::{AF_INET, AF_INET6, read, read_addr},
    count::count,
    filter,
    maps::{self, LISTENERS, LOOKUP_NETNS},
    watch,
};

/// Whether the kernel tells the interface by which a connection comes (Linux 5.17). Written by the
/// daemon before the programs are loaded, as `mptcp::KNOWS_MPTCP` is.
#[unsafe(no_mangle)]
static KNOWS_INGRESS: u32 = 0;

/// `IPPROTO_TCP`.
const TCP: u32 = 6;

/// Decides about one connection. Dropping it makes the kernel answer with a reset.
///
/// The Pod is the one whose network namespace the connection enters, whatever address it asks for:
/// link-local ones, those of interfaces that no CNI result listed, and those of other Pods, too. A
/// namespace without a Pod takes nothing: the daemon writes the Pod before it attaches this program.
#[inline(always)]
pub(crate) fn steer(ctx: &SkLookupContext) -> u32 {
    if read!(ctx.lookup, protocol) != TCP {
        return SK_PASS;
    }
    let arrival = arrival(ctx);
    if arrival.is_foreign_to_meeting() {
        return SK_DROP;
    }
    if arrival.is_over_loopback() {
        return SK_PASS;
    }
    let Some(process) = LOOKUP_NETNS
        .get(0)
        .and_then(|cookie| maps::process(*cookie))
    else {
        count(Reason::InboundNoPod);
        return SK_DROP;
    };
    match decide::inbound(&process.pod, &facts(process, arrival, asked_port(ctx))) {
        Verdict::Direct(reason) => {
            tell(ctx, &process.pod, arrival, reason);
            SK_PASS
        }
        Verdict::ToProxy(_, reason) => hand_over(ctx, &process.pod, arrival, reason),
    }
}

/// Assigns the proxy's listener. Without one, the peer is refused.
#[inline(always)]
fn hand_over(ctx: &SkLookupContext, pod: &Pod, arrival: Arrival, reason: Reason) -> u32 {
    let v4 = read!(ctx.lookup, family) == u32::from(AF_INET);
    let assigned = (v4 && assign(ctx, pod.cookie, AF_INET)) || assign(ctx, pod.cookie, AF_INET6);
    if assigned {
        tell(ctx, pod, arrival, reason);
        SK_PASS
    } else {
        tell(ctx, pod, arrival, Reason::InboundNoProxy);
        SK_DROP
    }
}

#[inline(always)]
fn arrival(ctx: &SkLookupContext) -> Arrival {
    Arrival {
        from: read_addr!(ctx.lookup, remote_ip4, remote_ip6),
        to: read_addr!(ctx.lookup, local_ip4, local_ip6),
        interface: ingress(ctx),
    }
}

/// Counts a decision, and tells of it.
#[inline(always)]
fn tell(ctx: &SkLookupContext, pod: &Pod, arrival: Arrival, reason: Reason) {
    count(reason);
    if watch::is_on() {
        let peer = Port::from_be(read!(ctx.lookup, remote_port));
        watch::tell(&Event {
            cookie: pod.cookie,
            from: Endpoint::new(arrival.from, peer),
            to: Endpoint::new(arrival.to, asked_port(ctx)),
            reason: reason as u32,
            uid: Event::NOBODY,
            gid: Event::NOBODY,
            zero: 0,
        });
    }
}

/// The port that the peer asked for.
#[inline(always)]
fn asked_port(ctx: &SkLookupContext) -> Port {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a port, in host byte order"
    )]
    Port::new(read!(ctx.lookup, local_port) as u16)
}

/// What the decision depends on.
#[inline(always)]
fn facts(process: &Process, arrival: Arrival, port: Port) -> Inbound {
    let pod = &process.pod;
    Inbound {
        port,
        local: arrival.is_local(connect::owns(process, arrival.from)),
        aside: filter::sets_aside_from(pod, arrival.from, arrival.interface),
        listed: is_listed(pod, port),
    }
}

/// The index of the interface by which the connection comes; zero, which none has, if that is not
/// known.
#[inline(always)]
fn ingress(ctx: &SkLookupContext) -> u32 {
    // SAFETY: a constant of the object, which the daemon may have overwritten.
    if unsafe { (&raw const KNOWS_INGRESS).read_volatile() } == 0 {
        return 0;
    }
    read!(ctx.lookup, ingress_ifindex)
}

/// Whether the list of inbound ports that counts has this one.
#[inline(always)]
pub(crate) fn is_listed(pod: &Pod, port: Port) -> bool {
    let list = if pod.flags.has(PodFlags::INBOUND_LISTED) {
        PortList::InboundIncluded
    } else {
        PortList::InboundExcluded
    };
    filter::lists_port(pod, list, port)
}

/// Whether a connection from outside to this port of a Pod is the proxy's.
#[inline(always)]
pub(crate) fn is_steered(pod: &Pod, port: Port) -> bool {
    let from = Inbound {
        port,
        local: false,
        aside: false,
        listed: is_listed(pod, port),
    };
    matches!(decide::inbound(pod, &from), Verdict::ToProxy(..))
}

/// Gives the connection to the first listener of this family that takes it.
#[inline(always)]
fn assign(ctx: &SkLookupContext, cookie: u64, family: u16) -> bool {
    for place in 0..ListenerKey::PLACES {
        let key = ListenerKey::new(cookie, family, place);
        let flags = u64::from(BPF_SK_LOOKUP_F_REPLACE);
        if LISTENERS.redirect_sk_lookup(ctx, key, flags).is_ok() {
            return true;
        }
    }
    false
}
