//! A node for each test: a cgroup without processes, private pins, a directory for records, and
//! network namespaces.

use std::{
    fs::File,
    net::IpAddr,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    process::Command,
};

use sluice_api::{AddRequest, Attachment, PodAddress, PodName};

use crate::{
    bpf::{Datapath, Options, Pins, PrivateBpffs, RawSockets},
    cgroup,
    netns::{self, Netns},
    pods::{
        Acceleration, Mesh, MissingAnnotations, NodePolicy, PendingDels, StartupState,
        manager::PodManager, store::Store,
    },
};

/// A private cgroup.
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

/// The state of a node that outlives a daemon.
pub(super) struct Node {
    cgroup: Cgroup,
    pub(super) private: PrivateBpffs,
    pub(super) state: tempfile::TempDir,
    run: tempfile::TempDir,
}

impl Node {
    pub(super) fn new(test: &str) -> Self {
        // The first runtime of a process creates sockets that stay open. As in the daemon, they
        // must not be created in a Pod's namespace, which they would keep alive.
        drop(
            tokio::runtime::Builder::new_current_thread()
                .enable_io()
                .build(),
        );
        Self {
            cgroup: Cgroup::new(test),
            private: PrivateBpffs::mount().expect("this test must run as root"),
            state: tempfile::tempdir().expect("a directory"),
            run: tempfile::tempdir().expect("a directory"),
        }
    }

    /// Starts a daemon, which adopts the existing state.
    pub(super) fn start(&self) -> PodManager {
        let pins = Pins::open(&self.private.directory()).expect("a directory for pins");
        let options = Options {
            kernel_offsets: crate::bpf::kernel_offsets().ok(),
            raw_sockets: RawSockets::Allow,
            bypassing_node: None,
        };
        let datapath = Datapath::open(pins, &self.cgroup.0, options).expect("the programs attach");
        let (store, records) = Store::open(self.state.path()).expect("a directory for records");
        let startup_state = StartupState {
            datapath,
            store,
            records,
            pending_dels: PendingDels::beside(&self.run.path().join("socket")),
            node_policy: NodePolicy {
                mesh: Mesh::preset("istio"),
                missing_annotations: MissingAnnotations::default(),
                acceleration: Acceleration::default(),
            },
        };
        PodManager::restore(startup_state).expect("tables that can be read")
    }

    pub(super) fn records(&self) -> usize {
        std::fs::read_dir(self.state.path()).unwrap().count()
    }
}

pub(super) struct Fixture {
    pub(super) manager: PodManager,
    _node: Node,
}

pub(super) fn fixture(test: &str) -> Fixture {
    let node = Node::new(test);
    Fixture {
        manager: node.start(),
        _node: node,
    }
}

/// A netns with these addresses on `lo`, which lasts as long as the file.
pub(super) struct Namespace(pub(super) File);

impl Namespace {
    pub(super) fn with(addresses: &[&str]) -> Self {
        let namespace = Self(netns::new_netns().expect("this test must run as root"));
        for address in addresses {
            let added = namespace.open().add_to_loopback(ip(address));
            assert!(added.expect("an address on lo"));
        }
        namespace
    }

    pub(super) fn path(&self) -> String {
        format!("/proc/self/fd/{}", self.0.as_raw_fd())
    }

    pub(super) fn open(&self) -> Netns {
        Netns::open(Path::new(&self.path())).expect("a namespace")
    }

    pub(super) fn cookie(&self) -> u64 {
        self.open().id().cookie
    }

    /// Runs `ip` inside.
    pub(super) fn ip(&self, arguments: &str) {
        let (this, file) = (std::process::id(), self.0.as_raw_fd());
        let done = Command::new("nsenter")
            .arg(format!("--net=/proc/{this}/fd/{file}"))
            .arg("ip")
            .args(arguments.split(' '))
            .status();
        assert!(done.expect("nsenter").success(), "{arguments}");
    }

    /// Runs a command inside, and returns its output.
    pub(super) fn output(&self, command: &str) -> String {
        let (this, file) = (std::process::id(), self.0.as_raw_fd());
        let done = Command::new("nsenter")
            .arg(format!("--net=/proc/{this}/fd/{file}"))
            .args(command.split(' '))
            .output()
            .expect("nsenter");
        assert!(done.status.success(), "{command}: {done:?}");
        String::from_utf8(done.stdout).expect("text")
    }

    pub(super) fn has(&self, address: &str) -> bool {
        let interfaces = self.open().interfaces().expect("interfaces");
        interfaces
            .iter()
            .any(|one| one.addresses.contains(&ip(address)))
    }
}

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub(super) fn attachment(container: &str, ifname: &str) -> Attachment {
    Attachment {
        network: "net".into(),
        container_id: container.into(),
        ifname: ifname.into(),
    }
}

pub(super) fn request(who: &Attachment, namespace: &Namespace, addresses: &[&str]) -> AddRequest {
    let address = |text: &&str| PodAddress {
        ip: ip(text),
        interface: "lo".into(),
    };
    let annotations = [("sidecar.istio.io/status".to_owned(), "{}".to_owned())];
    AddRequest {
        attachment: who.clone(),
        netns: namespace.path(),
        addresses: addresses.iter().map(address).collect(),
        pod: PodName::default(),
        annotations: Some(annotations.into()),
        manifest: None,
    }
}
