//! The flags of a Pod.

/// Bits of [`crate::PodConfig::flags`].
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PodFlags(pub(crate) u32);

impl PodFlags {
    /// The Pod has more addresses than [`crate::NetnsEntry`] holds, link-local ones of IPv6 not counted;
    /// `own_addrs` has them.
    pub const HAS_EXTRA_ADDRS: Self = Self(1);
    /// The proxy listens on `127.0.0.1` only, so connections cannot use other loopback addresses.
    pub const PROXY_ON_LOCALHOST_ONLY: Self = Self(1 << 1);

    /// Connections between the proxies of two Pods on this node are accelerated.
    pub const ACCELERATE_PROXIES: Self = Self(1 << 2);
    /// Connections between the Pod's proxy and its application are accelerated, too.
    pub const ACCELERATE_ALL: Self = Self(1 << 3);

    /// Only listed inbound ports are redirected.
    pub const INBOUND_ALLOWLIST: Self = Self(1 << 4);
    /// Some outbound ports are redirected regardless of the address.
    pub const OUTBOUND_PORT_INCLUDES: Self = Self(1 << 5);
    /// A list of the Pod contains a port range.
    pub const PORT_RANGES: Self = Self(1 << 6);
    /// Only listed CIDRs are redirected.
    pub const CIDR_ALLOWLIST: Self = Self(1 << 7);
    /// Some CIDRs are not redirected.
    pub const CIDR_EXCLUDES: Self = Self(1 << 8);
    /// A loopback CIDR is included.
    pub const LOOPBACK_INCLUDED: Self = Self(1 << 9);

    /// The proxy's connections to its own Pod are not redirected.
    pub const NO_HAIRPIN: Self = Self(1 << 10);
    /// The Pod uses `TPROXY`, whose rules have fewer exceptions.
    pub const TPROXY: Self = Self(1 << 11);

    /// Some interfaces or CIDRs bypass all rules of the Pod.
    pub const BYPASS: Self = Self(1 << 12);
    /// The bypass CIDRs also apply to sources of inbound connections.
    pub const BYPASS_INBOUND: Self = Self(1 << 13);
    /// DNS queries to resolvers within the Pod are not redirected.
    pub const BYPASS_LOCAL_DNS: Self = Self(1 << 14);

    /// Routes to some CIDRs have another preferred source than [`crate::NetnsEntry`] holds.
    pub const HAS_PREFSRC: Self = Self(1 << 15);

    /// The alias route to [`crate::Addr::V4_ALIAS_NET`] exists, with the Pod's main address as preferred
    /// source.
    pub const ALIAS_ROUTE_V4: Self = Self(1 << 16);
    /// The same for [`crate::Addr::V6_ALIAS_NET`].
    pub const ALIAS_ROUTE_V6: Self = Self(1 << 17);

    /// Connections of processes in a listed group are not redirected.
    pub const OWNER_GROUP_EXCLUDES: Self = Self(1 << 18);
    /// Only connections of processes in a listed group are redirected.
    pub const OWNER_GROUP_ALLOWLIST: Self = Self(1 << 19);
    /// The Pod's outbound connections bypass the proxy until it listens for the first time; see
    /// [`BeforeProxy`](crate::BeforeProxy).
    pub const BEFORE_PROXY: Self = Self(1 << 20);
    /// Only IPv4 is redirected: IPv6 bypasses the proxy in both directions.
    pub const IPV4_ONLY: Self = Self(1 << 21);
    /// The Pod has virtual interfaces, whose connections the proxy gets ([`crate::decide::forwarded`]).
    pub const REROUTES: Self = Self(1 << 22);

    /// Connections that processes in the node's netns open to the Pod are not redirected.
    pub const BYPASS_NODE: Self = Self(1 << 23);

    /// A process that is not the proxy listens on the proxy's outbound port; `foreign_listeners` has its
    /// user. The daemon sets the flag in `process_ip` alone, beside that map.
    pub const FOREIGN_LISTENER: Self = Self(1 << 24);

    /// The union of both sets.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The flags that are not in `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether every bit of `other` is set.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// The union of the selected flags.
impl FromIterator<(bool, PodFlags)> for PodFlags {
    fn from_iter<I: IntoIterator<Item = (bool, PodFlags)>>(choices: I) -> Self {
        let selected = choices.into_iter().filter(|(is_selected, _)| *is_selected);
        selected.fold(Self::default(), |all, (_, flag)| all.with(flag))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_flag_has_a_bit_of_its_own() {
        let all = [
            PodFlags::HAS_EXTRA_ADDRS,
            PodFlags::PROXY_ON_LOCALHOST_ONLY,
            PodFlags::ACCELERATE_PROXIES,
            PodFlags::ACCELERATE_ALL,
            PodFlags::INBOUND_ALLOWLIST,
            PodFlags::OUTBOUND_PORT_INCLUDES,
            PodFlags::PORT_RANGES,
            PodFlags::CIDR_ALLOWLIST,
            PodFlags::CIDR_EXCLUDES,
            PodFlags::LOOPBACK_INCLUDED,
            PodFlags::NO_HAIRPIN,
            PodFlags::TPROXY,
            PodFlags::BYPASS,
            PodFlags::BYPASS_INBOUND,
            PodFlags::BYPASS_LOCAL_DNS,
            PodFlags::HAS_PREFSRC,
            PodFlags::ALIAS_ROUTE_V4,
            PodFlags::ALIAS_ROUTE_V6,
            PodFlags::OWNER_GROUP_EXCLUDES,
            PodFlags::OWNER_GROUP_ALLOWLIST,
            PodFlags::BEFORE_PROXY,
            PodFlags::IPV4_ONLY,
            PodFlags::REROUTES,
            PodFlags::BYPASS_NODE,
            PodFlags::FOREIGN_LISTENER,
        ];
        let bits: u32 = all.iter().map(|flag| flag.0).sum();
        assert_eq!(bits, (1 << all.len()) - 1);
    }
}
