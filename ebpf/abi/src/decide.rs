//! The decisions. Pure: everything they depend on is an argument.
//!
//! They follow the rules that Istio's sidecar writes into iptables, in the order of the chains;
//! the first that matches wins.

use crate::{Addr, Pod, PodFlags, Port, Reason};

/// The port of DNS servers.
pub const DNS: Port = Port::new(53);

/// What becomes of a connection, or of a DNS query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Left as it is.
    Direct(Reason),
    /// Handed to the proxy's listener at this port.
    ToProxy(Port, Reason),
}

impl Verdict {
    /// Why.
    #[must_use]
    pub const fn reason(self) -> Reason {
        match self {
            Self::Direct(reason) | Self::ToProxy(_, reason) => reason,
        }
    }
}

/// A socket in a meshed Pod that connects.
#[derive(Clone, Copy, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "facts that do not depend on each other"
)]
pub struct Outbound {
    /// The caller's user, as the initial user namespace numbers it.
    pub uid: u32,
    /// The caller's group, likewise.
    pub gid: u32,
    /// The socket's mark.
    pub mark: u32,
    /// The address that the socket is bound to, or unspecified.
    pub source: Addr,
    /// The address asked for.
    pub addr: Addr,
    /// The port asked for.
    pub port: Port,
    /// `addr` belongs to the caller's Pod.
    pub own: bool,
    /// Packets to `addr` leave by an interface that the Pod excludes, or `addr` is in a network that
    /// is left alone whatever else is listed. Only looked at with [`PodFlags::ASIDE`].
    pub aside: bool,
    /// The Pod excludes `port`.
    pub excluded: bool,
    /// The socket is a UDP one.
    pub datagram: bool,
    /// The Pod's proxy answers DNS queries.
    pub captures_dns: bool,
    /// The port is in the list of inbound ports that counts. Only looked at with
    /// [`PodFlags::TRANSPARENT`].
    pub inbound_listed: bool,
    /// The Pod's lists about networks, and about ports that are the proxy's.
    pub listed: Listed,
}

impl Outbound {
    /// A mark counts as the user does.
    const fn by_user(&self, pod: &Pod) -> bool {
        self.uid == pod.proxy_uid || pod.marks(self.mark)
    }

    const fn by_group(&self, pod: &Pod) -> bool {
        self.gid == pod.proxy_gid
    }
}

/// What the Pod's lists say of a destination. A Pod without lists includes everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The address is in an excluded network.
    pub excluded: bool,
    /// The port is the proxy's whatever the address.
    pub port: bool,
    /// The address is in a network that is the proxy's.
    pub network: bool,
}

impl Listed {
    /// What a Pod without lists says.
    pub const EVERYTHING: Self = Self {
        excluded: false,
        port: false,
        network: true,
    };
}

/// Where a TCP connection that a socket in `pod` opens goes, or a datagram to a DNS server.
#[must_use]
pub const fn outbound(pod: &Pod, to: &Outbound) -> Verdict {
    let verdict = chain(pod, to);
    // With TPROXY, what the proxy sends to its own Pod passes the inbound rules as well, unless it
    // was diverted already.
    if matches!(verdict, Verdict::Direct(_)) && is_marked(pod, to) {
        let from = Inbound {
            port: to.port,
            local: false,
            aside: false,
            listed: to.inbound_listed,
        };
        if matches!(inbound(pod, &from), Verdict::ToProxy(..)) {
            return Verdict::ToProxy(pod.inbound_port, Reason::OutboundOwnPod);
        }
    }
    verdict
}

/// Whether rules for `TPROXY` mark what the socket sends.
const fn is_marked(pod: &Pod, to: &Outbound) -> bool {
    let own = (to.own || to.addr.connects_to_loopback()) && !to.addr.is_canonical_loopback();
    let by_proxy = to.by_user(pod) || to.by_group(pod);
    pod.flags.has(PodFlags::TRANSPARENT)
        && own
        && by_proxy
        && !to.datagram
        && !to.source.is_passthrough_source()
}

/// The rows of the outbound chain, in their order.
const fn chain(pod: &Pod, to: &Outbound) -> Verdict {
    let local = to.own || to.addr.connects_to_loopback();
    if to.aside && !local {
        return Verdict::Direct(Reason::OutboundAside);
    }
    if to.excluded {
        return Verdict::Direct(Reason::OutboundPortExcluded);
    }
    let by_proxy = to.by_user(pod) || to.by_group(pod);
    if to.captures_dns && to.port.same(DNS) {
        return query(pod, to, by_proxy);
    }
    if local && let Some(verdict) = over_loopback(pod, to) {
        return verdict;
    }
    if by_proxy {
        return Verdict::Direct(Reason::OutboundByProxy);
    }
    if to.addr.is_canonical_loopback() {
        return Verdict::Direct(Reason::OutboundLocal);
    }
    by_lists(pod, to.listed)
}

/// The rows for DNS queries: a resolver on a loopback address is no exception.
const fn query(pod: &Pod, to: &Outbound, by_proxy: bool) -> Verdict {
    let local = to.own || to.addr.connects_to_loopback();
    if local && to.source.is_passthrough_source() {
        return Verdict::Direct(Reason::OutboundPassthrough);
    }
    let own_resolver = local && (to.datagram || to.addr.is_canonical_loopback());
    if own_resolver && pod.flags.has(PodFlags::OWN_RESOLVERS) {
        return Verdict::Direct(Reason::OutboundLocal);
    }
    // The exception is made for the proxy's user alone.
    let by_group = to.by_group(pod) && !to.by_user(pod) && !pod.flags.has(PodFlags::NO_HAIRPIN);
    if local && by_group && !to.datagram && !to.addr.is_canonical_loopback() {
        return Verdict::ToProxy(pod.inbound_port, Reason::OutboundOwnPod);
    }
    if by_proxy {
        return Verdict::Direct(Reason::OutboundByProxy);
    }
    Verdict::ToProxy(pod.dns_port, Reason::OutboundDns)
}

/// The rows for packets that leave over `lo`, if one of them matches. The chain goes through the
/// proxy's user before it comes to its group: what is not by the user has left it by then.
const fn over_loopback(pod: &Pod, to: &Outbound) -> Option<Verdict> {
    if to.source.is_passthrough_source() {
        return Some(Verdict::Direct(Reason::OutboundPassthrough));
    }
    let own = !pod.flags.has(PodFlags::NO_HAIRPIN) && !to.addr.is_canonical_loopback();
    if !to.by_user(pod) && !pod.flags.has(PodFlags::LOOPBACK_LISTED) {
        return Some(Verdict::Direct(Reason::OutboundLocal));
    }
    let by_proxy = to.by_user(pod) || to.by_group(pod);
    if own && by_proxy && !to.port.same(pod.tunnel_port) {
        return Some(Verdict::ToProxy(pod.inbound_port, Reason::OutboundOwnPod));
    }
    None
}

/// The rows that the Pod's own lists make.
const fn by_lists(pod: &Pod, listed: Listed) -> Verdict {
    if listed.excluded {
        Verdict::Direct(Reason::OutboundNetworkExcluded)
    } else if listed.port {
        Verdict::ToProxy(pod.outbound_port, Reason::OutboundPortListed)
    } else if listed.network {
        Verdict::ToProxy(pod.outbound_port, Reason::OutboundToProxy)
    } else {
        Verdict::Direct(Reason::OutboundNotListed)
    }
}

/// Where a TCP connection into a Pod's network namespace came from, as far as the kernel reports it.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// The peer's address, which the peer may have forged.
    pub from: Addr,
    /// The address that the peer asked for.
    pub to: Addr,
    /// The index of the interface; zero if the kernel does not report it (before Linux 5.17). For a
    /// connection from the namespace to an address of its own, the kernel reports the interface that
    /// has the address.
    pub interface: u32,
}

impl Arrival {
    /// The index of `lo` in every network namespace (`LOOPBACK_IFINDEX`).
    const LOOPBACK: u32 = 1;

    /// Whether the kernel delivers such a connection over `lo` only: no host outside the namespace can
    /// be the peer. Loopback addresses are no Pod's business at all, neither are diverted connections.
    ///
    /// Without the interface, a loopback destination is the proof: the kernel drops packets to it that
    /// arrive elsewhere, unless `route_localnet` is set.
    #[must_use]
    pub const fn is_over_loopback(&self) -> bool {
        self.interface == Self::LOOPBACK || (self.interface == 0 && self.to.is_loopback())
    }

    /// Whether the peer of this connection is in the namespace. `own` says that `from` is an address of
    /// the Pod.
    ///
    /// The kernel drops loopback sources that arrive by another interface, and its answer to an own
    /// address never leaves the namespace: nobody outside completes a handshake with one. The
    /// unspecified source is no such address: the answer to `::` may leave.
    #[must_use]
    pub const fn is_local(&self, own: bool) -> bool {
        own || self.from.same(self.to)
            || self.from.is_loopback()
            || self.from.is_passthrough_source()
    }

    /// Whether a neighbour asks for an address at which the Pod's own connections meet the proxy: the
    /// IPv6 route to these takes packets from every interface. The kernel itself drops foreign packets
    /// to `127.0.0.0/8`.
    #[must_use]
    pub const fn is_foreign_to_meeting(&self) -> bool {
        self.to.is_meeting() && !self.to.is_v4() && self.interface != Self::LOOPBACK
    }
}

/// A TCP connection that arrives in a meshed Pod.
#[derive(Clone, Copy, Debug)]
pub struct Inbound {
    /// The port that the peer asked for.
    pub port: Port,
    /// The peer is the Pod itself: the packet came over `lo`.
    pub local: bool,
    /// The packet came by an interface that the Pod excludes, or from a network that is left alone.
    pub aside: bool,
    /// `port` is in the Pod's list: of those that are the proxy's, if it has one
    /// ([`PodFlags::INBOUND_LISTED`]), or else of those that are not.
    pub listed: bool,
}

/// Where a TCP connection to `pod` goes.
#[must_use]
pub const fn inbound(pod: &Pod, from: &Inbound) -> Verdict {
    if from.local {
        return Verdict::Direct(Reason::InboundLocal);
    }
    if from.aside {
        return Verdict::Direct(Reason::InboundAside);
    }
    let only_listed = pod.flags.has(PodFlags::INBOUND_LISTED);
    let tunnel = from.port.same(pod.tunnel_port) && !pod.flags.has(PodFlags::TRANSPARENT);
    if tunnel || (from.listed && !only_listed) {
        return Verdict::Direct(Reason::InboundPortExcluded);
    }
    if only_listed && !from.listed {
        return Verdict::Direct(Reason::InboundNotListed);
    }
    Verdict::ToProxy(pod.inbound_port, Reason::InboundToProxy)
}

#[cfg(test)]
mod tests;
