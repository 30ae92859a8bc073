//! Tests of the Pod manager with a real kernel side, attached to a cgroup without processes, and
//! with network namespaces created for each test.

mod alias_routes;
mod departed;
mod fixture;
mod own_addrs;
mod reserved_ports;
mod routes;
mod source_routing;
mod takeover;

use std::{
    thread,
    time::{Duration, Instant},
};

use sluice_api::{GcRequest, ProgramView, ValidAttachment};

use super::*;
use crate::netns;
use crate::pods::{
    Error, Repair,
    apply::{AppliedState, Target},
    plan::KernelState,
    policy,
    survey::Survey,
};
use fixture::{Fixture, Namespace, Node, attachment, fixture, ip, request};

impl PodManager {
    /// One resync, with a survey of its own.
    fn survey_and_resync(&mut self) {
        self.resync(Survey::of(&self.brief()));
    }

    fn has_address(&self, address: &str) -> bool {
        let found = self.datapath.address(ip(address).into());
        found.expect("a readable map").is_some()
    }

    fn has_netns_entry(&self, cookie: u64) -> bool {
        self.datapath
            .netns_entry(cookie)
            .expect("a readable map")
            .is_some()
    }
}

/// Waits up to five seconds.
fn wait_until(condition: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(5);
    while !condition() && Instant::now() < end {
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn del_removes_what_add_wrote() {
    let Fixture { manager, .. } = &mut fixture("retire");
    let who = attachment("a", "eth0");
    let pod = Namespace::with(&["10.1.0.1", "fd00::1"]);
    let cookie = pod.cookie();

    manager
        .add(request(&who, &pod, &["10.1.0.1", "fd00::1"]))
        .unwrap();
    assert!(manager.has_netns_entry(cookie) && manager.has_address("10.1.0.1"));
    assert!(manager.has_address("fd00::1") && pod.has("::6"));
    manager.view().check(&who).unwrap();

    assert_eq!(
        manager.del(&who).unwrap().attachments,
        std::slice::from_ref(&who)
    );
    assert!(!manager.has_netns_entry(cookie) && !manager.has_address("10.1.0.1"));
    assert!(!manager.has_address("fd00::1") && !pod.has("::6"));
    assert!(manager.namespaces.count() == (0, 0) && manager.registry.is_empty());
    assert_eq!(manager.del(&who).unwrap().attachments, []);
}

#[test]
fn proxy_ids_are_mapped_to_host_ids() {
    let node = Node::new("users");
    let pod = Namespace(netns::netns_with_own_userns());
    pod.open().add_to_loopback(ip("10.1.0.1")).unwrap();
    let mut manager = node.start();
    let who = attachment("a", "eth0");
    manager.add(request(&who, &pod, &["10.1.0.1"])).unwrap();
    let proxy = |manager: &PodManager| {
        let netns_entry = manager.datapath.netns_entry(pod.cookie()).unwrap().unwrap();
        (netns_entry.pod.proxy_uid, netns_entry.pod.proxy_gid)
    };
    assert_eq!(proxy(&manager), (1_001_337, 2_001_337));
    drop(manager);

    let manager = node.start();
    assert_eq!(proxy(&manager), (1_001_337, 2_001_337));
}

#[test]
fn an_address_on_lo_that_was_there_before_stays() {
    let Fixture { manager, .. } = &mut fixture("passthrough");
    let who = attachment("a", "eth0");
    let pod = Namespace::with(&["fd00::1", "::6"]);
    manager.add(request(&who, &pod, &["fd00::1"])).unwrap();
    manager.del(&who).unwrap();
    assert!(pod.has("::6"));
}

#[test]
fn repeated_add_replaces_changed_addresses() {
    let Fixture { manager, .. } = &mut fixture("again");
    let who = attachment("a", "eth0");
    let pod = Namespace::with(&["10.1.0.1", "10.1.0.2"]);
    manager.add(request(&who, &pod, &["10.1.0.1"])).unwrap();
    manager.add(request(&who, &pod, &["10.1.0.1"])).unwrap();
    manager.view().check(&who).unwrap();
    manager.add(request(&who, &pod, &["10.1.0.2"])).unwrap();
    assert!(manager.has_address("10.1.0.2") && !manager.has_address("10.1.0.1"));
    assert_eq!(manager.status().unwrap().meshed_pods, 1);
}

#[test]
fn an_attachment_in_another_namespace_leaves_the_old_one() {
    let Fixture { manager, .. } = &mut fixture("moved");
    let who = attachment("a", "eth0");
    let (old, new) = (
        Namespace::with(&["10.1.0.1"]),
        Namespace::with(&["10.1.0.2"]),
    );
    manager.add(request(&who, &old, &["10.1.0.1"])).unwrap();
    manager.add(request(&who, &new, &["10.1.0.2"])).unwrap();
    assert!(!manager.has_netns_entry(old.cookie()) && manager.has_netns_entry(new.cookie()));
    assert!(!manager.has_address("10.1.0.1") && manager.has_address("10.1.0.2"));
}

#[test]
fn two_attachments_of_one_namespace_are_one_pod() {
    let Fixture { manager, .. } = &mut fixture("multus");
    let (main, second) = (attachment("a", "eth0"), attachment("a", "net1"));
    let pod = Namespace::with(&["10.1.0.1", "10.2.0.1"]);
    manager.add(request(&main, &pod, &["10.1.0.1"])).unwrap();
    manager.add(request(&second, &pod, &["10.2.0.1"])).unwrap();
    let netns_entry = manager.datapath.netns_entry(pod.cookie()).unwrap().unwrap();
    assert_eq!(netns_entry.v4, ip("10.1.0.1").into());
    assert!(
        netns_entry
            .pod
            .flags
            .has(sluice_abi::PodFlags::HAS_EXTRA_ADDRS)
    );

    manager.del(&main).unwrap();
    let netns_entry = manager.datapath.netns_entry(pod.cookie()).unwrap().unwrap();
    assert_eq!(netns_entry.v4, ip("10.2.0.1").into());
    assert!(!manager.has_address("10.1.0.1"));
    manager.view().check(&second).unwrap();
    manager.del(&second).unwrap();
    assert!(!manager.has_netns_entry(pod.cookie()));
}

#[test]
fn an_address_belongs_to_a_pod_for_as_long_as_its_namespace_is_there() {
    let Fixture { manager, .. } = &mut fixture("claim");
    let (first, second) = (attachment("a", "eth0"), attachment("b", "eth0"));
    let (old, new) = (
        Namespace::with(&["10.1.0.1"]),
        Namespace::with(&["10.1.0.1"]),
    );
    manager.add(request(&first, &old, &["10.1.0.1"])).unwrap();
    let refused = manager
        .add(request(&second, &new, &["10.1.0.1"]))
        .unwrap_err();
    assert!(matches!(refused, Error::Taken { .. }), "{refused}");
    manager.view().check(&first).unwrap();

    drop(old);
    manager.add(request(&second, &new, &["10.1.0.1"])).unwrap();
    let owned = manager
        .datapath
        .address(ip("10.1.0.1").into())
        .unwrap()
        .unwrap();
    assert_eq!(owned.cookie, new.cookie());
    assert!(matches!(
        manager.view().check(&first),
        Err(Error::Unknown(_))
    ));
}

#[test]
fn a_refused_pod_leaves_nothing_behind() {
    let Fixture { manager, .. } = &mut fixture("refused");
    let who = attachment("a", "eth0");
    let pod = Namespace::with(&["10.1.0.1"]);
    let refused = manager.add(request(&who, &pod, &["10.1.0.1", "10.1.0.9"]));
    assert!(matches!(refused, Err(Error::Address(_))));
    assert!(!manager.has_netns_entry(pod.cookie()) && !manager.has_address("10.1.0.1"));
    assert!(manager.registry.is_empty());
}

#[test]
fn failed_step_undoes_earlier_steps() {
    let Fixture { manager, .. } = &mut fixture("rollback");
    let Ok(Verdict::Intercept(policy)) = policy::decide(
        &manager.node_policy,
        request(&attachment("a", "eth0"), &Namespace::with(&[]), &[])
            .annotations
            .as_ref(),
    ) else {
        panic!("it is meshed");
    };
    let policy = policy.provisional();
    let desired = plan::desired(7, &policy, &[ip("10.1.0.1")], Changes::PASSTHROUGH);
    let mut kernel = AppliedState::of(7, KernelState::default());
    let mut target = Target {
        datapath: &mut manager.datapath,
        netns: None,
    };
    let failed = kernel.apply(&mut target, desired);
    assert!(matches!(failed, Err(Error::Gone)));
    assert_eq!(kernel.state(), &KernelState::default());
    assert!(!manager.has_netns_entry(7) && !manager.has_address("10.1.0.1"));
}

#[test]
fn check_names_the_first_difference() {
    let node = Node::new("check");
    let manager = &mut node.start();
    let who = attachment("a", "eth0");
    let pod = Namespace::with(&["10.1.0.1", "fd00::1"]);
    let addresses = ["10.1.0.1", "fd00::1"];
    manager.add(request(&who, &pod, &addresses)).unwrap();
    manager.view().check(&who).unwrap();
    let differs = |manager: &PodManager, what: &str| {
        let error = manager.view().check(&who).unwrap_err().to_string();
        assert!(error.starts_with(what), "{error}");
    };
    // CHECK compares each of these states before the ones above.
    pod.open().remove_from_loopback(PASSTHROUGH).unwrap();
    differs(manager, "::6 on the loopback interface");
    let state = manager
        .namespaces
        .get(pod.cookie())
        .unwrap()
        .state()
        .clone();
    let listed = state.rule_set.iter().next().unwrap();
    manager.datapath.remove_rule(listed).unwrap();
    differs(manager, "listed Port");
    let policy = state.netns_entry.unwrap().pod;
    let foreign = ip("10.1.0.9").into();
    manager.datapath.set_address(foreign, &policy).unwrap();
    differs(manager, "local_pod_ips at 10.1.0.9");
    manager
        .datapath
        .remove_address(ip("10.1.0.1").into())
        .unwrap();
    differs(manager, "local_pod_ips at 10.1.0.1");
    manager.datapath.remove_netns_entry(pod.cookie()).unwrap();
    differs(manager, "process_ip");
    manager.datapath.detach_sk_lookup(pod.cookie()).unwrap();
    differs(manager, "inbound hook attached");
    remove_root_connect4(&node, manager);
    differs(manager, "hooks of the cgroup missing");
}

/// Removes a program from the root, as another agent may.
fn remove_root_connect4(node: &Node, manager: &PodManager) {
    let generation = format!("v{}/root/root_connect4", sluice_abi::ABI_VERSION);
    std::fs::remove_file(node.private.directory().join(generation)).unwrap();
    // The kernel detaches the program after an RCU grace period (`bpf_destroy_inode`).
    wait_until(|| !manager.datapath.missing().unwrap().is_empty());
}

#[test]
fn missing_hooks_are_in_the_status_until_they_are_repaired() {
    let node = Node::new("hooks");
    let manager = &mut node.start();
    let who = attachment("a", "eth0");
    let pod = Namespace::with(&["10.1.0.1"]);
    manager.add(request(&who, &pod, &["10.1.0.1"])).unwrap();
    manager.datapath.detach_sk_lookup(pod.cookie()).unwrap();
    remove_root_connect4(&node, manager);
    let status = manager.status().unwrap();
    assert_eq!(
        status.problems,
        ["hooks of the cgroup are missing: root_connect4"]
    );
    let connect = |one: &&ProgramView| one.name == "root_connect4";
    assert_eq!(
        status.programs.iter().find(connect).unwrap().attach_count,
        0
    );
    assert!(!status.ready);
    manager.survey_and_resync();
    let status = manager.status().unwrap();
    // The root of the test has no children.
    let absent = [
        "connect4",
        "connect6",
        "post_bind4",
        "post_bind6",
        "reroute_in",
        "reroute_out",
        "sendmsg4",
        "sendmsg6",
        "sock_create",
    ];
    let hooked = |one: &ProgramView| one.attach_count == usize::from(!absent.contains(&&*one.name));
    assert!(status.ready && status.programs.iter().all(hooked));
    let repairs = manager.read().unwrap().repairs;
    let repairs: Vec<_> = repairs.iter().filter(|(_, count)| *count > 0).collect();
    assert_eq!(repairs, [(Repair::Hooks, 1), (Repair::InboundHook, 1)]);
}

#[test]
fn check_compares_the_report_with_the_record() {
    let Fixture { manager, .. } = &mut fixture("report");
    let who = attachment("a", "eth0");
    let pod = Namespace::with(&["10.1.0.1", "fd00::1"]);
    let admitted = request(&who, &pod, &["10.1.0.1", "fd00::1"]);
    manager.add(admitted.clone()).unwrap();
    manager.view().check_reported(&admitted).unwrap();
    let differs = |manager: &PodManager, request: &AddRequest, what: &str| {
        let error = manager
            .view()
            .check_reported(request)
            .unwrap_err()
            .to_string();
        assert!(error.contains(what), "{error}");
    };
    let mut request = admitted.clone();
    request.addresses.pop();
    differs(manager, &request, "addresses in prevResult");

    let elsewhere = Namespace::with(&["10.1.0.1", "fd00::1"]);
    let mut request = admitted.clone();
    request.netns = elsewhere.path();
    differs(manager, &request, "cookie of CNI_NETNS");

    let mut request = admitted.clone();
    let excluded = "traffic.sidecar.istio.io/excludeOutboundPorts";
    let annotations = request.annotations.as_mut().unwrap();
    annotations.insert(excluded.to_owned(), "9000".to_owned());
    differs(manager, &request, "annotations");
    request.annotations = None;
    manager.view().check_reported(&request).unwrap();

    pod.open().remove_from_loopback(ip("10.1.0.1")).unwrap();
    differs(manager, &admitted, "10.1.0.1 is reported on lo");
}

#[test]
fn del_without_a_network_finds_the_attachment() {
    let Fixture { manager, .. } = &mut fixture("unnamed");
    let who = attachment("a", "eth0");
    let pod = Namespace::with(&["10.1.0.1"]);
    manager.add(request(&who, &pod, &["10.1.0.1"])).unwrap();
    let unnamed = |container: &str, ifname: &str| Attachment {
        network: String::new(),
        ..attachment(container, ifname)
    };
    assert_eq!(manager.del(&unnamed("a", "net1")).unwrap().attachments, []);
    assert_eq!(manager.del(&unnamed("b", "eth0")).unwrap().attachments, []);
    assert_eq!(
        manager.del(&unnamed("a", "eth0")).unwrap().attachments,
        [who]
    );
    assert!(!manager.has_netns_entry(pod.cookie()));
}

#[test]
fn gc_is_limited_to_its_network() {
    let Fixture { manager, .. } = &mut fixture("gc");
    let (kept, gone) = (attachment("a", "eth0"), attachment("b", "eth0"));
    let foreign = Attachment {
        network: "other".into(),
        ..attachment("c", "eth0")
    };
    for who in [&kept, &gone, &foreign] {
        let pod = Namespace::with(&[]);
        let mut request = request(who, &pod, &[]);
        request.annotations = Some(BTreeMap::new());
        assert!(!manager.add(request).unwrap().meshed);
    }
    let valid = ValidAttachment {
        container_id: "a".into(),
        ifname: "eth0".into(),
    };
    let request = GcRequest {
        network: "net".into(),
        valid: vec![valid],
    };
    assert_eq!(manager.gc(&request).unwrap().attachments, [gone]);
    assert!(manager.view().check(&kept).is_ok() && manager.view().check(&foreign).is_ok());
}
