//! The interception rules, as pure functions: every input is an argument.
//!
//! They follow the iptables rules of Istio's sidecar, in the order of the chains; the first match wins.
//! Each branch cites its rule, with Istio's ports, user and group in place of the Pod's.
//! `docs/reference/rules.md` numbers the rules.

use crate::{Addr, Endpoint, Facts, PodConfig, PodFlags, Port, Reason};

/// The port of DNS servers.
pub const DNS: Port = Port::new(53);

/// The result of the rules for a connection or a DNS query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not redirected.
    Direct(Reason),
    /// Redirected to the proxy's listener at this port.
    ToProxy(Port, Reason),
    /// The system call fails with `EINVAL`.
    Refused(Reason),
}

impl Verdict {
    /// The rule that matched.
    #[must_use]
    pub const fn reason(self) -> Reason {
        match self {
            Self::Direct(reason) | Self::ToProxy(_, reason) | Self::Refused(reason) => reason,
        }
    }
}

/// An outbound connection of a socket in a meshed Pod.
#[derive(Clone, Copy, Debug)]
pub struct OutboundConn {
    /// The caller's UID in the initial user namespace.
    pub uid: u32,
    /// The caller's GID in the initial user namespace.
    pub gid: u32,
    /// The socket's mark.
    pub mark: u32,
    /// The address that the socket is bound to, or unspecified. Of a datagram: its source.
    pub src: Addr,
    /// The destination.
    pub dst: Endpoint,
    /// What the Pod's lists say about the destination.
    pub facts: Facts,
}

impl OutboundConn {
    /// Every fact of the connection. The rules test nothing else but the Pod's flags: a test of an
    /// address or an id in a rule would double the paths that the verifier explores after it.
    #[expect(
        clippy::inline_always,
        reason = "the verifier follows a call for each fact otherwise"
    )]
    #[inline(always)]
    fn all_facts(&self, pod: &PodConfig) -> Facts {
        let Self { dst, src, .. } = self;
        let via_lo = self.facts.has(Facts::LOCAL) || dst.addr.connects_to_loopback();
        let by_user = self.uid == pod.proxy_uid || pod.mark_matches(self.mark);
        let facts = self.facts.with_opaque(Facts::VIA_LO, via_lo);
        let from_loopback = src.is_v4() && src.is_loopback() && !facts.has(Facts::VIA_LO);
        facts
            .with_opaque(Facts::TO_APP_LOOPBACK, pod.is_app_loopback(dst.addr))
            .with_opaque(Facts::FROM_PASSTHROUGH, src.is_passthrough_source())
            .with_opaque(Facts::BY_USER, by_user)
            .with_opaque(Facts::BY_GROUP, self.gid == pod.proxy_gid)
            .with_opaque(Facts::TO_IPV6, !dst.addr.is_v4())
            .with_opaque(Facts::FROM_LOOPBACK, from_loopback)
            .with_opaque(Facts::TO_TUNNEL, dst.port.const_eq(pod.hbone_port))
    }
}

/// The verdict for a TCP connection from a socket in `pod`, or for a datagram to a DNS server.
#[must_use]
pub fn outbound(pod: &PodConfig, to: &OutboundConn) -> Verdict {
    let facts = to.all_facts(pod);
    if pod.flags.has(PodFlags::IPV4_ONLY) && facts.has(Facts::TO_IPV6) {
        return Verdict::Direct(Reason::OutboundBypass);
    }
    // The kernel fails such a call with `EINVAL` (`__mkroute_output`) before any rule sees a packet;
    // redirected, it would succeed. The kernel does not fail it after a bind to a broadcast address, as
    // 127.255.255.255: `inet_bind` then leaves the source open, and the packets have the Pod's address.
    if facts.has(Facts::FROM_LOOPBACK) {
        return Verdict::Refused(Reason::OutboundLoopbackSource);
    }
    let verdict = output_chain(pod, facts);
    if facts.has(Facts::BEFORE_PROXY)
        && let Verdict::ToProxy(port, _) = verdict
        && port.const_eq(pod.outbound_port)
    {
        return Verdict::Direct(Reason::OutboundBeforeProxy);
    }
    // With TPROXY, the proxy's traffic to its own Pod also traverses the inbound rules, unless it was
    // already redirected.
    if matches!(verdict, Verdict::Direct(_))
        && tproxy_mark(pod, facts)
        && matches!(inbound_chain(pod, facts), Verdict::ToProxy(..))
    {
        return Verdict::ToProxy(pod.inbound_port, Reason::OutboundHairpin);
    }
    verdict
}

/// Whether the proxy's user or group is the caller.
const fn by_proxy(facts: Facts) -> bool {
    facts.has(Facts::BY_USER.with(Facts::BY_GROUP))
}

/// Whether `TPROXY` rules mark the packets of the socket.
const fn tproxy_mark(pod: &PodConfig, facts: Facts) -> bool {
    // -A OUTPUT ! -d 127.0.0.1/32 -p tcp -o lo -m owner --uid-owner 1337 -j MARK --set-mark 1338
    let excepted = Facts::TO_APP_LOOPBACK
        .with(Facts::DATAGRAM)
        .with(Facts::FROM_PASSTHROUGH);
    pod.flags.has(PodFlags::TPROXY)
        && facts.has(Facts::VIA_LO)
        && by_proxy(facts)
        && !facts.has(excepted)
}

/// The rules of the outbound chain, in their order.
const fn output_chain(pod: &PodConfig, facts: Facts) -> Verdict {
    // -A OUTPUT -o INTERFACE -j RETURN
    if facts.has(Facts::BYPASS) && !facts.has(Facts::VIA_LO) {
        return Verdict::Direct(Reason::OutboundBypass);
    }
    // -A ISTIO_OUTPUT -p tcp --dport PORT -j RETURN
    if facts.has(Facts::PORT_EXCLUDED) {
        return Verdict::Direct(Reason::OutboundPortExcluded);
    }
    if facts.has(Facts::CAPTURES_DNS) {
        return dns_rules(pod, facts);
    }
    if facts.has(Facts::VIA_LO)
        && let Some(verdict) = loopback_rules(pod, facts)
    {
        return verdict;
    }
    // -A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN
    // -A ISTIO_OUTPUT -m owner --gid-owner 1337 -j RETURN
    if by_proxy(facts) {
        return Verdict::Direct(Reason::OutboundByProxy);
    }
    // -A ISTIO_OUTPUT -m owner --gid-owner GROUP -j RETURN
    if facts.has(Facts::GROUP_EXCLUDED) {
        return Verdict::Direct(Reason::OutboundGroupExcluded);
    }
    // -A ISTIO_OUTPUT -d 127.0.0.1/32 -j RETURN
    if facts.has(Facts::TO_APP_LOOPBACK) {
        return Verdict::Direct(Reason::OutboundLocal);
    }
    list_rules(pod, facts)
}

/// The rules for DNS queries. They include a resolver on a loopback address.
const fn dns_rules(pod: &PodConfig, facts: Facts) -> Verdict {
    let local = facts.has(Facts::VIA_LO);
    // -A ISTIO_OUTPUT -o lo -s 127.0.0.6/32 -j RETURN
    if local && facts.has(Facts::FROM_PASSTHROUGH) {
        return Verdict::Direct(Reason::OutboundPassthrough);
    }
    // Ambient: -A ISTIO_OUTPUT ! -o lo -p udp --dport 53 -j REDIRECT --to-ports 15053
    let local_resolver = local && facts.has(Facts::DATAGRAM.with(Facts::TO_APP_LOOPBACK));
    if local_resolver && pod.flags.has(PodFlags::BYPASS_LOCAL_DNS) {
        return Verdict::Direct(Reason::OutboundLocal);
    }
    // -A ISTIO_OUTPUT -o lo ! -d 127.0.0.1/32 -p tcp ! --dport 15008 -m owner --gid-owner 1337
    //   -j ISTIO_IN_REDIRECT
    // The rule of the user has `! --dport 53`.
    let by_group = facts.has(Facts::BY_GROUP) && !facts.has(Facts::BY_USER);
    if local && by_group && !local_resolver && !pod.flags.has(PodFlags::NO_HAIRPIN) {
        return Verdict::ToProxy(pod.inbound_port, Reason::OutboundHairpin);
    }
    // -A ISTIO_OUTPUT_DNS -p udp --dport 53 -m owner --uid-owner 1337 -j RETURN
    if by_proxy(facts) {
        return Verdict::Direct(Reason::OutboundByProxy);
    }
    // -A ISTIO_OUTPUT -m owner --gid-owner GROUP -j RETURN
    if facts.has(Facts::GROUP_EXCLUDED) {
        return Verdict::Direct(Reason::OutboundGroupExcluded);
    }
    // -A ISTIO_OUTPUT_DNS -p tcp --dport 53 -j REDIRECT --to-ports 15053
    Verdict::ToProxy(pod.dns_port, Reason::OutboundDns)
}

/// The rules for packets that leave through `lo`. The chain tests the proxy's user before its group:
/// other users have left the chain by then.
const fn loopback_rules(pod: &PodConfig, facts: Facts) -> Option<Verdict> {
    // -A ISTIO_OUTPUT -o lo -s 127.0.0.6/32 -j RETURN
    if facts.has(Facts::FROM_PASSTHROUGH) {
        return Some(Verdict::Direct(Reason::OutboundPassthrough));
    }
    // -A ISTIO_OUTPUT -o lo -m owner ! --uid-owner 1337 -j RETURN
    if !facts.has(Facts::BY_USER) && !pod.flags.has(PodFlags::LOOPBACK_INCLUDED) {
        return Some(Verdict::Direct(Reason::OutboundLocal));
    }
    // -A ISTIO_OUTPUT -o lo ! -d 127.0.0.1/32 -p tcp ! --dport 15008 -m owner --uid-owner 1337
    //   -j ISTIO_IN_REDIRECT
    let excepted = facts.has(Facts::TO_APP_LOOPBACK.with(Facts::TO_TUNNEL));
    if by_proxy(facts) && !excepted && !pod.flags.has(PodFlags::NO_HAIRPIN) {
        return Some(Verdict::ToProxy(pod.inbound_port, Reason::OutboundHairpin));
    }
    None
}

/// The rules from the Pod's own lists.
const fn list_rules(pod: &PodConfig, facts: Facts) -> Verdict {
    if facts.has(Facts::CIDR_EXCLUDED) {
        // -A ISTIO_OUTPUT -d CIDR -j RETURN
        Verdict::Direct(Reason::OutboundNetworkExcluded)
    } else if facts.has(Facts::PORT_INCLUDED) {
        // -A ISTIO_OUTPUT -p tcp --dport PORT -j ISTIO_REDIRECT
        Verdict::ToProxy(pod.outbound_port, Reason::OutboundPortListed)
    } else if facts.has(Facts::CIDR_INCLUDED) {
        // -A ISTIO_OUTPUT -d CIDR -j ISTIO_REDIRECT
        Verdict::ToProxy(pod.outbound_port, Reason::OutboundToProxy)
    } else {
        // -A ISTIO_OUTPUT -j RETURN
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
    pub const fn is_foreign_to_alias(&self) -> bool {
        self.to.is_alias() && !self.to.is_v4() && self.interface != Self::LOOPBACK
    }
}

/// A TCP connection that arrives in a meshed Pod.
#[derive(Clone, Copy, Debug)]
pub struct InboundConn {
    /// The destination port.
    pub port: Port,
    /// [`Facts::LOCAL`], [`Facts::BYPASS`], [`Facts::FROM_NODE`] and [`Facts::INBOUND_LISTED`].
    pub facts: Facts,
}

/// The verdict for a TCP connection to `pod`.
#[must_use]
pub const fn inbound(pod: &PodConfig, from: &InboundConn) -> Verdict {
    // -A PREROUTING -p tcp -j ISTIO_INBOUND: new connections over `lo` do not pass PREROUTING.
    if from.facts.has(Facts::LOCAL) {
        return Verdict::Direct(Reason::InboundLocal);
    }
    // -A PREROUTING -i INTERFACE -j RETURN
    if from.facts.has(Facts::BYPASS) {
        return Verdict::Direct(Reason::InboundBypass);
    }
    // Ambient: -A POSTROUTING -m owner --socket-exists -p tcp -m set --match-set istio-inpod-probes-v4 dst
    //   -j SNAT --to-source 169.254.7.127 on the node, and in the Pod:
    // -A PREROUTING -s 169.254.7.127/32 -p tcp -j ACCEPT
    if from.facts.has(Facts::FROM_NODE) {
        return Verdict::Direct(Reason::InboundFromNode);
    }
    let to_tunnel = from.port.const_eq(pod.hbone_port);
    inbound_chain(pod, from.facts.with_if(Facts::TO_TUNNEL, to_tunnel))
}

/// The verdict for a TCP connection that arrives on a virtual interface of `pod`. `included`: the Pod
/// includes the destination. No other list matters.
#[must_use]
pub const fn forwarded(pod: &PodConfig, dst: Addr, included: bool) -> Verdict {
    let has_rules = dst.is_v4() || !pod.flags.has(PodFlags::IPV4_ONLY);
    // -A PREROUTING -i INTERFACE -d CIDR -j ISTIO_REDIRECT
    if has_rules && included {
        return Verdict::ToProxy(pod.outbound_port, Reason::ForwardedToProxy);
    }
    // -A PREROUTING -i INTERFACE -j RETURN
    Verdict::Direct(Reason::ForwardedDirect)
}

/// The rules of the inbound chain, in their order.
const fn inbound_chain(pod: &PodConfig, facts: Facts) -> Verdict {
    let only_listed = pod.flags.has(PodFlags::INBOUND_ALLOWLIST);
    let listed = facts.has(Facts::INBOUND_LISTED);
    // -A ISTIO_INBOUND -p tcp --dport 15008 -j RETURN
    let tunnel = facts.has(Facts::TO_TUNNEL) && !pod.flags.has(PodFlags::TPROXY);
    // -A ISTIO_INBOUND -p tcp --dport PORT -j RETURN
    if tunnel || (listed && !only_listed) {
        return Verdict::Direct(Reason::InboundPortExcluded);
    }
    if only_listed && !listed {
        return Verdict::Direct(Reason::InboundNotListed);
    }
    // -A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT
    Verdict::ToProxy(pod.inbound_port, Reason::InboundToProxy)
}

#[cfg(test)]
mod tests;
