//! The decisions. Pure: everything they depend on is an argument.
//!
//! They follow the rules that Istio's sidecar writes into iptables, in the order of the chains;
//! the first that matches wins.

use crate::{Addr, PodConfig, PodFlags, Port, Reason};

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
pub struct OutboundConn {
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
    pub is_local_addr: bool,
    /// Packets to `addr` leave by an interface that the Pod excludes, or `addr` is in a network that
    /// is left alone whatever else is listed. Only looked at with [`PodFlags::BYPASS`].
    pub bypass: bool,
    /// The Pod excludes `port`.
    pub excluded: bool,
    /// The socket is a UDP one.
    pub datagram: bool,
    /// The Pod's proxy answers DNS queries.
    pub captures_dns: bool,
    /// The port is in the list of inbound ports that counts. Only looked at with
    /// [`PodFlags::TPROXY`].
    pub inbound_listed: bool,
    /// The Pod's lists about networks, and about ports that are the proxy's.
    pub list_match: ListMatch,
}

impl OutboundConn {
    /// A mark counts as the user does.
    const fn by_user(&self, pod: &PodConfig) -> bool {
        self.uid == pod.proxy_uid || pod.mark_matches(self.mark)
    }

    const fn by_group(&self, pod: &PodConfig) -> bool {
        self.gid == pod.proxy_gid
    }
}

/// What the Pod's lists say of a destination. A Pod without lists includes everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListMatch {
    /// The address is in an excluded network.
    pub excluded: bool,
    /// The port is the proxy's whatever the address.
    pub port: bool,
    /// The address is in a network that is the proxy's.
    pub network: bool,
}

impl ListMatch {
    /// What a Pod without lists says.
    pub const NO_LISTS: Self = Self {
        excluded: false,
        port: false,
        network: true,
    };
}

/// Where a TCP connection that a socket in `pod` opens goes, or a datagram to a DNS server.
#[must_use]
pub const fn outbound(pod: &PodConfig, to: &OutboundConn) -> Verdict {
    let verdict = output_chain(pod, to);
    // With TPROXY, what the proxy sends to its own Pod passes the inbound rules as well, unless it
    // was diverted already.
    if matches!(verdict, Verdict::Direct(_)) && tproxy_mark(pod, to) {
        let from = InboundConn {
            port: to.port,
            local: false,
            bypass: false,
            listed: to.inbound_listed,
        };
        if matches!(inbound(pod, &from), Verdict::ToProxy(..)) {
            return Verdict::ToProxy(pod.inbound_port, Reason::OutboundHairpin);
        }
    }
    verdict
}

/// Whether rules for `TPROXY` mark what the socket sends.
const fn tproxy_mark(pod: &PodConfig, to: &OutboundConn) -> bool {
    let own =
        (to.is_local_addr || to.addr.connects_to_loopback()) && !to.addr.is_canonical_loopback();
    let by_proxy = to.by_user(pod) || to.by_group(pod);
    pod.flags.has(PodFlags::TPROXY)
        && own
        && by_proxy
        && !to.datagram
        && !to.source.is_passthrough_source()
}

/// The rows of the outbound chain, in their order.
const fn output_chain(pod: &PodConfig, to: &OutboundConn) -> Verdict {
    let local = to.is_local_addr || to.addr.connects_to_loopback();
    if to.bypass && !local {
        return Verdict::Direct(Reason::OutboundBypass);
    }
    if to.excluded {
        return Verdict::Direct(Reason::OutboundPortExcluded);
    }
    let by_proxy = to.by_user(pod) || to.by_group(pod);
    if to.captures_dns && to.port.const_eq(DNS) {
        return dns_rules(pod, to, by_proxy);
    }
    if local && let Some(verdict) = loopback_rules(pod, to) {
        return verdict;
    }
    if by_proxy {
        return Verdict::Direct(Reason::OutboundByProxy);
    }
    if to.addr.is_canonical_loopback() {
        return Verdict::Direct(Reason::OutboundLocal);
    }
    list_rules(pod, to.list_match)
}

/// The rows for DNS queries: a resolver on a loopback address is no exception.
const fn dns_rules(pod: &PodConfig, to: &OutboundConn, by_proxy: bool) -> Verdict {
    let local = to.is_local_addr || to.addr.connects_to_loopback();
    if local && to.source.is_passthrough_source() {
        return Verdict::Direct(Reason::OutboundPassthrough);
    }
    let local_resolver = local && (to.datagram || to.addr.is_canonical_loopback());
    if local_resolver && pod.flags.has(PodFlags::BYPASS_LOCAL_DNS) {
        return Verdict::Direct(Reason::OutboundLocal);
    }
    // The exception is made for the proxy's user alone.
    let by_group = to.by_group(pod) && !to.by_user(pod) && !pod.flags.has(PodFlags::NO_HAIRPIN);
    if local && by_group && !to.datagram && !to.addr.is_canonical_loopback() {
        return Verdict::ToProxy(pod.inbound_port, Reason::OutboundHairpin);
    }
    if by_proxy {
        return Verdict::Direct(Reason::OutboundByProxy);
    }
    Verdict::ToProxy(pod.dns_port, Reason::OutboundDns)
}

/// The rows for packets that leave over `lo`, if one of them matches. The chain goes through the
/// proxy's user before it comes to its group: what is not by the user has left it by then.
const fn loopback_rules(pod: &PodConfig, to: &OutboundConn) -> Option<Verdict> {
    if to.source.is_passthrough_source() {
        return Some(Verdict::Direct(Reason::OutboundPassthrough));
    }
    let own = !pod.flags.has(PodFlags::NO_HAIRPIN) && !to.addr.is_canonical_loopback();
    if !to.by_user(pod) && !pod.flags.has(PodFlags::LOOPBACK_INCLUDED) {
        return Some(Verdict::Direct(Reason::OutboundLocal));
    }
    let by_proxy = to.by_user(pod) || to.by_group(pod);
    if own && by_proxy && !to.port.const_eq(pod.hbone_port) {
        return Some(Verdict::ToProxy(pod.inbound_port, Reason::OutboundHairpin));
    }
    None
}

/// The rows that the Pod's own lists make.
const fn list_rules(pod: &PodConfig, list_match: ListMatch) -> Verdict {
    if list_match.excluded {
        Verdict::Direct(Reason::OutboundNetworkExcluded)
    } else if list_match.port {
        Verdict::ToProxy(pod.outbound_port, Reason::OutboundPortListed)
    } else if list_match.network {
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
        own || self.from.const_eq(self.to)
            || self.from.is_loopback()
            || self.from.is_passthrough_source()
    }

    /// Whether a neighbour asks for an address at which the Pod's own connections meet the proxy: the
    /// IPv6 route to these takes packets from every interface. The kernel itself drops foreign packets
    /// to `127.0.0.0/8`.
    #[must_use]
    pub const fn is_foreign_to_meeting(&self) -> bool {
        self.to.is_alias() && !self.to.is_v4() && self.interface != Self::LOOPBACK
    }
}

/// A TCP connection that arrives in a meshed Pod.
#[derive(Clone, Copy, Debug)]
pub struct InboundConn {
    /// The port that the peer asked for.
    pub port: Port,
    /// The peer is the Pod itself: the packet came over `lo`.
    pub local: bool,
    /// The packet came by an interface that the Pod excludes, or from a network that is left alone.
    pub bypass: bool,
    /// `port` is in the Pod's list: of those that are the proxy's, if it has one
    /// ([`PodFlags::INBOUND_ALLOWLIST`]), or else of those that are not.
    pub listed: bool,
}

/// Where a TCP connection to `pod` goes.
#[must_use]
pub const fn inbound(pod: &PodConfig, from: &InboundConn) -> Verdict {
    if from.local {
        return Verdict::Direct(Reason::InboundLocal);
    }
    if from.bypass {
        return Verdict::Direct(Reason::InboundBypass);
    }
    let only_listed = pod.flags.has(PodFlags::INBOUND_ALLOWLIST);
    let tunnel = from.port.const_eq(pod.hbone_port) && !pod.flags.has(PodFlags::TPROXY);
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
