//! `tc` on the virtual interfaces of a Pod, behind which other hosts are: a virtual machine, or Docker's
//! containers. Their connections go to the proxy.
//!
//! The destination of a packet becomes its alias address at the proxy, and the source of the answer
//! becomes the destination again. So the proxy finds the original destination as in a connection of the
//! application, and no state belongs to a connection.

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
    programs::TcContext,
};
use sluice_abi::{
    Endpoint, Event, NetnsEntry, PodConfig, PodCounter, REROUTE_MARK, Reason,
    decide::{self, Verdict},
};

use crate::{
    context::read,
    count::{count, count_for_pod},
    dst_alias, events, filter, maps,
    packet::{End, Ip, Segment},
};

/// Other programs of the interface and the kernel continue with the packet.
const PASS: i32 = TC_ACT_UNSPEC;
/// The packet is dropped.
const DROP: i32 = TC_ACT_SHOT;
/// The packet is for another host: the interface is promiscuous (`PACKET_OTHERHOST`).
const OTHER_HOST: u32 = 3;
/// The bits of a VLAN tag with the VLAN's number.
const VLAN: u32 = 0xfff;

/// The fate of a segment.
enum Fate {
    /// The kernel forwards it.
    Keep,
    /// It goes to the proxy at this alias address.
    ToProxy(Endpoint),
    /// It is dropped.
    Refuse,
}

/// A packet from behind the interface. A program of the interface passes the Pod's cookie and the
/// length of the link's header.
#[inline(always)]
pub(crate) fn arrive(ctx: &TcContext) -> i32 {
    if is_for_other_interface(ctx) {
        return PASS;
    }
    let Some(ip) = Ip::read(ctx, read!(ctx.skb.skb, cb[2])) else {
        return PASS;
    };
    let Some(netns) = maps::netns_entry(cookie(ctx)) else {
        return DROP;
    };
    if ip.dst.is_alias() || ip.dst.is_loopback() || ip.src.is_loopback() {
        // The interface has `route_localnet`.
        return refuse(&netns.pod);
    }
    if !ip.may_be_tcp() {
        return PASS;
    }
    let (fate, segment) = match ip.segment(ctx) {
        Some(segment) => (decide(netns, &segment), Some(segment)),
        None => (without_ports(netns, &ip), None),
    };
    match (fate, segment) {
        (Fate::ToProxy(alias), Some(segment)) if segment.rewrite(ctx, End::Destination, alias) => {
            PASS
        }
        (Fate::Keep, _) => {
            // Without the mark, the Pod's routing rule refuses the packet.
            ctx.set_mark(read!(ctx.skb.skb, mark) | REROUTE_MARK);
            PASS
        }
        _ => refuse(&netns.pod),
    }
}

/// A packet to a host behind the interface.
#[inline(always)]
pub(crate) fn leave(ctx: &TcContext) -> i32 {
    let Some(ip) = Ip::read(ctx, read!(ctx.skb.skb, cb[2])) else {
        return PASS;
    };
    if !ip.src.is_alias() {
        return PASS;
    }
    let rewritten = ip.segment(ctx).and_then(|segment| {
        let dst = dst_alias::destination(cookie(ctx), segment.src)?;
        segment.rewrite(ctx, End::Source, dst).then_some(())
    });
    if rewritten.is_some() { PASS } else { DROP }
}

/// The fate of a packet that may be a part of a segment. The ports of a fragment are in the first one.
#[inline(always)]
fn without_ports(netns: &NetnsEntry, ip: &Ip) -> Fate {
    let included = filter::includes(&netns.pod, ip.dst);
    match decide::forwarded(&netns.pod, ip.dst, included) {
        Verdict::Direct(_) => Fate::Keep,
        Verdict::ToProxy(..) | Verdict::Refused(_) => Fate::Refuse,
    }
}

#[inline(always)]
fn decide(netns: &NetnsEntry, segment: &Segment) -> Fate {
    let (pod, dst) = (&netns.pod, segment.dst);
    let included = filter::includes(pod, dst.addr);
    let verdict = decide::forwarded(pod, dst.addr, included);
    let Verdict::ToProxy(port, _) = verdict else {
        if segment.opens() {
            record(pod, segment, verdict.reason(), PodCounter::OutboundDirect);
        }
        return Fate::Keep;
    };
    if segment.opens() {
        if !netns.has_alias_route(dst.addr) {
            return Fate::Refuse;
        }
        let Some(alias) = dst_alias::allocate(pod.cookie, dst, port) else {
            return Fate::Refuse;
        };
        record(pod, segment, verdict.reason(), PodCounter::OutboundToProxy);
        return Fate::ToProxy(alias);
    }
    // An answer in a connection that another host opened goes its way, as with connection tracking: no
    // host behind the interface connects to the port of a client.
    dst_alias::existing(pod.cookie, dst, port).map_or(Fate::Keep, Fate::ToProxy)
}

/// Whether the packet belongs to another interface: a VLAN on this one, or another host's.
#[inline(always)]
fn is_for_other_interface(ctx: &TcContext) -> bool {
    let tagged = read!(ctx.skb.skb, vlan_present) != 0 && read!(ctx.skb.skb, vlan_tci) & VLAN != 0;
    tagged || read!(ctx.skb.skb, pkt_type) == OTHER_HOST
}

/// The cookie of the Pod, from the program of the interface.
#[inline(always)]
fn cookie(ctx: &TcContext) -> u64 {
    let (low, high) = (read!(ctx.skb.skb, cb[0]), read!(ctx.skb.skb, cb[1]));
    u64::from(high) << 32 | u64::from(low)
}

/// Drops a packet.
#[inline(always)]
fn refuse(pod: &PodConfig) -> i32 {
    count(Reason::ForwardedRefused);
    count_for_pod(pod.cookie, PodCounter::Refused);
    DROP
}

/// Counts a decision, and emits an event.
#[inline(always)]
fn record(pod: &PodConfig, segment: &Segment, reason: Reason, counter: PodCounter) {
    count(reason);
    count_for_pod(pod.cookie, counter);
    if events::enabled() {
        events::emit(&Event {
            cookie: pod.cookie,
            from: segment.src,
            to: segment.dst,
            reason: reason as u32,
            uid: Event::NO_UID,
            gid: Event::NO_UID,
            pad: 0,
        });
    }
}
