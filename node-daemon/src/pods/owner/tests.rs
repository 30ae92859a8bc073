//! The owner with a real kernel side, attached to a cgroup without processes, and with network
//! namespaces made for each test.

mod meetings;
mod routes;

use std::{
    fs::File,
    os::fd::AsRawFd as _,
    process::Command,
    time::{Duration, Instant},
};

use daemon_api::{PodAddress, ProgramView, ValidAttachment};

use super::*;
use crate::{
    bpf::Private,
    cgroup,
    pods::{Acceleration, Error, Inheritance, Mesh, Repair, WhenUnknown},
};

/// A cgroup of the test's own.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(test: &str) -> Self {
        let name = format!("sluiced-owner-{test}-{}", std::process::id());
        let path = cgroup::find().expect("no cgroup2").join(name);
        std::fs::create_dir(&path).expect("this test must run as root");
        Self(path)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        drop(std::fs::remove_dir(&self.0));
    }
}

/// A node: what outlives a daemon.
struct Node {
    cgroup: Cgroup,
    private: Private,
    state: tempfile::TempDir,
}

impl Node {
    fn new(test: &str) -> Self {
        // The first runtime of a process makes sockets that stay. As in the daemon, they must not
        // be made in a Pod's namespace, which they would keep.
        drop(
            tokio::runtime::Builder::new_current_thread()
                .enable_io()
                .build(),
        );
        Self {
            cgroup: Cgroup::new(test),
            private: Private::mount().expect("this test must run as root"),
            state: tempfile::tempdir().expect("a directory"),
        }
    }

    /// Starts a daemon, which takes over what is there.
    fn start(&self) -> Owner {
        let pins = Pins::open(&self.private.directory()).expect("a directory for pins");
        let datapath = Datapath::open(pins, &self.cgroup.0, crate::bpf::layout().ok())
            .expect("the programs attach");
        let (store, records) = Store::open(self.state.path()).expect("a directory for records");
        let inheritance = Inheritance {
            datapath,
            store,
            records,
            tombstones: Tombstones::beside(&self.state.path().join("socket")),
            rules: Rules {
                mesh: Mesh::preset("istio"),
                when_unknown: WhenUnknown::default(),
                acceleration: Acceleration::default(),
            },
        };
        Owner::restore(inheritance).expect("tables that can be read")
    }

    fn records(&self) -> usize {
        std::fs::read_dir(self.state.path()).unwrap().count()
    }
}

struct Rig {
    owner: Owner,
    _node: Node,
}

fn rig(test: &str) -> Rig {
    let node = Node::new(test);
    Rig {
        owner: node.start(),
        _node: node,
    }
}

/// A network namespace with these addresses on `lo`, which lasts as long as the file.
struct Namespace(File);

impl Namespace {
    fn with(addresses: &[&str]) -> Self {
        let namespace = Self(netns::fresh().expect("this test must run as root"));
        for address in addresses {
            let added = namespace.open().add_to_loopback(ip(address));
            assert!(added.expect("an address on lo"));
        }
        namespace
    }

    fn path(&self) -> String {
        format!("/proc/self/fd/{}", self.0.as_raw_fd())
    }

    fn open(&self) -> Netns {
        Netns::open(Path::new(&self.path())).expect("a namespace")
    }

    fn cookie(&self) -> u64 {
        self.open().id().cookie
    }

    /// Runs `ip` in it.
    fn ip(&self, arguments: &str) {
        let (this, file) = (std::process::id(), self.0.as_raw_fd());
        let done = Command::new("nsenter")
            .arg(format!("--net=/proc/{this}/fd/{file}"))
            .arg("ip")
            .args(arguments.split(' '))
            .status();
        assert!(done.expect("nsenter").success(), "{arguments}");
    }

    fn has(&self, address: &str) -> bool {
        let interfaces = self.open().interfaces().expect("interfaces");
        interfaces
            .iter()
            .any(|one| one.addresses.contains(&ip(address)))
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn attachment(container: &str, ifname: &str) -> Attachment {
    Attachment {
        network: "net".into(),
        container_id: container.into(),
        ifname: ifname.into(),
    }
}

fn request(who: &Attachment, namespace: &Namespace, addresses: &[&str]) -> Admit {
    let address = |text: &&str| PodAddress {
        ip: ip(text),
        interface: "lo".into(),
    };
    let annotations = [("sidecar.istio.io/status".to_owned(), "{}".to_owned())];
    Admit {
        attachment: who.clone(),
        netns: namespace.path(),
        addresses: addresses.iter().map(address).collect(),
        pod: PodName::default(),
        annotations: Some(annotations.into()),
    }
}

impl Owner {
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
