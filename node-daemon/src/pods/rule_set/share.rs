//! The share of each shared map that one Pod may use.

use std::{collections::HashSet, fmt};

use ipnet::IpNet;
use sluice_abi::{
    PortList,
    maps::{
        self, ADDRESSES_PER_POD, INTERFACES_PER_POD, NETWORKS_PER_POD, OWNER_GROUPS_PER_POD,
        PORTS_PER_POD,
    },
};

use super::{port_lists, ports::prefixes};
use crate::pods::{
    mesh::Mesh,
    policy::{Inbound, PodPolicy, ResolvedPolicy},
};

/// A Pod needs more than its share of a map.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// The lists of the Pod or its mesh.
    #[error("{list}: {needed} entries in the map '{map}', but the share of a Pod is {share}")]
    AddRule {
        /// The annotation that needs the most entries.
        list: Origin,
        /// The map's name.
        map: &'static str,
        /// The entries that all lists of this map need together.
        needed: usize,
        /// The entries that one Pod may have.
        share: usize,
    },
    /// The addresses of all attachments together.
    #[error("the Pod has {count} addresses, but the share of a Pod is {ADDRESSES_PER_POD}")]
    Addresses {
        /// Their number.
        count: usize,
    },
    /// The Pod's routes, which decide on excluded interfaces or source addresses.
    #[error(
        "the Pod has {count} routes to networks of their own, but the share of a Pod is \
         {NETWORKS_PER_POD}"
    )]
    RoutingTable {
        /// Their number.
        count: usize,
    },
}

/// The origin of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// An annotation of the Pod.
    Annotation(&'static str),
    /// The mesh's configuration.
    Mesh(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Annotation(key) => write!(formatter, "annotation {key}"),
            Self::Mesh(name) => write!(formatter, "mesh {name}"),
        }
    }
}

/// Rejects lists that need more than the Pod's share of a map.
///
/// # Errors
///
/// [`Error::AddRule`], with the annotation, the number and the share.
pub(crate) fn check<S>(policy: &PodPolicy<S>) -> Result<(), Error> {
    check_ports(policy)?;
    let mesh = policy.mesh;
    let names = &mesh.annotations;
    let of = |key: Option<&'static String>| origin(mesh, key);
    let included = policy.networks.as_deref().unwrap_or_default();
    let (include, exclude) = (&names.include_networks, &names.exclude_networks);
    let rows = [
        (
            of(include.as_ref()),
            maps::INCLUDE_CIDRS,
            distinct(included),
        ),
        (
            of(exclude.as_ref()),
            maps::EXCLUDE_CIDRS,
            distinct(&policy.excluded_networks),
        ),
    ];
    for (list, map, needed) in rows {
        within(list, map, needed, NETWORKS_PER_POD)?;
    }
    let count = super::groups(policy).count();
    let of_mesh = Origin::Mesh(&mesh.name);
    within(of_mesh, maps::OWNER_GROUPS, count, OWNER_GROUPS_PER_POD)
}

/// Checks the entries that follow from the Pod's netns too.
///
/// # Errors
///
/// [`Error::AddRule`] with the source and the numbers.
pub(crate) fn check_resolved(policy: &ResolvedPolicy) -> Result<(), Error> {
    check(policy)?;
    let mesh = policy.mesh;
    let interfaces = origin(mesh, mesh.annotations.exclude_interfaces.as_ref());
    let bypass = if policy.excluded_interfaces.is_empty() {
        Origin::Mesh(&mesh.name)
    } else {
        interfaces
    };
    let count = distinct(&policy.bypass().networks);
    within(bypass, maps::BYPASS_CIDRS, count, NETWORKS_PER_POD)?;
    let count = policy.bypass().interfaces.len();
    within(interfaces, maps::EXCLUDE_IFINDEX, count, INTERFACES_PER_POD)
}

fn distinct(networks: &[IpNet]) -> usize {
    let distinct: HashSet<IpNet> = networks.iter().map(IpNet::trunc).collect();
    distinct.len()
}

/// Rejects a Pod with too many addresses.
///
/// # Errors
///
/// [`Error::Addresses`].
pub(crate) fn check_addresses(count: usize) -> Result<(), Error> {
    if count > ADDRESSES_PER_POD {
        return Err(Error::Addresses { count });
    }
    Ok(())
}

/// Rejects a Pod with too many routes, before any of them is evaluated.
///
/// # Errors
///
/// [`Error::RoutingTable`].
pub(crate) fn check_routes(count: usize) -> Result<(), Error> {
    if count > NETWORKS_PER_POD {
        return Err(Error::RoutingTable { count });
    }
    Ok(())
}

/// All port lists share the same two maps.
fn check_ports<S>(policy: &PodPolicy<S>) -> Result<(), Error> {
    let rule_set = port_lists(policy).map(|(list, ports)| {
        let (single, ranges): (Vec<_>, Vec<_>) =
            prefixes(0, list, ports).partition(sluice_abi::PortPrefix::is_single);
        (port_origin(policy, list), single.len(), ranges.len())
    });
    let rows = [
        (
            maps::PORTS,
            rule_set.map(|(list, single, _)| (single, list)),
        ),
        (
            maps::PORT_RANGES,
            rule_set.map(|(list, _, ranges)| (ranges, list)),
        ),
    ];
    for (map, rule_set) in rows {
        let needed = rule_set.iter().map(|(count, _)| count).sum();
        if let Some((_, list)) = rule_set.into_iter().max_by_key(|(count, _)| *count) {
            within(list, map, needed, PORTS_PER_POD)?;
        }
    }
    Ok(())
}

fn within(list: Origin, map: &'static str, needed: usize, share: usize) -> Result<(), Error> {
    if needed > share {
        return Err(Error::AddRule {
            list,
            map,
            needed,
            share,
        });
    }
    Ok(())
}

fn port_origin<S>(policy: &PodPolicy<S>, list: PortList) -> Origin {
    let names = &policy.mesh.annotations;
    let key = match (list, &policy.inbound) {
        (PortList::InboundIncluded, Inbound::Include(_)) => &names.include_inbound_ports,
        (PortList::InboundIncluded | PortList::InboundExcluded, _) => &names.exclude_inbound_ports,
        (PortList::OutboundExcluded, _) => &names.exclude_outbound_ports,
        (PortList::OutboundIncluded, _) => &names.include_outbound_ports,
    };
    origin(policy.mesh, key.as_ref())
}

/// Without an annotation for a list, only the mesh can state it.
fn origin(mesh: &'static Mesh, key: Option<&'static String>) -> Origin {
    key.map_or(Origin::Mesh(&mesh.name), |key| Origin::Annotation(key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::{bypass::Bypass, policy::RouteFacts, settings::Ports};

    fn istio() -> PodPolicy {
        PodPolicy::of(Mesh::preset("istio"))
    }

    /// Ports that cannot be merged.
    fn apart(count: u16) -> Ports {
        (1..=count).map(|port| (2 * port, 2 * port)).collect()
    }

    fn networks(count: usize) -> Vec<IpNet> {
        let network = |index: usize| format!("10.{}.{}.0/24", index / 256, index % 256);
        (0..count)
            .map(|index| network(index).parse().unwrap())
            .collect()
    }

    #[test]
    fn long_lists_are_refused_with_annotation_and_numbers() {
        let refused = |policy: &PodPolicy| check(policy).unwrap_err().to_string();
        let ports = PodPolicy {
            excluded_outbound: apart(500),
            included_outbound: apart(20),
            inbound: Inbound::Exclude(Ports::new()),
            ..istio()
        };
        assert_eq!(
            refused(&ports),
            "annotation traffic.sidecar.istio.io/excludeOutboundPorts: 520 entries in the map \
             'ports', but the share of a Pod is 512"
        );
        let only = PodPolicy {
            networks: Some(networks(NETWORKS_PER_POD + 1)),
            ..istio()
        };
        assert_eq!(
            refused(&only),
            "annotation traffic.sidecar.istio.io/includeOutboundIPRanges: 8193 entries in the \
             map 'include_cidrs', but the share of a Pod is 8192"
        );
        let bypass = Bypass {
            interfaces: (1..=33).collect(),
            networks: Vec::new(),
        };
        let interfaces = istio().provisional().with_routes(RouteFacts {
            bypass,
            ..RouteFacts::default()
        });
        let annotation = check_resolved(&interfaces).unwrap_err().to_string();
        assert!(
            annotation.contains("excludeInterfaces: 33 entries in the map 'exclude_ifindex'"),
            "{annotation}"
        );
    }

    #[test]
    fn full_shares_and_long_ranges_are_accepted() {
        let full = PodPolicy {
            excluded_outbound: apart(512),
            inbound: Inbound::Include([(2, 65535)].into()),
            networks: Some(networks(NETWORKS_PER_POD)),
            excluded_networks: networks(NETWORKS_PER_POD),
            ..istio()
        };
        assert_eq!(check(&full), Ok(()));
        let every: Ports = (1..=u16::MAX).map(|port| (port, port)).collect();
        let merged = PodPolicy {
            excluded_outbound: every,
            ..istio()
        };
        assert_eq!(check(&merged), Ok(()));
    }

    #[test]
    fn addresses_and_routes_have_a_share() {
        assert_eq!(check_addresses(ADDRESSES_PER_POD), Ok(()));
        assert!(check_addresses(ADDRESSES_PER_POD + 1).is_err());
        assert_eq!(check_routes(NETWORKS_PER_POD), Ok(()));
        let annotation = check_routes(100_000).unwrap_err().to_string();
        assert!(
            annotation.contains("100000 routes") && annotation.contains("8192"),
            "{annotation}"
        );
    }
}
