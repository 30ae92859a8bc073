//! The routes to the addresses at which the proxy is met, and what is told there.

use std::net::IpAddr;

use sluice_abi::{Addr, Endpoint, Meeting, PodFlags, Port};

use super::{Namespace, Node, attachment, ip, request};
use crate::pods::{Repair, meetings, owner::Owner};

const ADDRESSES: [&str; 2] = ["10.1.0.1", "fd00::1"];
const V4: &str = "route delete local 127.64.0.0/10 table local";
const V6: &str = "-6 route delete local 100::7f40:0/106 table local";

/// A Pod whose `lo` is up.
fn pod() -> Namespace {
    let pod = Namespace::with(&ADDRESSES);
    pod.ip("link set lo up");
    pod
}

/// The sources of routes that are in place.
fn sources(pod: &Namespace) -> Vec<IpAddr> {
    let [v4, v6] = ADDRESSES.map(|text| Addr::from(ip(text)));
    let laid = pod.open().laid(meetings::routes(v4, v6));
    laid.unwrap().iter().map(|route| route.from).collect()
}

/// Of which families the programs have been told that a route is there.
fn told(owner: &Owner, pod: &Namespace) -> [bool; 2] {
    let process = owner.datapath.process(pod.cookie()).unwrap().unwrap();
    let flags = process.pod.flags;
    [PodFlags::ROUTED_V4, PodFlags::ROUTED_V6].map(|flag| flags.has(flag))
}

#[test]
fn routes_come_with_the_pod_and_go_with_it() {
    let node = Node::new("meetings");
    let owner = &mut node.start();
    let (who, pod) = (attachment("a", "eth0"), pod());
    owner.admit(request(&who, &pod, &ADDRESSES)).unwrap();
    assert_eq!(sources(&pod), ADDRESSES.map(ip));
    assert_eq!(told(owner, &pod), [true, true]);
    owner.admit(request(&who, &pod, &ADDRESSES)).unwrap();
    owner.check(&who).unwrap();
    owner.retire(&who).unwrap();
    assert_eq!(sources(&pod), [] as [IpAddr; 0]);
}

#[test]
fn a_pod_of_one_family_gets_one_route() {
    let node = Node::new("family");
    let owner = &mut node.start();
    for (index, address) in ADDRESSES.iter().enumerate() {
        let (who, pod) = (attachment(address, "eth0"), pod());
        owner.admit(request(&who, &pod, &[address])).unwrap();
        assert_eq!(sources(&pod), [ip(address)]);
        assert_eq!(told(owner, &pod), [index == 0, index == 1]);
        owner.check(&who).unwrap();
    }
}

#[test]
fn a_route_follows_the_pods_main_address() {
    let node = Node::new("main");
    let owner = &mut node.start();
    let (main, second) = (attachment("a", "eth0"), attachment("a", "net1"));
    let pod = pod();
    pod.open().add_to_loopback(ip("10.2.0.1")).unwrap();
    owner.admit(request(&main, &pod, &["10.2.0.1"])).unwrap();
    owner.admit(request(&second, &pod, &ADDRESSES)).unwrap();
    assert_eq!(sources(&pod), [ip("fd00::1")]);
    owner.retire(&main).unwrap();
    assert_eq!(sources(&pod), ADDRESSES.map(ip));
    owner.check(&second).unwrap();
}

#[test]
fn routes_that_somebody_removes_are_missed_and_put_back() {
    let node = Node::new("missed");
    let owner = &mut node.start();
    let (who, pod) = (attachment("a", "eth0"), pod());
    owner.admit(request(&who, &pod, &ADDRESSES)).unwrap();
    for removed in [V4, V6] {
        pod.ip(removed);
        let error = owner.check(&who).unwrap_err().to_string();
        assert!(error.starts_with("routes to the proxy"), "{error}");
        owner.keep_up();
        owner.check(&who).unwrap();
    }
    owner.keep_up();
    assert_eq!(sources(&pod), ADDRESSES.map(ip));
    let repairs = owner.read().unwrap().repairs;
    let repairs: Vec<_> = repairs.iter().filter(|(_, count)| *count > 0).collect();
    assert_eq!(repairs, [(Repair::RoutesToProxy, 2)]);
}

#[test]
fn a_namespace_that_refuses_a_route_does_without_until_it_takes_one() {
    let node = Node::new("refuses");
    let owner = &mut node.start();
    let (who, pod) = (attachment("a", "eth0"), Namespace::with(&ADDRESSES));
    // No route of IPv6 leads over an interface that is down.
    owner.admit(request(&who, &pod, &ADDRESSES)).unwrap();
    assert_eq!(told(owner, &pod), [true, false]);
    owner.check(&who).unwrap();
    owner.keep_up();
    assert_eq!(told(owner, &pod), [true, false]);

    pod.ip("link set lo up");
    owner.keep_up();
    assert_eq!(told(owner, &pod), [true, true]);
    assert_eq!(sources(&pod), ADDRESSES.map(ip));

    // Addresses of IPv6 go with it, which are the Pod's here.
    pod.ip("link set lo down");
    owner.keep_up();
    assert!(!told(owner, &pod)[1]);
    owner.retire(&who).unwrap();
    assert!(!owner.knows_process(pod.cookie()));
}

#[test]
fn the_next_daemon_knows_the_routes_and_takes_them_up() {
    let node = Node::new("inherited");
    let (who, pod) = (attachment("a", "eth0"), pod());
    let mut owner = node.start();
    owner.admit(request(&who, &pod, &ADDRESSES)).unwrap();
    drop(owner);
    let mut owner = node.start();
    owner.check(&who).unwrap();
    owner.retire(&who).unwrap();
    assert_eq!(sources(&pod), [] as [IpAddr; 0]);

    owner.admit(request(&who, &pod, &ADDRESSES)).unwrap();
    let (pins, store, records) = owner.into_parts();
    crate::pods::detach(pins, &store, &records).unwrap();
    assert_eq!(sources(&pod), [] as [IpAddr; 0]);
}

#[test]
fn destinations_of_pods_that_are_gone_are_removed_by_the_upkeep_and_by_the_next_daemon() {
    let node = Node::new("destinations");
    let mut owner = node.start();
    let (who, pod) = (attachment("a", "eth0"), pod());
    owner.admit(request(&who, &pod, &ADDRESSES)).unwrap();
    let place = Endpoint::new(Addr::V4_MEETINGS, Port::new(15001));
    let of = |cookie| Meeting::at(cookie, place).unwrap();
    let (living, gone) = (of(pod.cookie()), of(7));
    let left = |owner: &Owner| [living, gone].map(|one| owner.datapath.tells(one));
    for meeting in [living, gone] {
        owner.datapath.tell(meeting, place);
    }
    owner.keep_up();
    assert_eq!(left(&owner), [true, false]);

    owner.datapath.tell(gone, place);
    drop(owner);
    let mut owner = node.start();
    assert_eq!(left(&owner), [true, false]);
    owner.retire(&who).unwrap();
    owner.keep_up();
    assert_eq!(left(&owner), [false, false]);
}
