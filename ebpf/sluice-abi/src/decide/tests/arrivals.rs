//! Tests: connections into a Pod's namespace whose peer is inside it.

use core::net::IpAddr;

use super::address;
use crate::decide::Arrival;

const UNKNOWN: u32 = 0;
const LO: u32 = 1;
const ETH0: u32 = 2;

fn arrival(from: &str, to: &str, interface: u32) -> Arrival {
    let [from, to] = [from, to].map(|text| address(text.parse::<IpAddr>().unwrap()));
    Arrival {
        from,
        to,
        interface,
    }
}

#[test]
fn connection_is_over_loopback_by_interface_or_destination() {
    for (to, interface, over) in [
        ("10.0.0.2", LO, true),
        ("fd00::2", LO, true),
        ("10.0.0.2", ETH0, false),
        // With `route_localnet`, another host can reach such an address.
        ("127.0.0.1", ETH0, false),
        ("127.0.0.1", UNKNOWN, true),
        ("127.64.0.1", UNKNOWN, true),
        ("::1", UNKNOWN, true),
        ("::", UNKNOWN, false),
        ("0.0.0.0", UNKNOWN, false),
        ("fe80::2", UNKNOWN, false),
        ("100::7f40:1", UNKNOWN, false),
    ] {
        let found = arrival("10.0.0.9", to, interface).is_over_loopback();
        assert_eq!(found, over, "{to} by {interface}");
    }
}

#[test]
fn source_is_local_if_only_the_namespace_can_have_it() {
    for (from, local) in [
        ("127.0.0.1", true),
        ("127.255.0.1", true),
        ("::1", true),
        ("::6", true),
        ("fd00::2", true),
        ("::", false),
        ("0.0.0.0", false),
        ("0.0.0.1", false),
        ("fe80::1", false),
        ("fec0::1", false),
        ("240.0.0.1", false),
        ("10.0.0.9", false),
    ] {
        let arrival = arrival(from, "fd00::2", ETH0);
        assert_eq!(arrival.is_local(false), local, "{from}");
        assert!(arrival.is_local(true), "{from} is an address of the Pod");
    }
}

#[test]
fn remote_peers_are_foreign_to_alias_addresses() {
    for (to, interface, foreign) in [
        ("100::7f40:1", ETH0, true),
        ("100::7f40:1", UNKNOWN, true),
        ("100::7f40:1", LO, false),
        ("127.64.0.1", ETH0, false),
        ("fd00::2", ETH0, false),
    ] {
        let found = arrival("fd00::9", to, interface).is_foreign_to_alias();
        assert_eq!(found, foreign, "{to} by {interface}");
    }
}
