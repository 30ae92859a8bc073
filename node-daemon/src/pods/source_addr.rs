//! The source address of each connection of a Pod with several addresses. Pure.
//!
//! A redirected connection is bound to the address that the route to its original destination would
//! select: the route to the proxy would select a loopback address.

use std::net::{IpAddr, Ipv6Addr};

use sluice_abi::Addr;

use crate::netns::{Interface, SourceRoute};

/// The source address of Istio's proxy when it forwards an IPv6 request to its application.
pub(crate) const PASSTHROUGH: IpAddr = IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6));

/// The source addresses of a Pod.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SourceAddrs {
    /// The main IPv4 address, or unspecified: the reported address that the default route prefers,
    /// or else the first.
    pub(super) v4: Addr,
    /// The main IPv6 address, likewise.
    pub(super) v6: Addr,
    /// Every route of a family with a route that prefers another address, reported or not.
    pub(super) others: Vec<SourceRoute>,
}

impl SourceAddrs {
    /// Selects the addresses.
    pub(super) fn of(routes: &[SourceRoute], addresses: &[IpAddr]) -> Self {
        let mut others = Vec::new();
        let mut choose = |v4: bool| {
            let own = |ip: &&IpAddr| ip.is_ipv4() == v4 && addresses.contains(ip);
            let routes = || routes.iter().filter(|one| one.dst.addr().is_ipv4() == v4);
            let default = routes().find(|one| one.dst.prefix_len() == 0);
            let preferred = default.map(|one| &one.prefsrc);
            let Some(main) = preferred.into_iter().chain(addresses).find(own) else {
                return Addr::UNSPECIFIED;
            };
            if routes().any(|one| one.prefsrc != *main) {
                others.extend(routes());
            }
            (*main).into()
        };
        let (v4, v6) = (choose(true), choose(false));
        Self { v4, v6, others }
    }
}

/// Whether one family has several addresses, so that routes select the source.
pub(super) fn is_ambiguous(interfaces: &[Interface]) -> bool {
    let mut all = [0, 0];
    let addresses = interfaces.iter().flat_map(|one| &one.addresses);
    for address in addresses.filter(|address| is_global(address)) {
        all[usize::from(address.is_ipv6())] += 1;
    }
    all.iter().any(|count| *count > 1)
}

/// Whether an address is valid beyond the Pod and its link.
pub(super) fn is_global(address: &IpAddr) -> bool {
    let stays = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !stays && !address.is_loopback() && *address != PASSTHROUGH
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passthrough_address_equals_that_of_the_programs() {
        assert_eq!(Addr::from(PASSTHROUGH), Addr::V6_PASSTHROUGH);
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn routes(all: &[(&str, &str)]) -> Vec<SourceRoute> {
        let route = |(to, from): &(&str, &str)| SourceRoute {
            dst: to.parse().unwrap(),
            prefsrc: ip(from),
        };
        all.iter().map(route).collect()
    }

    const OWN: [&str; 4] = ["10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2"];

    fn annotation_unless_star(all: &[(&str, &str)]) -> SourceAddrs {
        SourceAddrs::of(&routes(all), &OWN.map(ip))
    }

    fn sources(v4: &str, v6: &str, others: &[(&str, &str)]) -> SourceAddrs {
        SourceAddrs {
            v4: ip(v4).into(),
            v6: ip(v6).into(),
            others: routes(others),
        }
    }

    #[test]
    fn source_of_the_default_route_is_main_else_first() {
        assert_eq!(
            annotation_unless_star(&[]),
            sources("10.0.0.1", "fd00::1", &[])
        );
        let default = [("0.0.0.0/0", "10.0.0.2"), ("10.0.0.0/24", "10.0.0.2")];
        assert_eq!(
            annotation_unless_star(&default),
            sources("10.0.0.2", "fd00::1", &[])
        );
        let none = SourceAddrs::of(&[], &[]);
        assert_eq!((none.v4, none.v6), (Addr::UNSPECIFIED, Addr::UNSPECIFIED));
    }

    #[test]
    fn one_exception_lists_all_routes_of_its_family() {
        let v4 = [
            ("0.0.0.0/0", "10.0.0.1"),
            ("10.9.0.0/16", "10.0.0.2"),
            // The longer prefix leads back to the main address.
            ("10.9.8.0/24", "10.0.0.1"),
        ];
        let mut all = v4.to_vec();
        all.push(("fd00::/64", "fd00::1"));
        assert_eq!(
            annotation_unless_star(&all),
            sources("10.0.0.1", "fd00::1", &v4)
        );
    }

    #[test]
    fn unreported_address_is_a_source_only() {
        let default = [("0.0.0.0/0", "192.0.2.1")];
        assert_eq!(
            annotation_unless_star(&default),
            sources("10.0.0.1", "fd00::1", &default)
        );
    }

    #[test]
    fn one_address_of_each_family_leaves_no_choice() {
        let interface = |name: &str, addresses: &[&str]| Interface {
            name: name.to_owned(),
            index: 2,
            addresses: addresses.iter().map(|text| ip(text)).collect(),
        };
        let one = || interface("eth0", &["10.0.0.1", "fd00::1", "fe80::1"]);
        let loopback = interface("lo", &["127.0.0.1", "::1", "::6"]);
        assert!(!is_ambiguous(&[one(), loopback]));
        assert!(is_ambiguous(&[one(), interface("net1", &["fd00::2"])]));
    }
}
