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
    Addr, Endpoint, Event, ListenerKey, Pod, PodFlags, Port, PortList, Reason,
    decide::{self, Inbound, Verdict},
};

use crate::{
    context::{AF_INET, AF_INET6, read, read_addr},
    count::count,
    filter,
    maps::{self, LISTENERS},
    watch,
};

/// Whether the kernel tells the interface by which a connection comes (Linux 5.17). Written by the
/// daemon before the programs are loaded, as `mptcp::KNOWS_MPTCP` is.
#[unsafe(no_mangle)]
static KNOWS_INGRESS: u32 = 0;

/// `IPPROTO_TCP`.
const TCP: u32 = 6;
/// The index of `lo` in every network namespace (`LOOPBACK_IFINDEX`).
const LOOPBACK: u32 = 1;

/// Decides about one connection. Dropping it makes the kernel answer with a reset.
#[inline(always)]
pub(crate) fn steer(ctx: &SkLookupContext) -> u32 {
    if read!(ctx.lookup, protocol) != TCP {
        return SK_PASS;
    }
    let v4 = read!(ctx.lookup, family) == u32::from(AF_INET);
    let to = read_addr!(ctx.lookup, local_ip4, local_ip6);
    let from = read_addr!(ctx.lookup, remote_ip4, remote_ip6);
    let Some(pod) = maps::pod(to) else {
        return if is_intruder(ctx, to) {
            SK_DROP
        } else {
            SK_PASS
        };
    };
    let verdict = decide::inbound(pod, &facts(ctx, pod, to, from));
    match verdict {
        Verdict::Direct(reason) => {
            tell(ctx, pod, to, from, reason);
            SK_PASS
        }
        Verdict::ToProxy(_, reason) => {
            let assigned =
                (v4 && assign(ctx, pod.cookie, AF_INET)) || assign(ctx, pod.cookie, AF_INET6);
            let reason = if assigned {
                reason
            } else {
                Reason::InboundNoProxy
            };
            tell(ctx, pod, to, from, reason);
            if assigned { SK_PASS } else { SK_DROP }
        }
    }
}

/// Whether a neighbour knocks where the Pod meets its own proxy: the route there takes packets from
/// everywhere. The kernel itself drops foreign ones for `127.0.0.0/8`.
#[inline(always)]
fn is_intruder(ctx: &SkLookupContext, to: Addr) -> bool {
    to.is_meeting() && !to.is_v4() && ingress(ctx) != LOOPBACK
}

/// Counts a decision, and tells of it.
#[inline(always)]
fn tell(ctx: &SkLookupContext, pod: &Pod, to: Addr, from: Addr, reason: Reason) {
    count(reason);
    if watch::is_on() {
        let peer = Port::from_be(read!(ctx.lookup, remote_port));
        watch::tell(&Event {
            cookie: pod.cookie,
            from: Endpoint::new(from, peer),
            to: Endpoint::new(to, asked_port(ctx)),
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
///
/// A packet came over `lo` if its source is an address of the Pod or a loopback address: the
/// kernel drops such sources on every other interface ("martian source"), and answers to them
/// never leave the Pod. (The interface itself is in the context only since Linux 5.17.)
#[inline(always)]
fn facts(ctx: &SkLookupContext, pod: &Pod, to: Addr, from: Addr) -> Inbound {
    let port = asked_port(ctx);
    let local = from.same(to)
        || from.is_loopback()
        || from.is_passthrough_source()
        || maps::pod(from).is_some_and(|peer| peer.cookie == pod.cookie);
    Inbound {
        port,
        local,
        aside: filter::sets_aside_from(pod, from, ingress(ctx)),
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
