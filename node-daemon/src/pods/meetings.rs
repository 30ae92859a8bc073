//! The routes by which a Pod's connections come to its proxy, at addresses that tell where they
//! were going. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use sluice_abi::{Addr, PodFlags, Process};

use crate::netns::Source;

/// `Addr::V4_MEETINGS` and `Addr::V6_MEETINGS`.
pub(super) const NETWORKS: [IpNet; 2] = [
    IpNet::new_assert(IpAddr::V4(Ipv4Addr::new(127, 64, 0, 0)), 10),
    IpNet::new_assert(
        IpAddr::V6(Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0x7f40, 0)),
        106,
    ),
];

/// A route for each of a Pod's main addresses, which it names as the source.
pub(super) fn routes(v4: Addr, v6: Addr) -> Vec<Source> {
    let both = NETWORKS.into_iter().zip([v4, v6]);
    let there = both.filter(|(_, main)| !main.is_unspecified());
    let route = |(to, main): (IpNet, Addr)| Source {
        to,
        from: main.into(),
    };
    there.map(route).collect()
}

/// Those of which the programs have been told.
pub(super) fn told(process: &Process) -> Vec<Source> {
    let mut all = routes(process.v4, process.v6);
    all.retain(|route| process.pod.flags.has(flag(route)));
    all
}

/// What tells the programs of routes.
pub(super) fn flags(routes: &[Source]) -> PodFlags {
    (routes.iter()).fold(PodFlags::default(), |all, route| all.with(flag(route)))
}

fn flag(route: &Source) -> PodFlags {
    match route.to {
        IpNet::V4(_) => PodFlags::ROUTED_V4,
        IpNet::V6(_) => PodFlags::ROUTED_V6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_networks_are_those_of_the_programs() {
        for (network, first) in NETWORKS.iter().zip([Addr::V4_MEETINGS, Addr::V6_MEETINGS]) {
            assert_eq!(Addr::from(network.network()), first);
            let differ = network.max_prefix_len() - network.prefix_len();
            assert_eq!(u32::from(differ), Addr::MEETING_BITS);
        }
    }

    #[test]
    fn the_programs_are_told_of_routes_by_flags_alone() {
        let [v4, v6] = ["10.0.0.1", "fd00::1"].map(|text| text.parse::<IpAddr>().unwrap());
        let mut process = Process {
            v4: v4.into(),
            v6: v6.into(),
            ..Process::default()
        };
        assert_eq!(told(&process), []);
        let both = routes(process.v4, process.v6);
        assert_eq!(
            both.iter().map(|route| route.from).collect::<Vec<_>>(),
            [v4, v6]
        );
        process.pod.flags = flags(&both);
        assert_eq!(told(&process), both);
        process.pod.flags = flags(&both[1..]);
        assert_eq!(told(&process), both[1..]);
        assert_eq!(routes(Addr::UNSPECIFIED, Addr::UNSPECIFIED), []);
    }
}
