//! Tests of port and CIDR lists.

use std::{net::IpAddr, time::Duration};

use sluice_abi::{NetworkPrefix, PodFlags, PortList, Reason};

use super::{
    destinations,
    lab::{APP, Lab, NEVER, POD, SOON, WORLD, await_that, port},
    sockets::{accept, connect, expect_greeting, listen},
};
use crate::bpf::Rule;

/// A meshed Pod with flags, and listeners: the proxy's, and outside ones on some ports.
fn lab(flags: PodFlags) -> Lab {
    let mut lab = Lab::bare();
    lab.enroll_with(flags);
    lab
}

fn network(text: &str) -> NetworkPrefix {
    let (addr, length) = text.split_once('/').unwrap();
    let addr: IpAddr = addr.parse().unwrap();
    NetworkPrefix::new(0, addr.into(), length.parse().unwrap())
}

fn included(networks: &[&str]) -> impl Iterator<Item = Rule> {
    networks.iter().map(|text| Rule::IncludeCidr(network(text)))
}

fn excluded(networks: &[&str]) -> impl Iterator<Item = Rule> {
    networks.iter().map(|text| Rule::ExcludeCidr(network(text)))
}

/// Connects to an outside port in every family, and returns which connections reached the proxy.
fn proxied(lab: &Lab, number: u16) -> [bool; 3] {
    let proxy = listen(&lab.pod, "[::]:15001");
    let world = listen(&lab.world, &format!("[::]:{number}"));
    destinations(WORLD, number).map(|(written, _)| {
        let stream = connect(&lab.pod, APP, &written);
        let mut by_proxy = false;
        await_that(|| {
            by_proxy = accept(&lab.pod, &proxy, Duration::ZERO).is_some();
            by_proxy || accept(&lab.world, &world, Duration::ZERO).is_some()
        });
        expect_greeting(stream);
        by_proxy
    })
}

#[test]
fn excluded_networks_are_direct_in_every_family() {
    let mut lab = lab(PodFlags::CIDR_EXCLUDES);
    lab.list(excluded(&["10.77.0.0/24"]));
    assert_eq!(proxied(&lab, 80), [false, true, false]);
    assert_eq!(lab.count(Reason::OutboundNetworkExcluded), 2);
    lab.list(excluded(&["fd77::/64"]));
    assert_eq!(proxied(&lab, 80), [false; 3]);
}

#[test]
fn network_list_redirects_listed_networks_only() {
    let mut lab = lab(PodFlags::CIDR_ALLOWLIST);
    assert_eq!(proxied(&lab, 80), [false; 3]);
    assert_eq!(lab.count(Reason::OutboundNotListed), 3);
    lab.list(included(&["10.0.0.0/8"]));
    assert_eq!(proxied(&lab, 80), [true, false, true]);
    lab.list(included(&["::/0"]));
    assert_eq!(proxied(&lab, 80), [true; 3]);
}

#[test]
fn an_exclusion_wins_over_an_inclusion() {
    let mut lab = lab(PodFlags::CIDR_ALLOWLIST.with(PodFlags::CIDR_EXCLUDES));
    lab.list(included(&["10.77.0.1/32", "fd77::1/128"]));
    lab.list(excluded(&["0.0.0.0/0"]));
    assert_eq!(proxied(&lab, 80), [false, true, false]);
}

#[test]
fn listed_outbound_port_is_redirected_in_unlisted_networks() {
    let ranges = PodFlags::PORT_RANGES.with(PodFlags::OUTBOUND_PORT_INCLUDES);
    let mut lab = lab(PodFlags::CIDR_ALLOWLIST.with(ranges));
    lab.list(port(PortList::OutboundIncluded, 8000, 8999));
    for (number, expected) in [
        (7999, false),
        (8000, true),
        (8500, true),
        (8999, true),
        (9000, false),
    ] {
        assert_eq!(proxied(&lab, number), [expected; 3], "{number}");
    }
    assert_eq!(lab.count(Reason::OutboundPortListed), 9);
}

#[test]
fn last_of_five_thousand_excluded_networks_is_found() {
    let mut lab = lab(PodFlags::CIDR_EXCLUDES);
    let addr = |number: u16| IpAddr::from([172, 16 + (number >> 8) as u8, (number & 255) as u8, 0]);
    let many = (0..5000).map(|number| NetworkPrefix::new(0, addr(number).into(), 24));
    lab.list(many.map(Rule::ExcludeCidr));
    assert_eq!(proxied(&lab, 80), [true; 3]);
    lab.list(excluded(&["10.77.0.1/32"]));
    assert_eq!(proxied(&lab, 80), [false, true, false]);
}

#[test]
fn inbound_port_list_redirects_listed_ports_only() {
    let mut lab = lab(PodFlags::INBOUND_ALLOWLIST);
    lab.list(port(PortList::InboundIncluded, 8080, 8080));
    let proxy = listen(&lab.pod, "[::]:15006");
    let listed = listen(&lab.pod, "[::]:8080");
    let other = listen(&lab.pod, "[::]:9090");
    for index in 0..3 {
        let (written, _) = &destinations(POD, 8080)[index];
        let stream = connect(&lab.world, APP, written);
        assert!(accept(&lab.pod, &proxy, SOON).is_some(), "{written}");
        expect_greeting(stream);
        let (written, _) = &destinations(POD, 9090)[index];
        let stream = connect(&lab.world, APP, written);
        assert!(accept(&lab.pod, &other, SOON).is_some(), "{written}");
        expect_greeting(stream);
    }
    assert!(accept(&lab.pod, &listed, NEVER).is_none());
    assert_eq!(lab.count(Reason::InboundNotListed), 3);
}
