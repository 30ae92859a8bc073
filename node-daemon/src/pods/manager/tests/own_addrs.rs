//! Tests of a Pod's addresses that no runtime reported, and of changes of these addresses.

use sluice_abi::{PodFlags, maps::OWN_ADDRS_PER_POD};
use sluice_api::{Connection, ExplainRequest};

use super::{Fixture, Namespace, Node, attachment, fixture, ip, request};
use crate::{bpf::Rule, pods::manager::PodManager};

/// The entries of the Pod in `own_addrs`, and whether its flag is set.
fn own(manager: &PodManager, pod: &Namespace) -> (Vec<String>, bool) {
    let cookie = pod.cookie();
    let all = manager.datapath.all_rules().unwrap().into_iter();
    let entry = |rule| match rule {
        Rule::OwnAddr(key) if key.cookie == cookie => {
            Some(std::net::IpAddr::from(key.addr).to_string())
        }
        _ => None,
    };
    let mut found: Vec<_> = all.filter_map(entry).collect();
    found.sort();
    let entry = manager.datapath.netns_entry(cookie).unwrap();
    let flag = entry.is_some_and(|entry| entry.pod.flags.has(PodFlags::HAS_EXTRA_ADDRS));
    (found, flag)
}

fn listed(addresses: &[&str], flag: bool) -> (Vec<String>, bool) {
    (
        addresses.iter().map(|text| (*text).to_owned()).collect(),
        flag,
    )
}

#[test]
fn addresses_are_listed_and_followed() {
    let node = Node::new("own");
    let pod = Namespace::with(&["10.1.0.1", "10.9.0.1"]);
    let who = attachment("a", "eth0");
    let mut manager = node.start();
    manager.add(request(&who, &pod, &["10.1.0.1"])).unwrap();
    assert_eq!(own(&manager, &pod), listed(&["10.9.0.1"], true));

    pod.ip("address delete 10.9.0.1/32 dev lo");
    pod.ip("address add fe80::9/64 dev lo");
    manager.refresh_routes();
    assert_eq!(own(&manager, &pod), listed(&[], false));

    pod.ip("address add fd00::9/128 dev lo");
    drop(manager);
    let mut manager = node.start();
    let both = listed(&["fd00::9"], true);
    assert_eq!(own(&manager, &pod), both);
    manager.repair_alias_routes();
    assert_eq!(own(&manager, &pod), both);
    manager.view().check(&who).unwrap();

    manager.del(&who).unwrap();
    assert_eq!(own(&manager, &pod), listed(&[], false));
}

#[test]
fn two_pods_may_have_the_same_unreported_address() {
    let Fixture { manager, .. } = &mut fixture("same");
    let pods = ["10.1.0.1", "10.1.0.2"].map(|main| (Namespace::with(&[main, "10.9.0.1"]), main));
    for (pod, main) in &pods {
        let who = attachment(main, "eth0");
        manager.add(request(&who, pod, &[main])).unwrap();
    }
    for (pod, _) in &pods {
        assert_eq!(own(manager, pod), listed(&["10.9.0.1"], true));
    }
    assert!(!manager.has_address("10.9.0.1"));
}

#[test]
fn second_reported_address_is_an_own_one() {
    let Fixture { manager, .. } = &mut fixture("reported");
    let pod = Namespace::with(&["10.1.0.1", "10.1.0.2"]);
    let who = attachment("a", "eth0");
    let addresses = ["10.1.0.1", "10.1.0.2"];
    manager.add(request(&who, &pod, &addresses)).unwrap();
    assert_eq!(own(manager, &pod), listed(&["10.1.0.2"], true));
    assert!(manager.has_address("10.1.0.2"));
}

#[test]
fn pod_with_too_many_addresses_keeps_to_its_share() {
    let Fixture { manager, .. } = &mut fixture("many");
    let pod = Namespace::with(&["10.1.0.1"]);
    let who = attachment("a", "eth0");
    manager.add(request(&who, &pod, &["10.1.0.1"])).unwrap();
    let problems = |manager: &mut PodManager| {
        let all = manager.status().unwrap().problems;
        all.iter().filter(|one| one.contains("addresses")).count()
    };
    assert_eq!(problems(manager), 0);
    for n in 0..=OWN_ADDRS_PER_POD {
        pod.ip(&format!("address add 10.9.0.{n}/32 dev lo"));
    }
    manager.refresh_routes();
    assert_eq!(own(manager, &pod).0.len(), OWN_ADDRS_PER_POD);
    assert_eq!(problems(manager), 1);

    pod.ip("address delete 10.9.0.0/32 dev lo");
    manager.refresh_routes();
    assert_eq!(own(manager, &pod).0.len(), OWN_ADDRS_PER_POD);
    assert_eq!(problems(manager), 0);
}

#[test]
fn explained_as_the_programs_decide() {
    let Fixture { manager, .. } = &mut fixture("explained");
    let pod = Namespace::with(&["10.1.0.1", "10.9.0.1"]);
    let who = attachment("a", "eth0");
    manager.add(request(&who, &pod, &["10.1.0.1"])).unwrap();
    let rule = |manager: &PodManager, to: &str, uid: u32| {
        let question = ExplainRequest {
            pod: who.container_id.clone(),
            connection: Connection::Outbound {
                to: (ip(to), 8080).into(),
                uid,
                gid: uid,
                udp: false,
            },
        };
        manager.view().explain(&question).unwrap().rule
    };
    for (to, uid, expected) in [
        ("10.9.0.1", 1337, "outbound_hairpin"),
        ("10.9.0.1", 1000, "outbound_local"),
        ("10.9.0.2", 1337, "outbound_by_proxy"),
        ("10.9.0.2", 1000, "outbound_to_proxy"),
    ] {
        assert_eq!(rule(manager, to, uid), expected, "{to} {uid}");
    }
}
