//! Tests of settings that depend on a Pod's routes, and of changes of these routes.

use std::net::IpAddr;

use super::{Fixture, Namespace, Node, attachment, fixture, ip, request};
use crate::{bpf::Rule, pods::manager::PodManager};

/// A Pod with a second interface that is up.
fn pod(addresses: &[&str]) -> Namespace {
    let pod = Namespace::with(addresses);
    pod.ip("link set lo up");
    add_interface(&pod);
    pod
}

fn add_interface(pod: &Namespace) {
    pod.ip("link add net1 type veth peer name other");
    pod.ip("link set net1 up");
    pod.ip("link set other up");
}

#[test]
fn sources_of_default_routes_are_the_main_addresses() {
    let node = Node::new("sources");
    let addresses = ["10.1.0.1", "10.1.0.2", "fd00::1", "fd00::2"];
    let pod = pod(&addresses);
    pod.ip("route add default dev net1 src 10.1.0.2");
    pod.ip("route add default dev net1 src fd00::2");
    let who = attachment("a", "eth0");
    let mut manager = node.start();
    manager.add(request(&who, &pod, &addresses)).unwrap();
    let main = |manager: &PodManager| {
        let netns_entry = manager.datapath.netns_entry(pod.cookie()).unwrap().unwrap();
        [netns_entry.v4, netns_entry.v6].map(IpAddr::from)
    };
    assert_eq!(main(&manager), ["10.1.0.2", "fd00::2"].map(ip));
    drop(manager);
    assert_eq!(main(&node.start()), ["10.1.0.2", "fd00::2"].map(ip));
}

#[test]
fn other_routes_sources_are_listed_and_followed() {
    let Fixture { manager, .. } = &mut fixture("others");
    let addresses = ["10.1.0.1", "10.2.0.1"];
    let pod = pod(&addresses);
    pod.ip("route add default dev net1 src 10.1.0.1");
    pod.ip("route add 192.0.2.0/24 dev net1 src 10.2.0.1");
    let who = attachment("a", "eth0");
    manager.add(request(&who, &pod, &addresses)).unwrap();
    let sources = |manager: &PodManager| -> Vec<IpAddr> {
        let all = manager.datapath.all_rules().unwrap().into_iter();
        let source = |entry| match entry {
            Rule::Prefsrc(_, from) => Some(from.into()),
            _ => None,
        };
        let mut found: Vec<IpAddr> = all.filter_map(source).collect();
        found.sort();
        found
    };
    assert_eq!(sources(manager), ["10.1.0.1", "10.2.0.1"].map(ip));

    // Another address replaces one.
    pod.ip("route add 198.18.0.0/15 dev net1 src 10.2.0.1");
    pod.ip("route replace 192.0.2.0/24 dev net1 src 10.1.0.1");
    manager.refresh_routes();
    assert_eq!(
        sources(manager),
        ["10.1.0.1", "10.1.0.1", "10.2.0.1"].map(ip)
    );

    pod.ip("route delete 198.18.0.0/15");
    manager.refresh_routes();
    assert_eq!(sources(manager), [] as [IpAddr; 0]);
    manager.del(&who).unwrap();
    assert!(!manager.has_netns_entry(pod.cookie()));
}

#[test]
fn the_routes_of_an_excluded_interface_are_followed() {
    let Fixture { manager, .. } = &mut fixture("routes");
    let pod = Namespace::with(&["10.1.0.1"]);
    let mut request = request(&attachment("a", "eth0"), &pod, &["10.1.0.1"]);
    let annotations = request.annotations.get_or_insert_default();
    let key = "traffic.sidecar.istio.io/excludeInterfaces";
    annotations.insert(key.to_owned(), "net1".to_owned());
    manager.add(request).unwrap();
    let bypass = |manager: &PodManager| {
        let all = manager.datapath.all_rules().unwrap();
        let bypass =
            |entry: &&Rule| matches!(entry, Rule::BypassCidr(_) | Rule::ExcludeInterface(_));
        all.iter().filter(bypass).count()
    };
    assert_eq!(bypass(manager), 0);

    add_interface(&pod);
    pod.ip("route add 192.0.2.0/24 dev net1");
    manager.refresh_routes();
    assert_eq!(bypass(manager), 2);

    pod.ip("link delete net1");
    manager.refresh_routes();
    assert_eq!(bypass(manager), 0);
}
