//! The owner with a real kernel side, attached to a cgroup without processes, and with network
//! namespaces made for each test.

mod meetings;
mod rig;
mod routes;
mod takeover;

use daemon_api::{Collect, ProgramView, ValidAttachment};

use super::*;
use crate::pods::{Error, Repair, survey::Survey};
use rig::{Namespace, Node, Rig, attachment, ip, request, rig};

impl Owner {
    /// One round of upkeep, with a survey of its own.
    fn keep_up(&mut self) {
        self.resync(Survey::of(&self.brief()));
    }

    fn knows_address(&self, address: &str) -> bool {
        let found = self.datapath.address(ip(address).into());
        found.expect("a readable map").is_some()
    }

    fn knows_process(&self, cookie: u64) -> bool {
        self.datapath
            .process(cookie)
            .expect("a readable map")
            .is_some()
    }
}

#[test]
fn what_admit_writes_retire_removes() {
    let Rig { owner, .. } = &mut rig("retire");
    let who = attachment("a", "eth0");
    let pod = Namespace::with(&["10.1.0.1", "fd00::1"]);
    let cookie = pod.cookie();

    owner
        .admit(request(&who, &pod, &["10.1.0.1", "fd00::1"]))
        .unwrap();
    assert!(owner.knows_process(cookie) && owner.knows_address("10.1.0.1"));
    assert!(owner.knows_address("fd00::1") && pod.has("::6"));
    owner.check(&who).unwrap();

    assert_eq!(
        owner.retire(&who).unwrap().attachments,
        std::slice::from_ref(&who)
    );
    assert!(!owner.knows_process(cookie) && !owner.knows_address("10.1.0.1"));
    assert!(!owner.knows_address("fd00::1") && !pod.has("::6"));
    assert!(owner.pods.is_empty() && owner.attachments.is_empty());
    assert_eq!(owner.retire(&who).unwrap().attachments, []);
}

#[test]
fn a_pod_with_users_of_its_own_has_its_proxy_told_by_their_numbers_outside() {
    let node = Node::new("users");
    let pod = Namespace(netns::of_a_pod_with_users());
    pod.open().add_to_loopback(ip("10.1.0.1")).unwrap();
    let mut owner = node.start();
    let who = attachment("a", "eth0");
    owner.admit(request(&who, &pod, &["10.1.0.1"])).unwrap();
    let proxy = |owner: &Owner| {
        let process = owner.datapath.process(pod.cookie()).unwrap().unwrap();
        (process.pod.proxy_uid, process.pod.proxy_gid)
    };
    assert_eq!(proxy(&owner), (1_001_337, 2_001_337));
    drop(owner);

    let owner = node.start();
    assert_eq!(proxy(&owner), (1_001_337, 2_001_337));
}

#[test]
fn an_address_on_lo_that_was_there_before_stays() {
    let Rig { owner, .. } = &mut rig("passthrough");
    let who = attachment("a", "eth0");
    let pod = Namespace::with(&["fd00::1", "::6"]);
    owner.admit(request(&who, &pod, &["fd00::1"])).unwrap();
    owner.retire(&who).unwrap();
    assert!(pod.has("::6"));
}

#[test]
fn admitting_again_changes_nothing_and_with_other_addresses_replaces_them() {
    let Rig { owner, .. } = &mut rig("again");
    let who = attachment("a", "eth0");
    let pod = Namespace::with(&["10.1.0.1", "10.1.0.2"]);
    owner.admit(request(&who, &pod, &["10.1.0.1"])).unwrap();
    owner.admit(request(&who, &pod, &["10.1.0.1"])).unwrap();
    owner.check(&who).unwrap();
    owner.admit(request(&who, &pod, &["10.1.0.2"])).unwrap();
    assert!(owner.knows_address("10.1.0.2") && !owner.knows_address("10.1.0.1"));
    assert_eq!(owner.status().unwrap().meshed_pods, 1);
}

#[test]
fn an_attachment_in_another_namespace_leaves_the_old_one() {
    let Rig { owner, .. } = &mut rig("moved");
    let who = attachment("a", "eth0");
    let (old, new) = (
        Namespace::with(&["10.1.0.1"]),
        Namespace::with(&["10.1.0.2"]),
    );
    owner.admit(request(&who, &old, &["10.1.0.1"])).unwrap();
    owner.admit(request(&who, &new, &["10.1.0.2"])).unwrap();
    assert!(!owner.knows_process(old.cookie()) && owner.knows_process(new.cookie()));
    assert!(!owner.knows_address("10.1.0.1") && owner.knows_address("10.1.0.2"));
}

#[test]
fn two_attachments_of_one_namespace_are_one_pod() {
    let Rig { owner, .. } = &mut rig("multus");
    let (main, second) = (attachment("a", "eth0"), attachment("a", "net1"));
    let pod = Namespace::with(&["10.1.0.1", "10.2.0.1"]);
    owner.admit(request(&main, &pod, &["10.1.0.1"])).unwrap();
    owner.admit(request(&second, &pod, &["10.2.0.1"])).unwrap();
    let process = owner.datapath.process(pod.cookie()).unwrap().unwrap();
    assert_eq!(process.v4, ip("10.1.0.1").into());
    assert!(process.pod.flags.has(sluice_abi::PodFlags::MORE_ADDRESSES));

    owner.retire(&main).unwrap();
    let process = owner.datapath.process(pod.cookie()).unwrap().unwrap();
    assert_eq!(process.v4, ip("10.2.0.1").into());
    assert!(!owner.knows_address("10.1.0.1"));
    owner.check(&second).unwrap();
    owner.retire(&second).unwrap();
    assert!(!owner.knows_process(pod.cookie()));
}

#[test]
fn an_address_belongs_to_a_pod_for_as_long_as_its_namespace_is_there() {
    let Rig { owner, .. } = &mut rig("claim");
    let (first, second) = (attachment("a", "eth0"), attachment("b", "eth0"));
    let (old, new) = (
        Namespace::with(&["10.1.0.1"]),
        Namespace::with(&["10.1.0.1"]),
    );
    owner.admit(request(&first, &old, &["10.1.0.1"])).unwrap();
    let refused = owner
        .admit(request(&second, &new, &["10.1.0.1"]))
        .unwrap_err();
    assert!(matches!(refused, Error::Taken { .. }), "{refused}");
    owner.check(&first).unwrap();

    drop(old);
    owner.admit(request(&second, &new, &["10.1.0.1"])).unwrap();
    let owned = owner
        .datapath
        .address(ip("10.1.0.1").into())
        .unwrap()
        .unwrap();
    assert_eq!(owned.cookie, new.cookie());
    assert!(matches!(owner.check(&first), Err(Error::Unknown(_))));
}

#[test]
fn a_refused_pod_leaves_nothing_behind() {
    let Rig { owner, .. } = &mut rig("refused");
    let who = attachment("a", "eth0");
    let pod = Namespace::with(&["10.1.0.1"]);
    let refused = owner.admit(request(&who, &pod, &["10.1.0.1", "10.1.0.9"]));
    assert!(matches!(refused, Err(Error::Address(_))));
    assert!(!owner.knows_process(pod.cookie()) && !owner.knows_address("10.1.0.1"));
    assert!(owner.attachments.is_empty());
}

#[test]
fn a_step_that_fails_takes_those_before_it_back() {
    let Rig { owner, .. } = &mut rig("rollback");
    let Ok(Verdict::Mesh(settings)) = policy::decide(
        &owner.rules,
        request(&attachment("a", "eth0"), &Namespace::with(&[]), &[])
            .annotations
            .as_ref(),
    ) else {
        panic!("it is meshed");
    };
    let wanted = plan::wanted(7, &settings, &[ip("10.1.0.1")], true);
    let mut kernel = Enrolment::of(7, Held::default());
    let mut site = Site {
        datapath: &mut owner.datapath,
        netns: None,
    };
    let failed = kernel.take_in(&mut site, wanted);
    assert!(matches!(failed, Err(Error::Gone)));
    assert_eq!(kernel.held(), &Held::default());
    assert!(!owner.knows_process(7) && !owner.knows_address("10.1.0.1"));
}

#[test]
fn check_names_the_first_difference() {
    let node = Node::new("check");
    let owner = &mut node.start();
    let who = attachment("a", "eth0");
    let pod = Namespace::with(&["10.1.0.1", "fd00::1"]);
    let addresses = ["10.1.0.1", "fd00::1"];
    owner.admit(request(&who, &pod, &addresses)).unwrap();
    owner.check(&who).unwrap();
    let differs = |owner: &Owner, what: &str| {
        let error = owner.check(&who).unwrap_err().to_string();
        assert!(error.starts_with(what), "{error}");
    };
    // Each one is looked at before those above it.
    pod.open().remove_from_loopback(PASSTHROUGH).unwrap();
    differs(owner, "::6 on the loopback interface");
    let held = owner.pods[&pod.cookie()].kernel.held().clone();
    let listed = held.lists.iter().next().unwrap();
    owner.datapath.unlist(listed).unwrap();
    differs(owner, "listed Port");
    let settings = held.process.unwrap().pod;
    let foreign = ip("10.1.0.9").into();
    owner.datapath.set_address(foreign, &settings).unwrap();
    differs(owner, "local_pod_ips at 10.1.0.9");
    owner
        .datapath
        .remove_address(ip("10.1.0.1").into())
        .unwrap();
    differs(owner, "local_pod_ips at 10.1.0.1");
    owner.datapath.remove_process(pod.cookie()).unwrap();
    differs(owner, "process_ip");
    owner.datapath.release(pod.cookie()).unwrap();
    differs(owner, "inbound hook attached");
    let generation = format!("v{}/hooks/connect4", sluice_abi::ABI_VERSION);
    std::fs::remove_file(node.private.directory().join(generation)).unwrap();
    differs(owner, "hooks of the cgroup missing");
    let status = owner.status().unwrap();
    assert_eq!(
        status.problems,
        ["hooks of the cgroup are missing: connect4"]
    );
    let connect = |one: &&ProgramView| one.name == "connect4";
    assert_eq!(status.programs.iter().find(connect).unwrap().hooks, 0);
    assert!(!status.ready);
    owner.keep_up();
    let status = owner.status().unwrap();
    let hooked = |one: &ProgramView| one.hooks == usize::from(one.name != "setsockopt");
    assert!(status.ready && status.programs.iter().all(hooked));
    let repairs = owner.read().unwrap().repairs;
    let repairs: Vec<_> = repairs.iter().filter(|(_, count)| *count > 0).collect();
    assert_eq!(repairs, [(Repair::Hooks, 1), (Repair::InboundHook, 1)]);
}

#[test]
fn check_compares_the_report_with_the_record() {
    let Rig { owner, .. } = &mut rig("report");
    let who = attachment("a", "eth0");
    let pod = Namespace::with(&["10.1.0.1", "fd00::1"]);
    let admitted = request(&who, &pod, &["10.1.0.1", "fd00::1"]);
    owner.admit(admitted.clone()).unwrap();
    owner.check_reported(&admitted).unwrap();
    let differs = |owner: &Owner, request: &Admit, what: &str| {
        let error = owner.check_reported(request).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    };
    let mut request = admitted.clone();
    request.addresses.pop();
    differs(owner, &request, "addresses in prevResult");

    let elsewhere = Namespace::with(&["10.1.0.1", "fd00::1"]);
    let mut request = admitted.clone();
    request.netns = elsewhere.path();
    differs(owner, &request, "cookie of CNI_NETNS");

    let mut request = admitted.clone();
    let excluded = "traffic.sidecar.istio.io/excludeOutboundPorts";
    let annotations = request.annotations.as_mut().unwrap();
    annotations.insert(excluded.to_owned(), "9000".to_owned());
    differs(owner, &request, "annotations");
    request.annotations = None;
    owner.check_reported(&request).unwrap();

    pod.open().remove_from_loopback(ip("10.1.0.1")).unwrap();
    differs(owner, &admitted, "10.1.0.1 is reported on lo");
}

#[test]
fn retire_without_a_network_finds_the_attachment() {
    let Rig { owner, .. } = &mut rig("unnamed");
    let who = attachment("a", "eth0");
    let pod = Namespace::with(&["10.1.0.1"]);
    owner.admit(request(&who, &pod, &["10.1.0.1"])).unwrap();
    let unnamed = |container: &str, ifname: &str| Attachment {
        network: String::new(),
        ..attachment(container, ifname)
    };
    assert_eq!(owner.retire(&unnamed("a", "net1")).unwrap().attachments, []);
    assert_eq!(owner.retire(&unnamed("b", "eth0")).unwrap().attachments, []);
    assert_eq!(
        owner.retire(&unnamed("a", "eth0")).unwrap().attachments,
        [who]
    );
    assert!(!owner.knows_process(pod.cookie()));
}

#[test]
fn gc_retires_what_is_not_listed_of_its_network_alone() {
    let Rig { owner, .. } = &mut rig("gc");
    let (kept, gone) = (attachment("a", "eth0"), attachment("b", "eth0"));
    let foreign = Attachment {
        network: "other".into(),
        ..attachment("c", "eth0")
    };
    for who in [&kept, &gone, &foreign] {
        let pod = Namespace::with(&[]);
        let mut request = request(who, &pod, &[]);
        request.annotations = Some(BTreeMap::new());
        assert!(!owner.admit(request).unwrap().meshed);
    }
    let valid = ValidAttachment {
        container_id: "a".into(),
        ifname: "eth0".into(),
    };
    let request = Collect {
        network: "net".into(),
        valid: vec![valid],
    };
    assert_eq!(owner.collect(&request).unwrap().attachments, [gone]);
    assert!(owner.check(&kept).is_ok() && owner.check(&foreign).is_ok());
}
