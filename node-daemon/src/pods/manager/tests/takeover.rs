//! Tests of takeover: the state that the next daemon adopts, repairs and removes.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{Namespace, Node, attachment, request};
use crate::{bpf::Pins, pods::Error};

#[test]
fn takeover_adopts_kernel_state_and_records() {
    let node = Node::new("adopt");
    let (meshed, plain) = (attachment("a", "eth0"), attachment("b", "eth0"));
    let (pod, other) = (
        Namespace::with(&["10.1.0.1", "fd00::1"]),
        Namespace::with(&[]),
    );
    let mut manager = node.start();
    assert!(!manager.datapath.is_adopted());
    let addresses = ["10.1.0.1", "fd00::1"];
    manager.add(request(&meshed, &pod, &addresses)).unwrap();
    let mut unmeshed = request(&plain, &other, &[]);
    unmeshed.annotations = Some(BTreeMap::new());
    manager.add(unmeshed).unwrap();
    drop(manager);

    let mut manager = node.start();
    assert!(manager.datapath.is_adopted());
    assert_eq!(
        (
            manager.status().unwrap().meshed_pods,
            manager.status().unwrap().unmeshed_pods
        ),
        (1, 1)
    );
    manager.view().check(&meshed).unwrap();
    manager.view().check(&plain).unwrap();
    manager.del(&meshed).unwrap();
    assert!(!manager.has_netns_entry(pod.cookie()) && !pod.has("::6"));
    manager.del(&plain).unwrap();
    assert_eq!(node.records(), 0);
}

#[test]
fn lost_kernel_state_is_restored() {
    let node = Node::new("repair");
    let who = attachment("a", "eth0");
    let pod = Namespace::with(&["10.1.0.1"]);
    let mut manager = node.start();
    manager.add(request(&who, &pod, &["10.1.0.1"])).unwrap();
    manager.datapath.remove_netns_entry(pod.cookie()).unwrap();
    manager.datapath.detach_sk_lookup(pod.cookie()).unwrap();
    drop(manager);
    node.start().view().check(&who).unwrap();
}

#[test]
fn takeover_removes_state_of_deleted_pods() {
    let node = Node::new("gone");
    let who = attachment("a", "eth0");
    let pod = Namespace::with(&["10.1.0.1"]);
    let cookie = pod.cookie();
    let mut manager = node.start();
    manager.add(request(&who, &pod, &["10.1.0.1"])).unwrap();
    drop((manager, pod));
    // The kernel removes a namespace asynchronously; until then the Pod is alive.
    let end = Instant::now() + Duration::from_secs(10);
    let mut manager = node.start();
    while !manager.namespaces.all_cookies().is_empty() {
        assert!(Instant::now() < end, "the namespace stays");
        std::thread::sleep(Duration::from_millis(5));
        manager.survey_and_resync();
    }
    assert!(!manager.has_netns_entry(cookie) && !manager.has_address("10.1.0.1"));
    assert_eq!(manager.datapath.netns_with_sk_lookup().unwrap(), [0; 0]);
    assert!(manager.registry.is_empty());
    assert_eq!(node.records(), 0);
}

#[test]
fn resync_releases_a_pod_without_address_and_process() {
    let node = Node::new("abandoned");
    let who = attachment("a", "eth0");
    let pod = Namespace::with(&["10.1.0.1", "10.1.0.2"]);
    let mut manager = node.start();
    let addresses = ["10.1.0.1", "10.1.0.2"];
    manager.add(request(&who, &pod, &addresses)).unwrap();
    for address in addresses {
        // One address is enough.
        manager.survey_and_resync();
        manager.view().check(&who).unwrap();
        pod.open().remove_from_loopback(super::ip(address)).unwrap();
    }
    manager.survey_and_resync();
    assert!(!manager.has_netns_entry(pod.cookie()) && !manager.has_address("10.1.0.1"));
    assert_eq!(node.records(), 0);
}

#[test]
fn damaged_records_keep_the_pod_intercepted() {
    let node = Node::new("damaged");
    let (who, next) = (attachment("a", "eth0"), attachment("b", "eth0"));
    let pod = Namespace::with(&["10.1.0.1"]);
    let cookie = pod.cookie();
    let mut manager = node.start();
    manager.add(request(&who, &pod, &["10.1.0.1"])).unwrap();
    drop(manager);
    std::fs::write(node.state.path().join("0.json"), "{").unwrap();

    let mut manager = node.start();
    assert!(manager.has_netns_entry(cookie) && manager.has_address("10.1.0.1"));
    assert!(manager.datapath.has_sk_lookup(cookie));
    let heir = Namespace::with(&["10.1.0.1"]);
    let refused = manager.add(request(&next, &heir, &["10.1.0.1"]));
    assert!(matches!(refused, Err(Error::Taken { .. })));

    drop(pod);
    // The kernel removes a namespace asynchronously.
    let end = Instant::now() + Duration::from_secs(10);
    while manager.datapath.has_sk_lookup(cookie) {
        assert!(Instant::now() < end, "the namespace stays");
        std::thread::sleep(Duration::from_millis(5));
    }
    manager.add(request(&next, &heir, &["10.1.0.1"])).unwrap();
    assert!(!manager.has_netns_entry(cookie));
    manager.view().check(&next).unwrap();
}

#[test]
fn add_replaces_a_damaged_record() {
    let node = Node::new("readmit");
    let who = attachment("a", "eth0");
    let pod = Namespace::with(&["10.1.0.1"]);
    let mut manager = node.start();
    manager.add(request(&who, &pod, &["10.1.0.1"])).unwrap();
    drop(manager);
    std::fs::write(node.state.path().join("0.json"), "").unwrap();
    let mut manager = node.start();
    manager.add(request(&who, &pod, &["10.1.0.1"])).unwrap();
    manager.del(&who).unwrap();
    assert!(!manager.has_netns_entry(pod.cookie()));
}

#[test]
fn an_incomplete_generation_is_built_anew_and_the_pods_with_it() {
    let node = Node::new("incomplete");
    let who = attachment("a", "eth0");
    let pod = Namespace::with(&["10.1.0.1"]);
    let mut manager = node.start();
    manager.add(request(&who, &pod, &["10.1.0.1"])).unwrap();
    drop(manager);
    let root = node.private.directory();
    let generation = root.join(format!("v{}", sluice_abi::ABI_VERSION));
    std::fs::remove_file(generation.join("maps/process_ip")).unwrap();
    std::fs::rename(&generation, root.join("v0")).unwrap();
    std::fs::create_dir(&generation).unwrap();

    let manager = node.start();
    assert!(!manager.datapath.is_adopted());
    manager.view().check(&who).unwrap();
    let left: Vec<_> = std::fs::read_dir(root).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn removed_hooks_are_reattached() {
    let node = Node::new("removed");
    let who = attachment("a", "eth0");
    let pod = Namespace::with(&["10.1.0.1"]);
    let mut manager = node.start();
    manager.add(request(&who, &pod, &["10.1.0.1"])).unwrap();
    let root = node.private.directory();
    let generation = root.join(format!("v{}", sluice_abi::ABI_VERSION));
    for directory in ["hooks", "root", "pods"] {
        std::fs::remove_dir_all(generation.join(directory)).unwrap();
    }
    assert!(manager.view().check(&who).is_err());
    manager.survey_and_resync();
    manager.view().check(&who).unwrap();
    assert!(generation.join("root/root_connect4").exists());
}

#[test]
fn second_owner_of_the_pins_is_refused() {
    let node = Node::new("lock");
    let _owner = node.start();
    let second = Pins::open(&node.private.directory());
    assert!(matches!(second, Err(crate::bpf::Error::Taken { .. })));
}

#[test]
fn detach_removes_pins_records_and_pod_routes() {
    let node = Node::new("detach");
    let who = attachment("a", "eth0");
    let pod = Namespace::with(&["fd00::1"]);
    let mut manager = node.start();
    manager.add(request(&who, &pod, &["fd00::1"])).unwrap();
    let (pins, store, records, pending_dels) = manager.into_parts();
    let removed = crate::pods::detach(pins, &store, &records, &pending_dels).unwrap();
    let hook = format!("pods/{}", pod.cookie());
    assert!(
        removed.iter().any(|path| path.ends_with(&hook)),
        "{removed:?}"
    );
    assert!(!node.private.directory().exists());
    assert_eq!(node.records(), 0);
    assert!(!pod.has("::6"));
}
