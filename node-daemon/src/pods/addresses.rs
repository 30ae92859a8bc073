//! Validation of the Pod addresses that a CNI chain reports. Pure.

use std::net::IpAddr;

use sluice_api::PodAddress;

use super::source_addr::is_global;
use crate::netns::Interface;

/// The reported addresses differ from the Pod's, or the Pod has none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// The Pod has no interface of that name.
    #[error("{ip} is reported on {interface}, but the Pod has only {}", present.join(", "))]
    NoInterface {
        /// The address.
        ip: IpAddr,
        /// The reported interface.
        interface: String,
        /// The Pod's interfaces.
        present: Vec<String>,
    },
    /// The interface has other addresses.
    #[error("{ip} is reported on {interface}, which has {}", list(present))]
    NotThere {
        /// The address.
        ip: IpAddr,
        /// The interface.
        interface: String,
        /// The interface's addresses.
        present: Vec<IpAddr>,
    },
    /// Without an address, connections to the Pod cannot be identified.
    #[error(
        "no address of the Pod is reported, and {interface} has none: its traffic cannot be \
         intercepted"
    )]
    Nowhere {
        /// The interface that the runtime requested.
        interface: String,
    },
    /// A Pod cannot have this address.
    #[error("{ip} is not an address that a Pod can have")]
    NotAPods {
        /// The address.
        ip: IpAddr,
    },
}

/// The addresses of an interface at which other hosts can reach the Pod. A chain may omit
/// addresses: those of the interface then count.
pub(crate) fn of_interface(interfaces: &[Interface], name: &str) -> Vec<PodAddress> {
    let found = interfaces.iter().filter(|one| one.name == name);
    let addresses = found.flat_map(|one| &one.addresses);
    let address = |ip: &IpAddr| PodAddress {
        ip: *ip,
        interface: name.to_owned(),
    };
    addresses.filter(|ip| is_global(ip)).map(address).collect()
}

/// Checks each reported address against the interfaces of the Pod's netns.
pub(crate) fn verify(
    reported: &[PodAddress],
    interfaces: &[Interface],
) -> Result<Vec<IpAddr>, Error> {
    let mut verified = Vec::new();
    for PodAddress { ip, interface } in reported {
        let ip = ip.to_canonical();
        if ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() {
            return Err(Error::NotAPods { ip });
        }
        let Some(found) = interfaces.iter().find(|one| one.name == *interface) else {
            return Err(Error::NoInterface {
                ip,
                interface: interface.clone(),
                present: interfaces.iter().map(|one| one.name.clone()).collect(),
            });
        };
        if !found.addresses.contains(&ip) {
            return Err(Error::NotThere {
                ip,
                interface: interface.clone(),
                present: found.addresses.clone(),
            });
        }
        if !verified.contains(&ip) {
            verified.push(ip);
        }
    }
    Ok(verified)
}

fn list(addresses: &[IpAddr]) -> String {
    if addresses.is_empty() {
        return "no address".to_owned();
    }
    let words: Vec<_> = addresses.iter().map(IpAddr::to_string).collect();
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_addresses_stand_in_for_unreported_ones() {
        let interface = Interface {
            name: "eth0".to_owned(),
            index: 0,
            addresses: ["10.1.0.7", "fe80::7", "fd00::7"]
                .map(|ip| ip.parse().unwrap())
                .into(),
        };
        let found = of_interface(&[interface], "eth0");
        let ips: Vec<_> = found.iter().map(|one| one.ip.to_string()).collect();
        assert_eq!(ips, ["10.1.0.7", "fd00::7"]);
        assert_eq!(of_interface(&[], "eth0"), []);
    }

    fn check(ip: &str, interface: &str) -> Result<Vec<IpAddr>, Error> {
        let reported = PodAddress {
            ip: ip.parse().unwrap(),
            interface: interface.to_owned(),
        };
        let interface = |name: &str, addresses: &[&str]| Interface {
            name: name.to_owned(),
            index: 0,
            addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
        };
        let interfaces = [
            interface("lo", &["127.0.0.1", "::1"]),
            interface("eth0", &["10.1.0.7", "fd00::7"]),
        ];
        verify(&[reported], &interfaces)
    }

    #[test]
    fn an_address_must_be_on_the_interface_that_was_named() {
        assert_eq!(
            check("10.1.0.7", "eth0"),
            Ok(vec!["10.1.0.7".parse().unwrap()])
        );
        assert_eq!(
            check("fd00::7", "eth0"),
            Ok(vec!["fd00::7".parse().unwrap()])
        );
        assert!(matches!(
            check("10.1.0.7", "lo"),
            Err(Error::NotThere { .. })
        ));
        assert!(matches!(
            check("10.1.0.7", "eth1"),
            Err(Error::NoInterface { .. })
        ));
    }

    #[test]
    fn a_mapped_address_is_the_ipv4_address() {
        let mapped = check("::ffff:10.1.0.7", "eth0");
        assert_eq!(mapped, Ok(vec!["10.1.0.7".parse().unwrap()]));
    }

    #[test]
    fn loopback_is_never_a_pods_address() {
        for ip in ["127.0.0.1", "::1", "0.0.0.0", "224.0.0.1"] {
            assert!(
                matches!(check(ip, "lo"), Err(Error::NotAPods { .. })),
                "{ip}"
            );
        }
    }

    #[test]
    fn message_names_address_interface_and_its_addresses() {
        let message = check("10.1.0.9", "eth0").unwrap_err().to_string();
        assert_eq!(
            message,
            "10.1.0.9 is reported on eth0, which has 10.1.0.7, fd00::7"
        );
    }
}
