//! What the next daemon finds, mends and removes.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{Namespace, Node, attachment, request};
use crate::{bpf::Pins, pods::Error};

#[test]
fn the_next_daemon_takes_over_what_the_kernel_and_the_records_hold() {
    let node = Node::new("adopt");
    let (meshed, plain) = (attachment("a", "eth0"), attachment("b", "eth0"));
    let (pod, other) = (
        Namespace::with(&["10.1.0.1", "fd00::1"]),
        Namespace::with(&[]),
    );
    let mut owner = node.start();
    assert!(!owner.datapath.is_adopted());
    let addresses = ["10.1.0.1", "fd00::1"];
    owner.admit(request(&meshed, &pod, &addresses)).unwrap();
    let mut unmeshed = request(&plain, &other, &[]);
    unmeshed.annotations = Some(BTreeMap::new());
    owner.admit(unmeshed).unwrap();
    drop(owner);

    let mut owner = node.start();
    assert!(owner.datapath.is_adopted());
    assert_eq!(
        (
            owner.status().unwrap().meshed_pods,
            owner.status().unwrap().unmeshed_pods
        ),
        (1, 1)
    );
    owner.check(&meshed).unwrap();
    owner.check(&plain).unwrap();
    owner.retire(&meshed).unwrap();
    assert!(!owner.knows_process(pod.cookie()) && !pod.has("::6"));
    owner.retire(&plain).unwrap();
    assert_eq!(node.records(), 0);
}

#[test]
fn what_the_kernel_lost_meanwhile_is_put_back() {
    let node = Node::new("mend");
    let who = attachment("a", "eth0");
    let pod = Namespace::with(&["10.1.0.1"]);
    let mut owner = node.start();
    owner.admit(request(&who, &pod, &["10.1.0.1"])).unwrap();
    owner.datapath.remove_process(pod.cookie()).unwrap();
    owner.datapath.release(pod.cookie()).unwrap();
    drop(owner);
    node.start().check(&who).unwrap();
}

#[test]
fn what_is_left_of_a_pod_that_went_meanwhile_is_removed() {
    let node = Node::new("gone");
    let who = attachment("a", "eth0");
    let pod = Namespace::with(&["10.1.0.1"]);
    let cookie = pod.cookie();
    let mut owner = node.start();
    owner.admit(request(&who, &pod, &["10.1.0.1"])).unwrap();
    drop((owner, pod));
    // The kernel removes a namespace in its own time; until then the Pod lives.
    let end = Instant::now() + Duration::from_secs(10);
    let mut owner = node.start();
    while !owner.nameless.is_empty() {
        assert!(Instant::now() < end, "the namespace stays");
        std::thread::sleep(Duration::from_millis(5));
        owner.keep_up();
    }
    assert!(!owner.knows_process(cookie) && !owner.knows_address("10.1.0.1"));
    assert_eq!(owner.datapath.steered().unwrap(), [0; 0]);
    assert!(owner.attachments.is_empty());
    assert_eq!(node.records(), 0);
}

#[test]
fn upkeep_releases_a_pod_without_address_and_process() {
    let node = Node::new("abandoned");
    let who = attachment("a", "eth0");
    let pod = Namespace::with(&["10.1.0.1", "10.1.0.2"]);
    let mut owner = node.start();
    let addresses = ["10.1.0.1", "10.1.0.2"];
    owner.admit(request(&who, &pod, &addresses)).unwrap();
    for address in addresses {
        // One address is enough.
        owner.keep_up();
        owner.check(&who).unwrap();
        pod.open().remove_from_loopback(super::ip(address)).unwrap();
    }
    owner.keep_up();
    assert!(!owner.knows_process(pod.cookie()) && !owner.knows_address("10.1.0.1"));
    assert_eq!(node.records(), 0);
}

#[test]
fn a_living_pod_whose_record_is_damaged_stays_meshed_until_its_namespace_goes() {
    let node = Node::new("damaged");
    let (who, next) = (attachment("a", "eth0"), attachment("b", "eth0"));
    let pod = Namespace::with(&["10.1.0.1"]);
    let cookie = pod.cookie();
    let mut owner = node.start();
    owner.admit(request(&who, &pod, &["10.1.0.1"])).unwrap();
    drop(owner);
    std::fs::write(node.state.path().join("0.json"), "{").unwrap();

    let mut owner = node.start();
    assert!(owner.knows_process(cookie) && owner.knows_address("10.1.0.1"));
    assert!(owner.datapath.is_steered(cookie));
    let heir = Namespace::with(&["10.1.0.1"]);
    let refused = owner.admit(request(&next, &heir, &["10.1.0.1"]));
    assert!(matches!(refused, Err(Error::Taken { .. })));

    drop(pod);
    // The kernel removes a namespace in its own time.
    let end = Instant::now() + Duration::from_secs(10);
    while owner.datapath.is_steered(cookie) {
        assert!(Instant::now() < end, "the namespace stays");
        std::thread::sleep(Duration::from_millis(5));
    }
    owner.admit(request(&next, &heir, &["10.1.0.1"])).unwrap();
    assert!(!owner.knows_process(cookie));
    owner.check(&next).unwrap();
}

#[test]
fn a_pod_whose_record_is_damaged_is_known_again_when_it_is_admitted_again() {
    let node = Node::new("readmit");
    let who = attachment("a", "eth0");
    let pod = Namespace::with(&["10.1.0.1"]);
    let mut owner = node.start();
    owner.admit(request(&who, &pod, &["10.1.0.1"])).unwrap();
    drop(owner);
    std::fs::write(node.state.path().join("0.json"), "").unwrap();
    let mut owner = node.start();
    owner.admit(request(&who, &pod, &["10.1.0.1"])).unwrap();
    owner.retire(&who).unwrap();
    assert!(!owner.knows_process(pod.cookie()));
}

#[test]
fn an_incomplete_generation_is_built_anew_and_the_pods_with_it() {
    let node = Node::new("incomplete");
    let who = attachment("a", "eth0");
    let pod = Namespace::with(&["10.1.0.1"]);
    let mut owner = node.start();
    owner.admit(request(&who, &pod, &["10.1.0.1"])).unwrap();
    drop(owner);
    let root = node.private.directory();
    let generation = root.join(format!("v{}", sluice_abi::ABI_VERSION));
    std::fs::remove_file(generation.join("maps/process_ip")).unwrap();
    std::fs::rename(&generation, root.join("v0")).unwrap();
    std::fs::create_dir(&generation).unwrap();

    let owner = node.start();
    assert!(!owner.datapath.is_adopted());
    owner.check(&who).unwrap();
    let left: Vec<_> = std::fs::read_dir(root).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn hooks_that_somebody_removes_are_put_back() {
    let node = Node::new("removed");
    let who = attachment("a", "eth0");
    let pod = Namespace::with(&["10.1.0.1"]);
    let mut owner = node.start();
    owner.admit(request(&who, &pod, &["10.1.0.1"])).unwrap();
    let root = node.private.directory();
    let generation = root.join(format!("v{}", sluice_abi::ABI_VERSION));
    for directory in ["hooks", "pods"] {
        std::fs::remove_dir_all(generation.join(directory)).unwrap();
    }
    assert!(owner.check(&who).is_err());
    owner.keep_up();
    owner.check(&who).unwrap();
    assert!(generation.join("hooks/connect4").exists());
}

#[test]
fn of_two_daemons_one_owns_the_kernel_side() {
    let node = Node::new("lock");
    let _owner = node.start();
    let second = Pins::open(&node.private.directory());
    assert!(matches!(second, Err(crate::bpf::Error::Taken { .. })));
}

#[test]
fn detaching_removes_every_pin_and_record_and_what_the_pods_were_given() {
    let node = Node::new("detach");
    let who = attachment("a", "eth0");
    let pod = Namespace::with(&["fd00::1"]);
    let mut owner = node.start();
    owner.admit(request(&who, &pod, &["fd00::1"])).unwrap();
    let (pins, store, records) = owner.into_parts();
    let removed = crate::pods::detach(pins, &store, &records).unwrap();
    let hook = format!("pods/{}", pod.cookie());
    assert!(
        removed.iter().any(|path| path.ends_with(&hook)),
        "{removed:?}"
    );
    assert!(!node.private.directory().exists());
    assert_eq!(node.records(), 0);
    assert!(!pod.has("::6"));
}
