//! The interception rules, as pure functions: every input is an argument.
//!
//! They follow the iptables rules of Istio's sidecar, in the order of the chains; the first match wins.

use crate::{Addr, PodConfig, PodFlags, Port, Reason};

/// The port of DNS servers.
pub const DNS: Port = Port::new(53);

/// The result of the rules for a connection or a DNS query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not redirected.
    Direct(Reason),
    /// Redirected to the proxy's listener at this port.
    ToProxy(Port, Reason),
}

impl Verdict {
    /// The rule that matched.
    #[must_use]
    pub const fn reason(self) -> Reason {
        match self {
            Self::Direct(reason) | Self::ToProxy(_, reason) => reason,
        }
    }
}

/// An outbound connection of a socket in a meshed Pod.
#[derive(Clone, Copy, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "facts that do not depend on each other"
)]
pub struct OutboundConn {
    /// The caller's UID in the initial user namespace.
    pub uid: u32,
    /// The caller's GID in the initial user namespace.
    pub gid: u32,
    /// The socket's mark.
    pub mark: u32,
    /// The address that the socket is bound to, or unspecified.
    pub source: Addr,
    /// The destination address.
    pub addr: Addr,
    /// The destination port.
    pub port: Port,
    /// `addr` is an address of the caller's Pod.
    pub is_local_addr: bool,
    /// Packets to `addr` leave through an excluded interface, or `addr` is in a bypass CIDR. Only used
    /// with [`PodFlags::BYPASS`].
    pub bypass: bool,
    /// The Pod excludes `port`.
    pub excluded: bool,
    /// The socket is a UDP socket.
    pub datagram: bool,
    /// The Pod's proxy answers DNS queries.
    pub captures_dns: bool,
    /// The port is in the Pod's list of inbound ports. Only used with [`PodFlags::TPROXY`].
    pub inbound_listed: bool,
    /// The process's group is excluded, or not among the included groups. Only used with
    /// [`PodFlags::OWNER_GROUP_EXCLUDES`] or [`PodFlags::OWNER_GROUP_ALLOWLIST`].
    pub group_excluded: bool,
    /// The Pod's proxy has not listened yet. Only used with [`PodFlags::BEFORE_PROXY`].
    pub before_proxy: bool,
    /// The Pod's CIDR lists and its list of included ports.
    pub list_match: ListMatch,
}

impl OutboundConn {
    /// A matching mark is equivalent to the proxy's user.
    const fn by_user(&self, pod: &PodConfig) -> bool {
        self.uid == pod.proxy_uid || pod.mark_matches(self.mark)
    }

    const fn by_group(&self, pod: &PodConfig) -> bool {
        self.gid == pod.proxy_gid
    }
}

/// The match of a destination in the Pod's lists. A Pod without lists includes everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListMatch {
    /// The address is in an excluded CIDR.
    pub excluded: bool,
    /// The port is redirected regardless of the address.
    pub port: bool,
    /// The address is in an included CIDR.
    pub network: bool,
}

impl ListMatch {
    /// The result for a Pod without lists.
    pub const NO_LISTS: Self = Self {
        excluded: false,
        port: false,
        network: true,
    };
}

/// The verdict for a TCP connection from a socket in `pod`, or for a datagram to a DNS server.
#[must_use]
pub const fn outbound(pod: &PodConfig, to: &OutboundConn) -> Verdict {
    if pod.flags.has(PodFlags::IPV4_ONLY) && !to.addr.is_v4() {
        return Verdict::Direct(Reason::OutboundBypass);
    }
    if has_loopback_source(to) {
        return Verdict::Direct(Reason::OutboundLoopbackSource);
    }
    let verdict = output_chain(pod, to);
    if to.before_proxy
        && let Verdict::ToProxy(port, _) = verdict
        && port.const_eq(pod.outbound_port)
    {
        return Verdict::Direct(Reason::OutboundBeforeProxy);
    }
    // With TPROXY, the proxy's traffic to its own Pod also traverses the inbound rules, unless it was
    // already redirected.
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

/// Whether the socket is bound to an IPv4 loopback address and the destination is elsewhere. The kernel
/// fails such a call with `EINVAL` (`__mkroute_output`) before any rule sees a packet; redirected, it
/// would succeed.
const fn has_loopback_source(to: &OutboundConn) -> bool {
    let local = to.is_local_addr || to.addr.connects_to_loopback();
    to.source.is_v4() && to.source.is_loopback() && !local
}

/// Whether `TPROXY` rules mark the packets of the socket.
const fn tproxy_mark(pod: &PodConfig, to: &OutboundConn) -> bool {
    let own = (to.is_local_addr || to.addr.connects_to_loopback()) && !pod.is_app_loopback(to.addr);
    let by_proxy = to.by_user(pod) || to.by_group(pod);
    pod.flags.has(PodFlags::TPROXY)
        && own
        && by_proxy
        && !to.datagram
        && !to.source.is_passthrough_source()
}

/// The rules of the outbound chain, in their order.
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
    if to.group_excluded {
        return Verdict::Direct(Reason::OutboundGroupExcluded);
    }
    if pod.is_app_loopback(to.addr) {
        return Verdict::Direct(Reason::OutboundLocal);
    }
    list_rules(pod, to.list_match)
}

/// The rules for DNS queries. They include a resolver on a loopback address.
const fn dns_rules(pod: &PodConfig, to: &OutboundConn, by_proxy: bool) -> Verdict {
    let local = to.is_local_addr || to.addr.connects_to_loopback();
    if local && to.source.is_passthrough_source() {
        return Verdict::Direct(Reason::OutboundPassthrough);
    }
    let local_resolver = local && (to.datagram || pod.is_app_loopback(to.addr));
    if local_resolver && pod.flags.has(PodFlags::BYPASS_LOCAL_DNS) {
        return Verdict::Direct(Reason::OutboundLocal);
    }
    // The exception applies to the proxy's user only.
    let by_group = to.by_group(pod) && !to.by_user(pod) && !pod.flags.has(PodFlags::NO_HAIRPIN);
    if local && by_group && !to.datagram && !pod.is_app_loopback(to.addr) {
        return Verdict::ToProxy(pod.inbound_port, Reason::OutboundHairpin);
    }
    if by_proxy {
        return Verdict::Direct(Reason::OutboundByProxy);
    }
    if to.group_excluded {
        return Verdict::Direct(Reason::OutboundGroupExcluded);
    }
    Verdict::ToProxy(pod.dns_port, Reason::OutboundDns)
}

/// The rules for packets that leave through `lo`. The chain tests the proxy's user before its group:
/// other users have left the chain by then.
const fn loopback_rules(pod: &PodConfig, to: &OutboundConn) -> Option<Verdict> {
    if to.source.is_passthrough_source() {
        return Some(Verdict::Direct(Reason::OutboundPassthrough));
    }
    let own = !pod.flags.has(PodFlags::NO_HAIRPIN) && !pod.is_app_loopback(to.addr);
    if !to.by_user(pod) && !pod.flags.has(PodFlags::LOOPBACK_INCLUDED) {
        return Some(Verdict::Direct(Reason::OutboundLocal));
    }
    let by_proxy = to.by_user(pod) || to.by_group(pod);
    if own && by_proxy && !to.port.const_eq(pod.hbone_port) {
        return Some(Verdict::ToProxy(pod.inbound_port, Reason::OutboundHairpin));
    }
    None
}

/// The rules from the Pod's own lists.
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

/// An inbound TCP connection of a Pod's network namespace, as far as the kernel reports it.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// The peer's address, which the peer may have forged.
    pub from: Addr,
    /// The destination address.
    pub to: Addr,
    /// The interface index; zero if the kernel does not report it (before Linux 5.17). For a connection
    /// from the namespace to one of its own addresses, the kernel reports the interface with that
    /// address.
    pub interface: u32,
}

impl Arrival {
    /// The index of `lo` in every network namespace (`LOOPBACK_IFINDEX`).
    const LOOPBACK: u32 = 1;

    /// Whether the kernel delivers such a connection over `lo` only: no host outside the namespace can
    /// be the peer. This holds for loopback addresses and for redirected connections.
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
    /// The kernel drops packets with a loopback source from another interface, and its reply to an own
    /// address never leaves the namespace: no outside host completes a handshake with such a source.
    /// The unspecified source is different: the reply to `::` may leave.
    #[must_use]
    pub const fn is_local(&self, own: bool) -> bool {
        own || self.from.const_eq(self.to)
            || self.from.is_loopback()
            || self.from.is_passthrough_source()
    }

    /// Whether another host connects to an IPv6 alias address, whose local route accepts packets from
    /// every interface. The kernel itself drops foreign packets to `127.0.0.0/8`.
    #[must_use]
    pub const fn is_foreign_to_meeting(&self) -> bool {
        self.to.is_alias() && !self.to.is_v4() && self.interface != Self::LOOPBACK
    }
}

/// A TCP connection that arrives in a meshed Pod.
#[derive(Clone, Copy, Debug)]
pub struct InboundConn {
    /// The destination port.
    pub port: Port,
    /// The peer is the Pod itself: the packet came over `lo`.
    pub local: bool,
    /// The packet arrived on an excluded interface or from a bypass CIDR.
    pub bypass: bool,
    /// `port` is in the Pod's list: of the included ports if it has such a list
    /// ([`PodFlags::INBOUND_ALLOWLIST`]), otherwise of the excluded ports.
    pub listed: bool,
}

/// The verdict for a TCP connection to `pod`.
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
