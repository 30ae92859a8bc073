//! Tests of the routing of connections that keep their source: it is added and removed with the Pod.

use sluice_api::{AddRequest, Attachment};

use super::{Namespace, Node, attachment, request};
use crate::pods::{Repair, manager::PodManager};

const ADDRESSES: [&str; 2] = ["10.1.0.1", "fd00::1"];
const SETTINGS: [&str; 3] = [
    "net.ipv4.tcp_fwmark_accept",
    "net.ipv4.fwmark_reflect",
    "net.ipv6.fwmark_reflect",
];

/// A Pod with `lo` up.
fn pod() -> Namespace {
    let pod = Namespace::with(&ADDRESSES);
    pod.ip("link set lo up");
    pod
}

/// A Pod that selects `TPROXY`.
fn tproxy(who: &Attachment, pod: &Namespace, addresses: &[&str]) -> AddRequest {
    let mut asked = request(who, pod, addresses);
    let annotations = asked.annotations.get_or_insert_default();
    let mode = "sidecar.istio.io/interceptionMode".to_owned();
    annotations.insert(mode, "TPROXY".to_owned());
    asked
}

/// Rules, routes and settings of a netns, as text.
fn inside(pod: &Namespace) -> Vec<String> {
    let [rules4, rules6, routes4, routes6] = [
        "ip -4 rule",
        "ip -6 rule",
        "ip -4 route show table all type local default",
        "ip -6 route show table all type local default",
    ]
    .map(|command| pod.output(command));
    let settings = pod.output(&format!("sysctl {}", SETTINGS.join(" ")));
    vec![rules4, rules6, routes4, routes6, settings]
}

fn mark(manager: &PodManager, pod: &Namespace) -> u32 {
    let entry = manager.datapath.netns_entry(pod.cookie()).unwrap();
    entry.unwrap().pod.source_mark
}

#[test]
fn source_routing_comes_and_goes_with_the_pod() {
    let node = Node::new("source");
    let manager = &mut node.start();
    let (who, pod) = (attachment("a", "eth0"), pod());
    let before = inside(&pod);
    manager.add(tproxy(&who, &pod, &ADDRESSES)).unwrap();
    let enrolled = inside(&pod);
    for (index, family) in enrolled[..2].iter().enumerate() {
        assert!(family.contains("fwmark 0x539 lookup 15006"), "{family}");
        assert!(enrolled[2 + index].contains("table 15006"), "{enrolled:?}");
    }
    assert!(!enrolled[4].contains("= 0"), "{enrolled:?}");
    assert_eq!(mark(manager, &pod), 1337);
    manager.add(tproxy(&who, &pod, &ADDRESSES)).unwrap();
    manager.view().check(&who).unwrap();
    assert_eq!(inside(&pod), enrolled);
    manager.del(&who).unwrap();
    assert_eq!(inside(&pod), before);
}

#[test]
fn redirect_mode_changes_nothing_inside() {
    let node = Node::new("no-source");
    let manager = &mut node.start();
    let (who, pod) = (attachment("a", "eth0"), pod());
    let before = inside(&pod);
    manager.add(request(&who, &pod, &ADDRESSES)).unwrap();
    assert_eq!(inside(&pod), before);
    assert_eq!(mark(manager, &pod), 0);
}

#[test]
fn settings_that_were_on_stay_on() {
    let node = Node::new("source-on");
    let (who, pod) = (attachment("a", "eth0"), pod());
    pod.output("sysctl -w net.ipv4.fwmark_reflect=1");
    pod.ip("rule add fwmark 1337 lookup 133");
    let before = inside(&pod);
    node.start().add(tproxy(&who, &pod, &ADDRESSES)).unwrap();
    // Another daemon knows it from the record.
    node.start().del(&who).unwrap();
    assert_eq!(inside(&pod), before);
}

#[test]
fn lost_source_routing_is_repaired() {
    let node = Node::new("source-lost");
    let manager = &mut node.start();
    let (who, pod) = (attachment("a", "eth0"), pod());
    manager.add(tproxy(&who, &pod, &ADDRESSES)).unwrap();
    let enrolled = inside(&pod);
    for damage in [
        "-4 rule delete pref 15006",
        "-6 rule delete pref 15006",
        "-6 route delete local default table 15006",
    ] {
        pod.ip(damage);
        assert!(manager.view().check(&who).is_err(), "{damage}");
        manager.survey_and_resync();
        assert_eq!(inside(&pod), enrolled, "{damage}");
        manager.view().check(&who).unwrap();
    }
    let repairs = manager.read().unwrap().repairs;
    let repairs: Vec<_> = repairs.iter().filter(|(_, count)| *count > 0).collect();
    assert_eq!(repairs, [(Repair::AliasRoutes, 3)]);
}

#[test]
fn a_netns_without_a_route_over_lo_keeps_no_source() {
    let node = Node::new("source-refused");
    let manager = &mut node.start();
    let (who, pod) = (attachment("a", "eth0"), Namespace::with(&ADDRESSES));
    let before = inside(&pod);
    manager.add(tproxy(&who, &pod, &ADDRESSES)).unwrap();
    assert_eq!(mark(manager, &pod), 0);
    assert_eq!(inside(&pod), before);
    pod.ip("link set lo up");
    manager.survey_and_resync();
    assert_eq!(mark(manager, &pod), 1337);
    manager.del(&who).unwrap();
    assert_eq!(inside(&pod), before);
}

#[test]
fn detach_removes_source_routing() {
    let node = Node::new("source-detach");
    let mut manager = node.start();
    let (who, pod) = (attachment("a", "eth0"), pod());
    let before = inside(&pod);
    manager.add(tproxy(&who, &pod, &ADDRESSES)).unwrap();
    let (pins, store, records, pending_dels) = manager.into_parts();
    crate::pods::detach(pins, &store, &records, &pending_dels).unwrap();
    assert_eq!(inside(&pod), before);
}
