//! Fuzz target: random sequences of CNI requests against a model of the Pods. The manager,
//! programs, maps and namespaces are real; the model predicts each answer and the kernel state.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fs::File,
    net::IpAddr,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use sluice_abi::Addr;
use sluice_api::{AddRequest, Attachment, GcRequest, PodAddress, PodName, ValidAttachment};

use super::PodManager;
use crate::{
    bpf::{Datapath, Options, Pins, PrivateBpffs},
    cgroup,
    netns::{self, Netns},
    pods::{
        Acceleration, Annotations, Error, Mesh, MissingAnnotations, NodePolicy, PendingDels,
        StartupState, store::Store,
    },
};

/// The maximum number of requests of a sequence. A longer input is truncated.
const MAX_REQUESTS: usize = 24;
/// The addresses of every namespace, so that requests conflict.
const ADDRESSES: [&str; 4] = ["10.9.0.1", "10.9.0.2", "fd09::1", "fd09::2"];
/// Network namespaces, containers, and interfaces of a container.
const NAMESPACES: usize = 3;
const CONTAINERS: u8 = 4;
const INTERFACES: [&str; 2] = ["eth0", "net1"];
/// The first byte of a request that restarts the daemon, which takes 1000 times as long as an ADD.
const RESTART: u8 = 255;
/// The name of the CNI network.
const NETWORK: &str = "pods";

/// A node that lives as long as the fuzzer: a cgroup without processes, private pins, namespaces.
struct Node {
    cgroup: PathBuf,
    private: PrivateBpffs,
    state: tempfile::TempDir,
    namespaces: Vec<File>,
    manager: Option<PodManager>,
}

/// An attachment of the model.
struct Entry {
    /// The index of its namespace; `None` if the Pod is not intercepted.
    netns: Option<usize>,
    addresses: BTreeSet<IpAddr>,
}

/// The attachments, by their CNI identity.
#[derive(Default)]
struct Model(BTreeMap<Attachment, Entry>);

/// The expected answer to an ADD.
#[derive(Debug, PartialEq, Eq)]
enum Expected {
    Intercepted,
    NotIntercepted,
    Policy,
    NetnsOccupied,
    AddressTaken,
}

/// A preset is never freed: all daemons share one.
static MESH: LazyLock<&Mesh> = LazyLock::new(|| Mesh::preset("istio"));

thread_local! {
    static NODE: RefCell<Option<Node>> = const { RefCell::new(None) };
}

/// Runs the requests that `bytes` encode, three bytes each.
pub(crate) fn sequence(bytes: &[u8]) {
    NODE.with_borrow_mut(|node| {
        let node = node.get_or_insert_with(Node::new);
        let mut model = Model::default();
        for request in bytes.chunks_exact(3).take(MAX_REQUESTS) {
            run(node, &mut model, [request[0], request[1], request[2]]);
            model.compare(node);
        }
        for attachment in model.0.keys() {
            let deleted = node.manager().del(attachment).expect("DEL succeeds");
            assert_eq!(deleted.attachments, std::slice::from_ref(attachment));
        }
        Model::default().compare(node);
    });
}

fn run(node: &mut Node, model: &mut Model, [verb, which, details]: [u8; 3]) {
    let attachment = Attachment {
        network: NETWORK.into(),
        container_id: format!("c{}", which % CONTAINERS),
        ifname: INTERFACES[usize::from(which >> 4) % INTERFACES.len()].into(),
    };
    match verb % 32 {
        0..16 => add(node, model, attachment, verb >> 5, details),
        16..24 => {
            let deleted = node.manager().del(&attachment).expect("DEL succeeds");
            let known = model.0.remove(&attachment).is_some();
            assert_eq!(!deleted.attachments.is_empty(), known);
        }
        24..27 => {
            let checked = node.manager().view().check(&attachment);
            assert_eq!(checked.is_ok(), model.0.contains_key(&attachment));
        }
        27..29 => collect(node, model, which, details),
        29..32 if verb != RESTART => {
            assert_eq!(node.manager().list().expect("a list").len(), model.0.len());
            let _status = node.manager().status().expect("a status");
        }
        _ => node.restart(),
    }
}

fn add(node: &mut Node, model: &mut Model, attachment: Attachment, netns: u8, details: u8) {
    let netns = usize::from(netns) % NAMESPACES;
    let chosen: Vec<&str> = (ADDRESSES.iter().enumerate())
        .filter(|(bit, _)| details >> bit & 1 == 1)
        .map(|(_, address)| *address)
        .collect();
    // The model does not cover Pods without addresses.
    let chosen = if chosen.is_empty() {
        vec![ADDRESSES[0]]
    } else {
        chosen
    };
    let variant = details >> 4 & 3;
    let addresses = chosen.iter().map(|text| ip(text)).collect();
    let expected = model.expect(&attachment, netns, &addresses, variant);
    let path = node.path(netns);
    let answer = node.manager().add(AddRequest {
        attachment: attachment.clone(),
        netns: path,
        addresses: chosen.iter().map(|text| reported(text)).collect(),
        pod: PodName::default(),
        annotations: Some(annotations(variant)),
        manifest: None,
    });
    let seen = match answer {
        Ok(answer) if answer.meshed => Expected::Intercepted,
        Ok(_) => Expected::NotIntercepted,
        Err(Error::Policy(_)) => Expected::Policy,
        Err(Error::Occupied { .. }) => Expected::NetnsOccupied,
        Err(Error::Taken { .. }) => Expected::AddressTaken,
        Err(other) => panic!("{attachment:?}: {other}"),
    };
    assert_eq!(seen, expected, "{attachment:?}");
    let netns = match seen {
        Expected::Intercepted => Some(netns),
        Expected::NotIntercepted => None,
        _ => return,
    };
    model.0.insert(attachment, Entry { netns, addresses });
}

fn collect(node: &mut Node, model: &mut Model, which: u8, details: u8) {
    let is_valid = |one: &Attachment| {
        let number: u8 = one.container_id[1..].parse().expect("a number");
        details >> number & 1 == 1
    };
    let valid = model.0.keys().filter(|one| is_valid(one));
    let request = GcRequest {
        network: if which & 1 == 0 { NETWORK } else { "another" }.into(),
        valid: valid
            .map(|one| ValidAttachment {
                container_id: one.container_id.clone(),
                ifname: one.ifname.clone(),
            })
            .collect(),
    };
    node.manager().gc(&request).expect("GC succeeds");
    if request.network == NETWORK {
        model.0.retain(|one, _| is_valid(one));
    }
}

impl Model {
    /// Checks in the order of the manager: policy, namespace, addresses.
    fn expect(
        &self,
        attachment: &Attachment,
        netns: usize,
        addresses: &BTreeSet<IpAddr>,
        variant: u8,
    ) -> Expected {
        if variant == 0 {
            return Expected::NotIntercepted;
        }
        if variant == 3 {
            return Expected::Policy;
        }
        let mut intercepted = self.0.iter().filter(|(_, one)| one.netns.is_some());
        let is_occupied = |(other, one): (&Attachment, &Entry)| {
            one.netns == Some(netns) && other.container_id != attachment.container_id
        };
        if intercepted.clone().any(is_occupied) {
            return Expected::NetnsOccupied;
        }
        let is_taken = |(_, one): (&Attachment, &Entry)| {
            one.netns != Some(netns) && !one.addresses.is_disjoint(addresses)
        };
        if intercepted.any(is_taken) {
            return Expected::AddressTaken;
        }
        Expected::Intercepted
    }

    /// Compares the maps and hooks with the model.
    fn compare(&self, node: &mut Node) {
        let cookies = node.cookies();
        let intercepted = || self.0.values().filter_map(|one| Some((one.netns?, one)));
        let namespaces: BTreeSet<u64> = intercepted().map(|(netns, _)| cookies[netns]).collect();
        let addresses: BTreeSet<_> = intercepted()
            .flat_map(|(netns, one)| one.addresses.iter().map(move |ip| (netns, *ip)))
            .map(|(netns, ip)| (Addr::from(ip).words(), cookies[netns]))
            .collect();
        let datapath = &node.manager().datapath;
        let entries = datapath.all_addresses().expect("local_pod_ips");
        let found: BTreeSet<_> = (entries.iter())
            .map(|(addr, pod)| (addr.words(), pod.cookie))
            .collect();
        assert_eq!(found, addresses, "local_pod_ips");
        let entries = datapath.all_netns_entries().expect("process_ip");
        let found: BTreeSet<u64> = entries.iter().map(|(cookie, _)| *cookie).collect();
        assert_eq!(found, namespaces, "process_ip");
        let found: BTreeSet<u64> = datapath
            .netns_with_sk_lookup()
            .expect("pins")
            .into_iter()
            .collect();
        assert_eq!(found, namespaces, "sk_lookup links");
        if namespaces.is_empty() {
            assert_eq!(datapath.all_rules().expect("lists").len(), 0);
        }
    }
}

impl Node {
    fn new() -> Self {
        let name = format!("sluiced-fuzz-{}", std::process::id());
        let cgroup = cgroup::find().expect("no cgroup2").join(name);
        std::fs::create_dir(&cgroup).expect("this target must run as root");
        let namespace = |_| {
            let file = netns::new_netns().expect("this target must run as root");
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            let netns = Netns::open(Path::new(&path)).expect("a namespace");
            for address in ADDRESSES {
                let added = netns.add_to_loopback(ip(address));
                assert!(added.expect("an address on lo"));
            }
            file
        };
        let mut node = Self {
            cgroup,
            private: PrivateBpffs::mount().expect("this target must run as root"),
            state: tempfile::tempdir().expect("a directory"),
            namespaces: (0..NAMESPACES).map(namespace).collect(),
            manager: None,
        };
        node.restart();
        node
    }

    /// Restarts the daemon: the next one takes over.
    fn restart(&mut self) {
        self.manager = None;
        let pins = Pins::open(&self.private.directory()).expect("a directory for pins");
        let datapath =
            Datapath::open(pins, &self.cgroup, Options::default()).expect("the programs attach");
        let (store, records) = Store::open(self.state.path()).expect("a directory for records");
        let startup_state = StartupState {
            datapath,
            store,
            records,
            pending_dels: PendingDels::beside(&self.state.path().join("socket")),
            node_policy: NodePolicy {
                mesh: *MESH,
                missing_annotations: MissingAnnotations::default(),
                acceleration: Acceleration::default(),
            },
        };
        self.manager = Some(PodManager::restore(startup_state).expect("readable tables"));
    }

    fn manager(&mut self) -> &mut PodManager {
        self.manager.as_mut().expect("a running owner")
    }

    fn path(&self, index: usize) -> String {
        format!("/proc/self/fd/{}", self.namespaces[index].as_raw_fd())
    }

    fn cookies(&self) -> Vec<u64> {
        let cookie = |index| {
            let netns = Netns::open(Path::new(&self.path(index)));
            netns.expect("a namespace").id().cookie
        };
        (0..NAMESPACES).map(cookie).collect()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.manager = None;
        let _ = std::fs::remove_dir(&self.cgroup);
    }
}

/// No sidecar, a sidecar, a sidecar with lists, a sidecar with a rejected list.
fn annotations(variant: u8) -> Annotations {
    let status = ("sidecar.istio.io/status", "{}");
    let list = "traffic.sidecar.istio.io/excludeOutboundPorts";
    let pairs: &[(&str, &str)] = match variant {
        0 => &[],
        1 => &[status],
        2 => &[status, (list, "81,8000-8999")],
        _ => &[status, (list, "no port")],
    };
    let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    pairs.iter().map(own).collect()
}

fn reported(text: &str) -> PodAddress {
    PodAddress {
        ip: ip(text),
        interface: "lo".into(),
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}
