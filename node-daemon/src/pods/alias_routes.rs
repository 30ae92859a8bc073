//! The alias routes of a Pod: `local` routes to the alias networks, whose addresses identify the
//! original destination. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use sluice_abi::{Addr, NetnsEntry, PodFlags};

use crate::netns::SourceRoute;

/// `Addr::V4_ALIAS_NET` and `Addr::V6_ALIAS_NET`.
pub(super) const NETWORKS: [IpNet; 2] = [
    IpNet::new_assert(IpAddr::V4(Ipv4Addr::new(127, 64, 0, 0)), 10),
    IpNet::new_assert(
        IpAddr::V6(Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0x7f40, 0)),
        106,
    ),
];

/// One route for each main address of a Pod, which is its preferred source.
pub(super) fn routes(v4: Addr, v6: Addr) -> Vec<SourceRoute> {
    let both = NETWORKS.into_iter().zip([v4, v6]);
    let there = both.filter(|(_, main)| !main.is_unspecified());
    let route = |(to, main): (IpNet, Addr)| SourceRoute {
        dst: to,
        prefsrc: main.into(),
    };
    there.map(route).collect()
}

/// The routes that the flags of `process_ip` announce to the programs.
pub(super) fn announced(netns_entry: &NetnsEntry) -> Vec<SourceRoute> {
    let mut all = routes(netns_entry.v4, netns_entry.v6);
    all.retain(|route| netns_entry.pod.flags.has(flag(route)));
    all
}

/// The flags that announce these routes to the programs.
pub(super) fn flags(routes: &[SourceRoute]) -> PodFlags {
    (routes.iter()).fold(PodFlags::default(), |all, route| all.with(flag(route)))
}

fn flag(route: &SourceRoute) -> PodFlags {
    match route.dst {
        IpNet::V4(_) => PodFlags::ALIAS_ROUTE_V4,
        IpNet::V6(_) => PodFlags::ALIAS_ROUTE_V6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_networks_are_those_of_the_programs() {
        for (network, first) in NETWORKS
            .iter()
            .zip([Addr::V4_ALIAS_NET, Addr::V6_ALIAS_NET])
        {
            assert_eq!(Addr::from(network.network()), first);
            let differ = network.max_prefix_len() - network.prefix_len();
            assert_eq!(u32::from(differ), Addr::ALIAS_BITS);
        }
    }

    #[test]
    fn announced_routes_follow_the_flags() {
        let [v4, v6] = ["10.0.0.1", "fd00::1"].map(|text| text.parse::<IpAddr>().unwrap());
        let mut netns_entry = NetnsEntry {
            v4: v4.into(),
            v6: v6.into(),
            ..NetnsEntry::default()
        };
        assert_eq!(announced(&netns_entry), []);
        let both = routes(netns_entry.v4, netns_entry.v6);
        assert_eq!(
            both.iter().map(|route| route.prefsrc).collect::<Vec<_>>(),
            [v4, v6]
        );
        netns_entry.pod.flags = flags(&both);
        assert_eq!(announced(&netns_entry), both);
        netns_entry.pod.flags = flags(&both[1..]);
        assert_eq!(announced(&netns_entry), both[1..]);
        assert_eq!(routes(Addr::UNSPECIFIED, Addr::UNSPECIFIED), []);
    }
}
