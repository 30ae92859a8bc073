//! The facts of a decision: what the lists and the maps of a Pod say about one connection.

use core::hint::black_box;

use crate::opaque;

/// A set of facts about a connection. [`crate::decide`] reads it.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts(u64);

impl Facts {
    /// The other end is in the Pod. Outbound: the destination is an address of the Pod. Inbound: the
    /// packet came over `lo`.
    pub const LOCAL: Self = Self(1);
    /// Outbound: packets leave through an excluded interface, or the destination is in a bypass CIDR.
    /// Inbound: the packet arrived on an excluded interface, or from a bypass CIDR. Only used with
    /// [`crate::PodFlags::BYPASS`].
    pub const BYPASS: Self = Self(1 << 1);
    /// The socket is a UDP socket.
    pub const DATAGRAM: Self = Self(1 << 2);
    /// The destination is a DNS server, and the Pod's proxy answers queries.
    pub const CAPTURES_DNS: Self = Self(1 << 3);
    /// The destination port is in the Pod's list of inbound ports: of the included ports if there is
    /// such a list ([`crate::PodFlags::INBOUND_ALLOWLIST`]), otherwise of the excluded ports. Outbound,
    /// it is only used with [`crate::PodFlags::TPROXY`].
    pub const INBOUND_LISTED: Self = Self(1 << 4);
    /// The Pod excludes the outbound port.
    pub const PORT_EXCLUDED: Self = Self(1 << 5);
    /// The outbound port is redirected regardless of the address.
    pub const PORT_INCLUDED: Self = Self(1 << 6);
    /// The destination is in an excluded CIDR.
    pub const CIDR_EXCLUDED: Self = Self(1 << 7);
    /// The destination is in an included CIDR, or the Pod has no list of them.
    pub const CIDR_INCLUDED: Self = Self(1 << 8);
    /// The process's group is excluded, or not among the included groups. Only used with
    /// [`crate::PodFlags::OWNER_GROUP_EXCLUDES`] or [`crate::PodFlags::OWNER_GROUP_ALLOWLIST`].
    pub const GROUP_EXCLUDED: Self = Self(1 << 15);
    /// The Pod's proxy has not listened yet. Only used with [`crate::PodFlags::BEFORE_PROXY`].
    pub const BEFORE_PROXY: Self = Self(1 << 16);

    /// Inbound: a process in the node's netns opened the connection. Only used with
    /// [`crate::PodFlags::BYPASS_NODE`].
    pub const FROM_NODE: Self = Self(1 << 19);

    /// The socket belongs to the proxy, by user, group or mark. As the next five, it is only used with
    /// [`crate::original_source`].
    pub const BY_PROXY: Self = Self(1 << 20);
    /// The socket carries [`crate::PodConfig::source_mark`].
    pub const MARKED: Self = Self(1 << 21);
    /// The socket is bound to an address that is neither the Pod's nor a loopback address.
    pub const FOREIGN_SOURCE: Self = Self(1 << 22);
    /// The destination is a loopback address.
    pub const TO_LOOPBACK: Self = Self(1 << 23);
    /// The inbound rules redirect connections from the socket's source to this port.
    pub const INBOUND_REDIRECTED: Self = Self(1 << 24);
    /// The destination port is that of the proxy's inbound listener.
    pub const TO_LISTENER: Self = Self(1 << 25);

    /// The packets leave through `lo`.
    pub(crate) const VIA_LO: Self = Self(1 << 9);
    /// The destination is a loopback address that the rules exclude even for the proxy.
    pub(crate) const TO_APP_LOOPBACK: Self = Self(1 << 10);
    /// The source is the one of the proxy's connections to its application.
    pub(crate) const FROM_PASSTHROUGH: Self = Self(1 << 11);
    /// The caller is the proxy's user, or its socket has the proxy's mark.
    pub(crate) const BY_USER: Self = Self(1 << 12);
    /// The caller has the proxy's group.
    pub(crate) const BY_GROUP: Self = Self(1 << 13);
    /// The destination port is the port of tunnels between proxies.
    pub(crate) const TO_TUNNEL: Self = Self(1 << 14);
    /// The destination is an IPv6 address.
    pub(crate) const TO_IPV6: Self = Self(1 << 17);
    /// The socket is bound to an IPv4 loopback address, and the destination is elsewhere.
    pub(crate) const FROM_LOOPBACK: Self = Self(1 << 18);

    /// The empty set, whose content the verifier does not know. `unknown`: see [`opaque::zero`].
    ///
    /// The verifier explores every combination of known facts, so a decision that depends on n facts
    /// takes up to 2 to the n paths. Opaque facts take one path.
    #[expect(
        clippy::inline_always,
        reason = "the verifier follows a call for each fact otherwise"
    )]
    #[inline(always)]
    #[must_use]
    pub fn opaque(unknown: u64) -> Self {
        Self(opaque::zero(unknown))
    }

    /// The facts of both sets, which have none in common.
    #[expect(
        clippy::inline_always,
        reason = "the verifier follows a call for each fact otherwise"
    )]
    #[inline(always)]
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 ^ other.0)
    }

    /// Adds one fact, which is not in the set, if it is true.
    #[expect(
        clippy::inline_always,
        reason = "the verifier follows a call for each fact otherwise"
    )]
    #[inline(always)]
    #[must_use]
    pub const fn with_if(self, fact: Self, is_true: bool) -> Self {
        Self(self.0 ^ ((is_true as u64) << fact.0.trailing_zeros()))
    }

    /// As [`Facts::with_if`], for a set that stays opaque: otherwise the compiler collects the facts as
    /// constants, which the verifier knows, and adds them to the set last.
    #[expect(
        clippy::inline_always,
        reason = "the verifier follows a call for each fact otherwise"
    )]
    #[inline(always)]
    #[must_use]
    pub fn with_opaque(self, fact: Self, is_true: bool) -> Self {
        Self(black_box(self.with_if(fact, is_true).0))
    }

    /// Whether one of the facts in `any` is true.
    #[expect(
        clippy::inline_always,
        reason = "the verifier follows a call for each fact otherwise"
    )]
    #[inline(always)]
    #[must_use]
    pub const fn has(self, any: Self) -> bool {
        self.0 & any.0 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_independent_bits() {
        let all = [
            Facts::LOCAL,
            Facts::BYPASS,
            Facts::DATAGRAM,
            Facts::CAPTURES_DNS,
            Facts::INBOUND_LISTED,
            Facts::PORT_EXCLUDED,
            Facts::PORT_INCLUDED,
            Facts::CIDR_EXCLUDED,
            Facts::CIDR_INCLUDED,
            Facts::VIA_LO,
            Facts::TO_APP_LOOPBACK,
            Facts::FROM_PASSTHROUGH,
            Facts::BY_USER,
            Facts::BY_GROUP,
            Facts::TO_TUNNEL,
            Facts::GROUP_EXCLUDED,
            Facts::BEFORE_PROXY,
            Facts::TO_IPV6,
            Facts::FROM_LOOPBACK,
            Facts::FROM_NODE,
            Facts::BY_PROXY,
            Facts::MARKED,
            Facts::FOREIGN_SOURCE,
            Facts::TO_LOOPBACK,
            Facts::INBOUND_REDIRECTED,
            Facts::TO_LISTENER,
        ];
        for fact in all {
            let one = Facts::opaque(42).with_opaque(fact, true);
            assert_eq!(one, fact);
            assert_eq!(one.with_if(Facts(1 << 63), false), fact);
            assert!(all.iter().all(|other| one.has(*other) == (*other == fact)));
        }
    }
}
