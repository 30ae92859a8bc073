//! Tests of a Pod's calls to itself at addresses that no CNI result reported.

use sluice_abi::{OwnAddrKey, PodFlags, Reason};

use super::{
    lab::{APP, Lab, NEVER, PROXY, SOON, add_ipv6, ip},
    sockets::{accept, connect, expect_greeting, listen},
};
use crate::bpf::Rule;

/// Addresses of the Pod that no CNI result reported: of its interface, of `lo`, and two of an interface of
/// its own.
const UNREPORTED: [&str; 7] = [
    "10.77.0.99",
    "fd77::99",
    "10.88.0.1",
    "fd88::1",
    "192.0.2.1",
    "192.0.2.2",
    "2001:db8::1",
];

/// A meshed Pod with these addresses.
fn lab() -> Lab {
    let lab = Lab::meshed();
    lab.pod.run(|| {
        ip("addr add 10.77.0.99/24 dev eth0");
        add_ipv6("fd77::99/64", "eth0");
        ip("addr add 10.88.0.1/32 dev lo");
        add_ipv6("fd88::1/128", "lo");
        ip("link add net1 type veth peer name other");
        ip("link set net1 up");
        ip("link set other up");
        ip("addr add 192.0.2.1/24 dev net1");
        ip("addr add 192.0.2.2/24 dev net1");
        add_ipv6("2001:db8::1/64", "net1");
    });
    lab
}

/// A destination in the client's notation.
fn at(address: &str) -> String {
    if address.contains(':') {
        format!("[{address}]:8080")
    } else {
        format!("{address}:8080")
    }
}

#[test]
fn proxy_calls_reach_the_inbound_listener() {
    let mut lab = lab();
    lab.own(&UNREPORTED);
    let app = listen(&lab.pod, "[::]:8080");
    let inbound = listen(&lab.pod, "[::]:15006");
    for address in UNREPORTED {
        let stream = connect(&lab.pod, PROXY, &at(address));
        let seen = accept(&lab.pod, &inbound, SOON).unwrap_or_else(|| panic!("{address}"));
        let expected = at(address).parse().unwrap();
        assert_eq!(seen.original, Some(expected), "{address}");
        if expected.is_ipv6() {
            assert_eq!(seen.peer, expected.ip());
        }
        assert_eq!(stream.peer_addr().unwrap(), expected, "{address}");
        expect_greeting(stream);
    }
    assert_eq!(accept(&lab.pod, &app, NEVER), None);
    assert_eq!(lab.count(Reason::OutboundHairpin), 7);
}

#[test]
fn application_calls_are_direct() {
    let mut lab = lab();
    lab.own(&UNREPORTED);
    let app = listen(&lab.pod, "[::]:8080");
    let outbound = listen(&lab.pod, "[::]:15001");
    let inbound = listen(&lab.pod, "[::]:15006");
    for address in UNREPORTED {
        let stream = connect(&lab.pod, APP, &at(address));
        assert!(accept(&lab.pod, &app, SOON).is_some(), "{address}");
        expect_greeting(stream);
    }
    assert_eq!(accept(&lab.pod, &outbound, NEVER), None);
    assert_eq!(accept(&lab.pod, &inbound, NEVER), None);
    assert_eq!(lab.count(Reason::OutboundLocal), 7);
}

#[test]
fn entries_of_another_pod_do_not_count() {
    let mut lab = lab();
    lab.enroll_world(PodFlags::HAS_EXTRA_ADDRS);
    lab.own(&[]);
    for address in UNREPORTED {
        let ip: std::net::IpAddr = address.parse().unwrap();
        let key = OwnAddrKey::new(lab.world.cookie(), ip.into());
        lab.datapath.add_rule(&Rule::OwnAddr(key)).unwrap();
    }
    let app = listen(&lab.pod, "[::]:8080");
    let outbound = listen(&lab.pod, "[::]:15001");
    for address in UNREPORTED {
        let stream = connect(&lab.pod, APP, &at(address));
        assert!(accept(&lab.pod, &outbound, SOON).is_some(), "{address}");
        expect_greeting(stream);
    }
    assert_eq!(accept(&lab.pod, &app, NEVER), None);
}
