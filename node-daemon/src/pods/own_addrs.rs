//! The own addresses of a Pod beside its main ones, by which the programs recognize its calls to itself:
//! the reported addresses, and those that its netns has in addition. Pure.

use std::{
    collections::{BTreeSet, HashSet},
    net::IpAddr,
};

use sluice_abi::{Addr, maps::OWN_ADDRS_PER_POD};

use super::source_addr::PASSTHROUGH;
use crate::netns::Interface;

/// The addresses of a netns that are read: one more than a Pod's share, beside two main addresses.
const READ: usize = OWN_ADDRS_PER_POD + 3;

/// The entries of a Pod in `own_addrs`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct OwnAddrs {
    /// The addresses.
    pub(super) entries: HashSet<Addr>,
    /// Whether the Pod has more addresses than its share has places.
    pub(super) is_cut: bool,
}

impl OwnAddrs {
    /// Selects the entries. Reported addresses have precedence: a process in the Pod cannot displace them.
    pub(super) fn of(reported: &[IpAddr], present: &BTreeSet<IpAddr>, main: [Addr; 2]) -> Self {
        let mut own = Self::default();
        let usable = (reported.iter().chain(present)).filter(|ip| !is_link_local(ip));
        for addr in usable.map(|ip| Addr::from(*ip)) {
            if main.contains(&addr) || own.entries.contains(&addr) {
                continue;
            }
            if own.entries.len() == OWN_ADDRS_PER_POD {
                own.is_cut = true;
                break;
            }
            own.entries.insert(addr);
        }
        own
    }

    /// Whether the programs must look for them.
    pub(super) fn need_flag(&self) -> bool {
        !self.entries.is_empty()
    }
}

/// The addresses to which a netns sends packets over `lo`, without those of the rules: loopback addresses,
/// and the source of the proxy's calls to its application.
pub(super) fn of_netns(interfaces: &[Interface]) -> BTreeSet<IpAddr> {
    let all = interfaces.iter().flat_map(|one| &one.addresses);
    let own = all.filter(|ip| !ip.is_loopback() && **ip != PASSTHROUGH && !is_link_local(ip));
    let own: BTreeSet<IpAddr> = own.copied().collect();
    own.into_iter().take(READ).collect()
}

/// Whether an address is an IPv6 link-local one. It belongs to its interface: a host beside another
/// interface of the Pod may have the same, and the programs do not know the interface of a destination.
fn is_link_local(ip: &IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn interface(name: &str, addresses: &[&str]) -> Interface {
        Interface {
            name: name.to_owned(),
            index: 2,
            addresses: addresses.iter().map(|text| ip(text)).collect(),
        }
    }

    #[test]
    fn loopback_and_link_local_addresses_are_not_listed() {
        let found = of_netns(&[
            interface("lo", &["127.0.0.1", "127.9.9.9", "::1", "::6", "10.9.0.1"]),
            interface("eth0", &["10.1.0.7", "fe80::7"]),
        ]);
        assert_eq!(found, ["10.1.0.7", "10.9.0.1"].map(ip).into());
    }

    #[test]
    fn main_and_link_local_addresses_need_no_entry() {
        let main = [ip("10.1.0.7").into(), ip("fd00::7").into()];
        let reported = ["10.1.0.7", "fd00::7", "fe80::5"].map(ip);
        let own = |present: &[&str]| {
            let present = present.iter().map(|text| ip(text)).collect();
            OwnAddrs::of(&reported, &present, main)
        };
        assert_eq!(own(&["10.1.0.7", "fd00::7"]), OwnAddrs::default());
        assert_eq!(own(&["10.1.0.7", "fe80::7"]), OwnAddrs::default());
        for more in ["10.1.0.8", "fd00::8", "169.254.0.1"] {
            let own = own(&["10.1.0.7", "fe80::7", more]);
            assert!(own.entries.contains(&ip(more).into()), "{more}");
            assert!(own.need_flag(), "{more}");
        }
    }

    #[test]
    fn share_keeps_every_reported_address() {
        let reported = ["10.1.0.7", "203.0.113.9"].map(ip);
        let many = |count: usize| {
            let address = |n: usize| format!("10.{}.{}.1", n / 256, n % 256);
            let all = (0..count).map(address).collect::<Vec<_>>();
            let all: Vec<_> = all.iter().map(String::as_str).collect();
            of_netns(&[interface("lo", &all), interface("eth0", &["203.0.113.9"])])
        };
        let own = |count| OwnAddrs::of(&reported, &many(count), [reported[0].into(); 2]);
        let full = own(OWN_ADDRS_PER_POD - 1);
        assert_eq!(full.entries.len(), OWN_ADDRS_PER_POD);
        assert!(!full.is_cut);
        for count in [OWN_ADDRS_PER_POD, OWN_ADDRS_PER_POD + 1, 4096] {
            let cut = own(count);
            assert_eq!(cut.entries.len(), OWN_ADDRS_PER_POD, "{count}");
            assert!(cut.is_cut, "{count}");
            assert!(cut.entries.contains(&reported[1].into()), "{count}");
        }
    }
}
