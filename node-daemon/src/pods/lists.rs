//! From a Pod's lists of ports and networks to what the kernel looks up. Pure.

mod ports;
mod share;

use ipnet::IpNet;
use sluice_abi::{InterfaceKey, NetworkPrefix, PodFlags, PortList, PortSieve};

use super::{
    aside::Aside,
    plan::flags,
    policy::{Inbound, Ports, Settings},
};
use crate::{bpf::Entry, netns::Source};
use ports::prefixes;
pub(super) use share::{Error, check, check_addresses, check_routes};

/// What the kernel must know of the lists before it looks into them.
pub(super) fn flags_of(settings: &Settings) -> PodFlags {
    let networks = settings.networks.as_deref();
    let loopback = |network: &IpNet| network.network().is_loopback();
    flags([
        (
            matches!(settings.inbound, Inbound::Only(_)),
            PodFlags::INBOUND_LISTED,
        ),
        (
            !settings.included_outbound.is_empty(),
            PodFlags::OUTBOUND_LISTED,
        ),
        (has_ranges(settings), PodFlags::PORT_RANGES),
        (networks.is_some(), PodFlags::NETWORKS_LISTED),
        (
            !settings.excluded_networks.is_empty(),
            PodFlags::NETWORKS_EXCLUDED,
        ),
        (
            settings.mesh.loopback_to_proxy || networks.is_some_and(|all| all.iter().any(loopback)),
            PodFlags::LOOPBACK_LISTED,
        ),
        (!settings.aside.is_empty(), PodFlags::ASIDE),
        (
            !settings.mesh.left_alone.is_empty()
                || settings.bypasses_ipv6()
                || !settings.excluded_sources.is_empty(),
            PodFlags::ASIDE_INBOUND,
        ),
    ])
}

/// A sieve that lets every outbound port through that is left alone.
pub(super) fn sieve_of(settings: &Settings) -> PortSieve {
    let ports = settings.excluded_outbound.iter();
    ports.fold(PortSieve::CLOSED, |all, (low, high)| all.with(*low, *high))
}

/// The address from which a network is reached.
pub(super) fn source(cookie: u64, source: &Source) -> Entry {
    Entry::Source(prefix(cookie, &source.to), source.from.into())
}

/// Every entry of every list.
pub(super) fn entries(cookie: u64, settings: &Settings) -> impl Iterator<Item = Entry> {
    let included = settings.networks.iter().flatten();
    let excluded = settings.excluded_networks.iter();
    let Aside {
        interfaces,
        networks: aside,
    } = &settings.aside;
    let interface = move |index: &u32| Entry::Interface(InterfaceKey::new(cookie, *index));
    let aside_entry = move |one: &IpNet| Entry::Aside(prefix(cookie, one));
    port_lists(settings)
        .into_iter()
        .flat_map(move |(list, ports)| prefixes(cookie, list, ports).map(Entry::Port))
        .chain(included.map(move |one| Entry::Included(prefix(cookie, one))))
        .chain(excluded.map(move |one| Entry::Excluded(prefix(cookie, one))))
        .chain((aside.iter().chain(&settings.excluded_sources)).map(aside_entry))
        .chain(interfaces.iter().map(interface))
}

fn port_lists(settings: &Settings) -> [(PortList, &Ports); 3] {
    let inbound = match &settings.inbound {
        Inbound::AllBut(ports) => (PortList::InboundExcluded, ports),
        Inbound::Only(ports) => (PortList::InboundIncluded, ports),
    };
    [
        inbound,
        (PortList::OutboundExcluded, &settings.excluded_outbound),
        (PortList::OutboundIncluded, &settings.included_outbound),
    ]
}

/// Whether `port_ranges` has an entry of the Pod.
fn has_ranges(settings: &Settings) -> bool {
    let mut all = port_lists(settings).into_iter();
    all.any(|(list, ports)| prefixes(0, list, ports).any(|prefix| !prefix.is_single()))
}

/// Bits beyond the length do not count.
fn prefix(cookie: u64, network: &IpNet) -> NetworkPrefix {
    NetworkPrefix::new(cookie, network.network().into(), network.prefix_len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::mesh::Mesh;

    fn settings() -> Settings {
        Settings {
            inbound: Inbound::AllBut([(80, 80), (8000, 8003)].into()),
            excluded_outbound: Ports::new(),
            ..Settings::of(Mesh::preset("istio"))
        }
    }

    #[test]
    fn a_range_is_listed_as_prefixes_and_a_flag_tells_so() {
        let settings = settings();
        let bits: Vec<_> = entries(7, &settings)
            .map(|entry| match entry {
                Entry::Port(prefix) => prefix.bits - 80,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(bits, [16, 14]);
        assert_eq!(flags_of(&settings), PodFlags::PORT_RANGES);
    }

    #[test]
    fn what_is_listed_raises_its_flag() {
        let network = |text: &str| text.parse::<IpNet>().unwrap();
        let only = Settings {
            inbound: Inbound::Only(Ports::new()),
            networks: Some(vec![network("10.0.0.0/8"), network("127.1.0.0/16")]),
            excluded_networks: vec![network("fd00::/8")],
            included_outbound: [(443, 443)].into(),
            excluded_outbound: Ports::new(),
            ..Settings::of(Mesh::preset("istio"))
        };
        let expected = PodFlags::INBOUND_LISTED
            .with(PodFlags::OUTBOUND_LISTED)
            .with(PodFlags::NETWORKS_LISTED)
            .with(PodFlags::NETWORKS_EXCLUDED)
            .with(PodFlags::LOOPBACK_LISTED);
        assert_eq!(flags_of(&only), expected);
        assert_eq!(entries(7, &only).count(), 4);
    }

    #[test]
    fn a_network_that_covers_everything_is_no_loopback_network() {
        let all = Settings {
            networks: Some(vec!["0.0.0.0/0".parse().unwrap()]),
            ..settings()
        };
        assert!(!flags_of(&all).has(PodFlags::LOOPBACK_LISTED));
    }
}
