//! From a Pod's port and network lists to entries of the kernel's maps. Pure.

mod ports;
mod share;

use ipnet::IpNet;
use sluice_abi::{
    Addr, InterfaceKey, NetworkPrefix, OwnAddrKey, OwnerGroupKey, PodFlags, PortBitmap, PortList,
};

use super::{
    bypass::Bypass,
    own_addrs::OwnAddrs,
    policy::{Inbound, PodPolicy, ResolvedPolicy},
    settings::{OwnerGroups, Ports},
};
use crate::{
    bpf::Rule,
    netns::{SourceRoute, VirtualLink},
};
use ports::prefixes;
pub(super) use share::{Error, check, check_addresses, check_resolved, check_routes};

/// The flags for the lists that the programs look up.
pub(super) fn flags_of(policy: &ResolvedPolicy) -> PodFlags {
    let networks = policy.networks.as_deref();
    let loopback = |network: &IpNet| network.network().is_loopback();
    PodFlags::from_iter([
        (
            matches!(policy.inbound, Inbound::Include(_)),
            PodFlags::INBOUND_ALLOWLIST,
        ),
        (
            !policy.included_outbound.is_empty(),
            PodFlags::OUTBOUND_PORT_INCLUDES,
        ),
        (has_ranges(policy), PodFlags::PORT_RANGES),
        (networks.is_some(), PodFlags::CIDR_ALLOWLIST),
        (
            !policy.excluded_networks.is_empty(),
            PodFlags::CIDR_EXCLUDES,
        ),
        (
            policy.mesh.loopback_to_proxy || networks.is_some_and(|all| all.iter().any(loopback)),
            PodFlags::LOOPBACK_INCLUDED,
        ),
        (!policy.bypass().is_empty(), PodFlags::BYPASS),
        (!policy.virtual_interfaces.is_empty(), PodFlags::REROUTES),
        (
            matches!(policy.owner_groups, OwnerGroups::Only(_)),
            PodFlags::OWNER_GROUP_ALLOWLIST,
        ),
        (
            matches!(policy.owner_groups, OwnerGroups::Except(_)),
            PodFlags::OWNER_GROUP_EXCLUDES,
        ),
        (
            !policy.mesh.bypass_cidrs.is_empty() || !policy.excluded_sources.is_empty(),
            PodFlags::BYPASS_INBOUND,
        ),
    ])
}

/// The bitmap that prefilters excluded outbound ports: every excluded port passes it.
pub(super) fn port_bitmap_of<S>(policy: &PodPolicy<S>) -> PortBitmap {
    let ports = policy.excluded_outbound.iter();
    ports.fold(PortBitmap::EMPTY, |all, (low, high)| {
        all.insert_range(*low, *high)
    })
}

/// The source address for a destination network.
pub(super) fn source(cookie: u64, source: &SourceRoute) -> Rule {
    Rule::Prefsrc(prefix(cookie, &source.dst), source.prefsrc.into())
}

/// The Pod's own addresses.
pub(super) fn own_addrs(cookie: u64, own: &OwnAddrs) -> impl Iterator<Item = Rule> {
    let entry = move |addr: &Addr| Rule::OwnAddr(OwnAddrKey::new(cookie, *addr));
    own.entries.iter().map(entry)
}

/// Every entry of every list.
pub(super) fn rules_of(cookie: u64, policy: &ResolvedPolicy) -> impl Iterator<Item = Rule> {
    let included = policy.networks.iter().flatten();
    let excluded = policy.excluded_networks.iter();
    let Bypass {
        interfaces,
        networks: bypass,
    } = policy.bypass();
    let interface = move |index: &u32| Rule::ExcludeInterface(InterfaceKey::new(cookie, *index));
    let virtual_link =
        move |link: &VirtualLink| Rule::VirtualInterface(InterfaceKey::new(cookie, link.index));
    let aside_entry = move |one: &IpNet| Rule::BypassCidr(prefix(cookie, one));
    port_lists(policy)
        .into_iter()
        .flat_map(move |(list, ports)| prefixes(cookie, list, ports).map(Rule::Port))
        .chain(included.map(move |one| Rule::IncludeCidr(prefix(cookie, one))))
        .chain(excluded.map(move |one| Rule::ExcludeCidr(prefix(cookie, one))))
        .chain((bypass.iter().chain(&policy.excluded_sources)).map(aside_entry))
        .chain(interfaces.iter().map(interface))
        .chain(policy.virtual_links().iter().map(virtual_link))
        .chain(groups(policy).map(move |gid| Rule::OwnerGroup(OwnerGroupKey::new(cookie, *gid))))
}

/// The listed groups.
fn groups<S>(policy: &PodPolicy<S>) -> impl Iterator<Item = &u32> {
    let listed = match &policy.owner_groups {
        OwnerGroups::All => None,
        OwnerGroups::Only(groups) | OwnerGroups::Except(groups) => Some(groups),
    };
    listed.into_iter().flatten()
}

fn port_lists<S>(policy: &PodPolicy<S>) -> [(PortList, &Ports); 3] {
    let inbound = match &policy.inbound {
        Inbound::Exclude(ports) => (PortList::InboundExcluded, ports),
        Inbound::Include(ports) => (PortList::InboundIncluded, ports),
    };
    [
        inbound,
        (PortList::OutboundExcluded, &policy.excluded_outbound),
        (PortList::OutboundIncluded, &policy.included_outbound),
    ]
}

/// Whether `port_ranges` has an entry of the Pod.
fn has_ranges<S>(policy: &PodPolicy<S>) -> bool {
    let mut all = port_lists(policy).into_iter();
    all.any(|(list, ports)| prefixes(0, list, ports).any(|prefix| !prefix.is_single()))
}

/// Host bits do not count.
fn prefix(cookie: u64, network: &IpNet) -> NetworkPrefix {
    NetworkPrefix::new(cookie, network.network().into(), network.prefix_len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::mesh::Mesh;

    fn policy() -> PodPolicy {
        PodPolicy {
            inbound: Inbound::Exclude([(80, 80), (8000, 8003)].into()),
            excluded_outbound: Ports::new(),
            ..PodPolicy::of(Mesh::preset("istio"))
        }
    }

    #[test]
    fn port_ranges_become_prefixes_and_a_flag() {
        let policy = policy().provisional();
        let bits: Vec<_> = rules_of(7, &policy)
            .map(|rule| match rule {
                Rule::Port(prefix) => prefix.bits - 80,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(bits, [16, 14]);
        assert_eq!(flags_of(&policy), PodFlags::PORT_RANGES);
    }

    #[test]
    fn lists_set_their_flags() {
        let network = |text: &str| text.parse::<IpNet>().unwrap();
        let only = PodPolicy {
            inbound: Inbound::Include(Ports::new()),
            networks: Some(vec![network("10.0.0.0/8"), network("127.1.0.0/16")]),
            excluded_networks: vec![network("fd00::/8")],
            included_outbound: [(443, 443)].into(),
            excluded_outbound: Ports::new(),
            ..PodPolicy::of(Mesh::preset("istio"))
        }
        .provisional();
        let expected = PodFlags::INBOUND_ALLOWLIST
            .with(PodFlags::OUTBOUND_PORT_INCLUDES)
            .with(PodFlags::CIDR_ALLOWLIST)
            .with(PodFlags::CIDR_EXCLUDES)
            .with(PodFlags::LOOPBACK_INCLUDED);
        assert_eq!(flags_of(&only), expected);
        assert_eq!(rules_of(7, &only).count(), 4);
    }

    #[test]
    fn a_network_that_covers_everything_is_no_loopback_network() {
        let all = PodPolicy {
            networks: Some(vec!["0.0.0.0/0".parse().unwrap()]),
            ..policy()
        }
        .provisional();
        assert!(!flags_of(&all).has(PodFlags::LOOPBACK_INCLUDED));
    }
}
