//! ztunnel on the network: with an agent of its own, or with the daemon.

use std::{cell::RefCell, fs::File, path::PathBuf, thread::sleep, time::Duration};

use tempfile::TempDir;

use super::{
    super::{Node, labelled, request},
    Subject,
    agent::{self, Workload},
    network::{CLIENT, NAMES, Network, OUTSIDE, SERVER, address},
    process::Process,
    rules,
};
use crate::wait;

const PATIENCE: Duration = Duration::from_mins(1);

/// The Pods with a ztunnel.
pub(super) struct Ambient {
    pub(super) network: Network,
    pub(super) ztunnels: RefCell<Vec<Process>>,
    binary: PathBuf,
    socket: PathBuf,
    node: Option<Node>,
    directory: TempDir,
}

impl Ambient {
    /// `keys` are more keys of the daemon's configuration.
    pub(super) fn start(subject: Subject, binary: PathBuf, keys: &str) -> Self {
        let test = format!("real-{subject:?}").to_lowercase();
        let mut network = Network::new(&test);
        let directory = tempfile::tempdir().unwrap();
        let node = subject.has_daemon().then(|| {
            let pods = NAMES[..OUTSIDE]
                .iter()
                .map(|name| labelled(name, Some("ambient")));
            Node::configured(&test, pods.collect(), keys)
        });
        let socket = match &node {
            Some(node) => {
                network.members = node.daemon.members();
                node.socket.clone()
            }
            None => directory.path().join("ztunnel.sock"),
        };
        let meshed = &network.pods[..OUTSIDE];
        if node.is_none() {
            let workloads = meshed.iter().zip(NAMES).map(|(home, name)| Workload {
                name,
                netns: File::open(home.path()).unwrap(),
            });
            agent::serve(&socket, workloads.collect());
        }
        if subject.has_rules() {
            meshed.iter().for_each(rules::write_ambient);
        }
        let ambient = Self {
            network,
            ztunnels: RefCell::default(),
            binary,
            socket,
            node,
            directory,
        };
        ambient.start_ztunnel();
        ambient
    }

    /// Starts another ztunnel, and waits until it serves the Pods.
    pub(super) fn start_ztunnel(&self) {
        let listeners = |index| self.network.listeners(index, 15001);
        let before = listeners(SERVER);
        let directory = self.directory.path();
        let process = Process::start(&self.binary, directory, &self.socket, &self.network.members);
        self.ztunnels.borrow_mut().push(process);
        self.enroll();
        wait::until_within(
            PATIENCE,
            || listeners(SERVER) != before && listeners(CLIENT) != before,
            || format!("ztunnel does not listen: {}", self.logs()),
        );
        // Both families listen by then, and the acknowledgement follows.
        sleep(Duration::from_millis(500));
    }

    /// Adds the Pods once; a repeated ADD changes nothing.
    fn enroll(&self) {
        let Some(node) = &self.node else {
            return;
        };
        node.await_ztunnels(self.ztunnels.borrow().len());
        for (index, home) in self.network.pods[..OUTSIDE].iter().enumerate() {
            let mut request = request(NAMES[index], &home.path(), &address(index, false));
            let mut second = request.addresses[0].clone();
            second.ip = address(index, true).parse().unwrap();
            request.addresses.push(second);
            node.mesh(&request);
        }
    }

    /// The logs of all ztunnels that run.
    pub(super) fn logs(&self) -> String {
        self.ztunnels.borrow().iter().map(Process::log).collect()
    }
}
