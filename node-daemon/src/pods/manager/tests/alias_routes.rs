//! Tests of alias routes and of the flags that announce them.

use std::{
    net::IpAddr,
    thread::sleep,
    time::{Duration, Instant},
};

use sluice_abi::{Addr, AliasKey, Endpoint, PodFlags, Port};

use super::{Namespace, Node, attachment, ip, request};
use crate::pods::{Repair, alias_routes, manager::PodManager};

const ADDRESSES: [&str; 2] = ["10.1.0.1", "fd00::1"];
const V4: &str = "route delete local 127.64.0.0/10 table local";
const V6: &str = "-6 route delete local 100::7f40:0/106 table local";

/// A Pod with `lo` up. The kernel accepts an IPv6 address as a preferred source when its workqueue has
/// ended the duplicate detection.
fn pod() -> Namespace {
    let pod = Namespace::with(&ADDRESSES);
    pod.ip("link set lo up");
    let end = Instant::now() + Duration::from_secs(10);
    while !pod.output("ip -6 address show tentative").is_empty() {
        assert!(Instant::now() < end, "the address stays tentative");
        sleep(Duration::from_millis(5));
    }
    pod
}

/// The preferred sources of the installed routes.
fn sources(pod: &Namespace) -> Vec<IpAddr> {
    let [v4, v6] = ADDRESSES.map(|text| Addr::from(ip(text)));
    let installed = pod.open().installed(&alias_routes::routes(v4, v6));
    installed
        .unwrap()
        .iter()
        .map(|route| route.prefsrc)
        .collect()
}

/// The families whose alias route is announced to the programs.
fn merged(manager: &PodManager, pod: &Namespace) -> [bool; 2] {
    let netns_entry = manager.datapath.netns_entry(pod.cookie()).unwrap().unwrap();
    let flags = netns_entry.pod.flags;
    [PodFlags::ALIAS_ROUTE_V4, PodFlags::ALIAS_ROUTE_V6].map(|flag| flags.has(flag))
}

#[test]
fn routes_come_with_the_pod_and_go_with_it() {
    let node = Node::new("alias-routes");
    let manager = &mut node.start();
    let (who, pod) = (attachment("a", "eth0"), pod());
    manager.add(request(&who, &pod, &ADDRESSES)).unwrap();
    assert_eq!(sources(&pod), ADDRESSES.map(ip));
    assert_eq!(merged(manager, &pod), [true, true]);
    manager.add(request(&who, &pod, &ADDRESSES)).unwrap();
    manager.view().check(&who).unwrap();
    manager.del(&who).unwrap();
    assert_eq!(sources(&pod), [] as [IpAddr; 0]);
}

#[test]
fn a_pod_of_one_family_gets_one_route() {
    let node = Node::new("family");
    let manager = &mut node.start();
    for (index, address) in ADDRESSES.iter().enumerate() {
        let (who, pod) = (attachment(address, "eth0"), pod());
        manager.add(request(&who, &pod, &[address])).unwrap();
        assert_eq!(sources(&pod), [ip(address)]);
        assert_eq!(merged(manager, &pod), [index == 0, index == 1]);
        manager.view().check(&who).unwrap();
    }
}

#[test]
fn a_route_follows_the_pods_main_address() {
    let node = Node::new("main");
    let manager = &mut node.start();
    let (main, second) = (attachment("a", "eth0"), attachment("a", "net1"));
    let pod = pod();
    pod.open().add_to_loopback(ip("10.2.0.1")).unwrap();
    manager.add(request(&main, &pod, &["10.2.0.1"])).unwrap();
    manager.add(request(&second, &pod, &ADDRESSES)).unwrap();
    assert_eq!(sources(&pod), [ip("fd00::1")]);
    manager.del(&main).unwrap();
    assert_eq!(sources(&pod), ADDRESSES.map(ip));
    manager.view().check(&second).unwrap();
}

#[test]
fn removed_alias_routes_are_reinstalled() {
    let node = Node::new("missed");
    let manager = &mut node.start();
    let (who, pod) = (attachment("a", "eth0"), pod());
    manager.add(request(&who, &pod, &ADDRESSES)).unwrap();
    for removed in [V4, V6] {
        pod.ip(removed);
        let error = manager.view().check(&who).unwrap_err().to_string();
        assert!(error.starts_with("routes to the proxy"), "{error}");
        manager.survey_and_resync();
        manager.view().check(&who).unwrap();
    }
    manager.survey_and_resync();
    assert_eq!(sources(&pod), ADDRESSES.map(ip));
    let repairs = manager.read().unwrap().repairs;
    let repairs: Vec<_> = repairs.iter().filter(|(_, count)| *count > 0).collect();
    assert_eq!(repairs, [(Repair::AliasRoutes, 2)]);
}

#[test]
fn refused_alias_routes_are_retried() {
    let node = Node::new("refuses");
    let manager = &mut node.start();
    let (who, pod) = (attachment("a", "eth0"), Namespace::with(&ADDRESSES));
    // IPv6 has no routes over an interface that is down.
    manager.add(request(&who, &pod, &ADDRESSES)).unwrap();
    assert_eq!(merged(manager, &pod), [true, false]);
    manager.view().check(&who).unwrap();
    manager.survey_and_resync();
    assert_eq!(merged(manager, &pod), [true, false]);

    pod.ip("link set lo up");
    manager.survey_and_resync();
    assert_eq!(merged(manager, &pod), [true, true]);
    assert_eq!(sources(&pod), ADDRESSES.map(ip));

    // This removes the IPv6 addresses, which are the Pod's here.
    pod.ip("link set lo down");
    manager.survey_and_resync();
    assert!(!merged(manager, &pod)[1]);
    manager.del(&who).unwrap();
    assert!(!manager.has_netns_entry(pod.cookie()));
}

#[test]
fn alias_routes_survive_a_restart_and_detach() {
    let node = Node::new("inherited");
    let (who, pod) = (attachment("a", "eth0"), pod());
    let mut manager = node.start();
    manager.add(request(&who, &pod, &ADDRESSES)).unwrap();
    drop(manager);
    let mut manager = node.start();
    manager.view().check(&who).unwrap();
    manager.del(&who).unwrap();
    assert_eq!(sources(&pod), [] as [IpAddr; 0]);

    manager.add(request(&who, &pod, &ADDRESSES)).unwrap();
    let (pins, store, records, pending_dels) = manager.into_parts();
    crate::pods::detach(pins, &store, &records, &pending_dels).unwrap();
    assert_eq!(sources(&pod), [] as [IpAddr; 0]);
}

#[test]
fn stale_aliases_are_removed_by_resync_and_restart() {
    let node = Node::new("destinations");
    let mut manager = node.start();
    let (who, pod) = (attachment("a", "eth0"), pod());
    manager.add(request(&who, &pod, &ADDRESSES)).unwrap();
    let place = Endpoint::new(Addr::V4_ALIAS_NET, Port::new(15001));
    let of = |cookie| AliasKey::from_addr(cookie, place).unwrap();
    let (living, gone) = (of(pod.cookie()), of(7));
    let left = |manager: &PodManager| [living, gone].map(|one| manager.datapath.has_alias(one));
    for alias in [living, gone] {
        manager.datapath.insert_alias(alias, place);
    }
    manager.survey_and_resync();
    assert_eq!(left(&manager), [true, false]);

    manager.datapath.insert_alias(gone, place);
    drop(manager);
    let mut manager = node.start();
    assert_eq!(left(&manager), [true, false]);
    manager.del(&who).unwrap();
    manager.survey_and_resync();
    assert_eq!(left(&manager), [false, false]);
}
