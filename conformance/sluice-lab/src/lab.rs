//! A node with Pods, in namespaces and a cgroup of its own.

use std::{
    fs::{self, Permissions},
    net::{IpAddr, SocketAddr},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::Value;
use sluice_testbed::{
    agent::{ExecContext, call::CallResult},
    cgroup::Cgroup,
    cni::{self, Network, Sandbox},
    interrupt::Interrupt,
    netns::Netns,
    process,
};
use tempfile::TempDir;

use crate::{
    Binaries, CLIENT, PROXY, Pod, PodSpec,
    backend::{Backend, BackendKind},
    mesh::Mesh,
};

const CALL_LIMIT: Duration = Duration::from_secs(30);

/// The origin of a call.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// An application in this Pod.
    Application(&'static str),
    /// The proxy's user in this Pod.
    Proxy(&'static str),
    /// A process of the node, such as the kubelet.
    Node,
}

/// The lab. [`Lab::remove`] removes its parts, or else its drop.
pub struct Lab {
    /// A name that no other lab has.
    pub name: String,
    // Fields are dropped in this order: processes before their namespaces.
    /// Its Pods.
    pub pods: Vec<Pod>,
    /// The backend, which redirects the connections of its Pods.
    pub backend: Box<dyn Backend>,
    network: Network,
    node: Netns,
    cgroup: Cgroup,
    /// The child in which processes run.
    pods_cgroup: PathBuf,
    directory: TempDir,
    binaries: Binaries,
    /// Addresses of the node on the Pods' network.
    pub gateways: Vec<IpAddr>,
}

impl Lab {
    /// A node of Istio's without Pods, with the subject running on it.
    pub fn create(binaries: Binaries, backend: BackendKind, interrupt: &Interrupt) -> Result<Self> {
        Self::of(Mesh::Istio, binaries, backend, interrupt)
    }

    /// The same of another mesh.
    pub fn of(
        mesh: Mesh,
        binaries: Binaries,
        backend: BackendKind,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        Self::with(binaries, |binaries, directory, cgroup| {
            backend.start(binaries, directory, cgroup, mesh, interrupt)
        })
    }

    /// A node without Pods, with a backend from `start`, which gets the lab's directory and cgroup.
    pub fn with(
        binaries: Binaries,
        start: impl FnOnce(&Binaries, &Path, &Path) -> Result<Box<dyn Backend>>,
    ) -> Result<Self> {
        let directory = TempDir::with_prefix("sluice-lab-")?;
        // What is unique there is unique elsewhere.
        let name = directory.path().file_name().unwrap_or_default();
        let name = name.to_string_lossy().into_owned();
        // Proxies and applications, which are not root, have files in it.
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755))?;
        let cgroup = Cgroup::create(&name)?;
        let pods_cgroup = cgroup.child("pods")?;
        let node = Netns::create(format!("{name}-node"))?;
        let backend = start(&binaries, directory.path(), cgroup.path())?;
        let mut plugins: Vec<PathBuf> = ["bridge", "ptp", "host-local", "portmap", "loopback"]
            .map(|plugin| binaries.cni_plugins.join(plugin))
            .into();
        plugins.extend(backend.plugin());
        let network = Network::create(
            &name,
            directory.path(),
            &binaries.cnitool,
            &plugins,
            backend.entry(),
        )?;
        let gateways = Vec::new();
        Ok(Self {
            name,
            pods: Vec::new(),
            backend,
            network,
            node,
            cgroup,
            pods_cgroup,
            directory,
            binaries,
            gateways,
        })
    }

    /// Makes a Pod, adds it to the network and starts its processes.
    pub fn add(&mut self, spec: PodSpec) -> Result<()> {
        self.pods.push(Pod::create(spec, &self.name)?);
        let pod = self.pods.last_mut().context("a Pod was pushed")?;
        pod.result = self.network.add(&self.node, &pod.sandbox())?;
        pod.addresses = cni::addresses(&pod.result)?;
        self.gateways = cni::gateways(&pod.result);
        if spec.meshed {
            self.backend.enroll(pod.netns.path(), &spec.settings())?;
        }
        pod.start(
            &self.pods_cgroup,
            &self.binaries.envoy,
            self.directory.path(),
        )
    }

    /// A Pod by its name.
    pub fn pod(&self, name: &str) -> Result<&Pod> {
        let found = self.pods.iter().find(|pod| pod.spec.name == name);
        found.with_context(|| format!("no Pod {name}"))
    }

    /// Calls an address once.
    pub fn call(&self, caller: Caller, to: SocketAddr) -> Result<CallResult> {
        let (netns, user) = match caller {
            Caller::Application(pod) => (&self.pod(pod)?.netns, Some(CLIENT)),
            Caller::Proxy(pod) => (&self.pod(pod)?.netns, Some(PROXY)),
            Caller::Node => (&self.node, None),
        };
        let place = ExecContext {
            netns: Some(netns.path()),
            cgroup: Some(&self.pods_cgroup),
            user,
            ..ExecContext::default()
        };
        let mut command = place.own()?;
        command.args(["call", "--to", &to.to_string()]);
        Ok(serde_json::from_str(&process::output(
            &mut command,
            CALL_LIMIT,
        )?)?)
    }

    /// The context of a user's process in a Pod.
    pub fn place<'a>(&'a self, pod: &'a Pod, user: u32) -> ExecContext<'a> {
        ExecContext {
            netns: Some(pod.netns.path()),
            cgroup: Some(&self.pods_cgroup),
            user: Some(user),
            ..ExecContext::default()
        }
    }

    /// A file that is removed with the lab.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Joins a sandbox to the Pods' network. Returns the chain's result.
    pub fn join(&self, sandbox: &Sandbox<'_>) -> Result<Value> {
        self.network.add(&self.node, sandbox)
    }

    /// Takes a sandbox off the Pods' network.
    pub fn leave(&self, sandbox: &Sandbox<'_>) -> Result<()> {
        self.network.del(&self.node, sandbox)
    }

    /// Results in libcni's cache.
    pub fn cached(&self) -> Vec<String> {
        self.network.cached()
    }

    /// A place in one of the lab's namespaces; without one, on its node.
    pub fn within<'a>(&'a self, netns: Option<&'a Netns>) -> ExecContext<'a> {
        ExecContext {
            netns: Some(netns.unwrap_or(&self.node).path()),
            cgroup: Some(&self.pods_cgroup),
            ..ExecContext::default()
        }
    }

    /// The namespace of its node.
    pub fn node(&self) -> &Netns {
        &self.node
    }

    /// How long the subject's plugin takes to add a Pod that is on the network already.
    pub fn time_add(&self, pod: &str, count: u32) -> Result<Vec<Duration>> {
        let pod = self.pod(pod)?;
        let mut sandbox = pod.sandbox();
        let meshed = [("sidecar.istio.io/status".to_owned(), "{}".to_owned())].into();
        sandbox.annotations = &meshed;
        self.network.time(&sandbox, &pod.result, count)
    }

    /// The cgroup of everything that runs in it.
    pub fn cgroup(&self) -> &Path {
        &self.pods_cgroup
    }

    /// Removes everything, in the order of a node that is drained; returns failures and
    /// remains.
    pub fn remove(self) -> Vec<String> {
        let Self {
            pods,
            backend,
            network,
            node,
            cgroup,
            directory,
            ..
        } = self;
        let mut left = Vec::new();
        let mut note = |outcome: Result<()>| {
            left.extend(outcome.err().map(|error| format!("{error:#}")));
        };
        let mut namespaces = Vec::new();
        for mut pod in pods {
            note(pod.stop());
            if !pod.addresses.is_empty() {
                note(network.del(&node, &pod.sandbox()));
            }
            note(
                pod.netns
                    .interfaces()
                    .and_then(|found| none("interfaces of a Pod", &found)),
            );
            namespaces.push(pod.netns);
        }
        note(none("results in libcni's cache", &network.cached()));
        note(backend.stop());
        note(node.interfaces().and_then(|found| {
            let veths: Vec<_> = found
                .into_iter()
                .filter(|name| !name.starts_with(cni::BRIDGE))
                .collect();
            none("interfaces of the node", &veths)
        }));
        namespaces.push(node);
        for netns in namespaces {
            let path = netns.path().to_owned();
            note(netns.remove());
            note(gone(&path));
        }
        let path = cgroup.path().to_owned();
        note(cgroup.remove());
        note(gone(&path));
        let path = directory.path().to_owned();
        note(directory.close().map_err(Into::into));
        note(gone(&path));
        left
    }
}

fn none(what: &str, found: &[String]) -> Result<()> {
    anyhow::ensure!(found.is_empty(), "{what} were left: {}", found.join(", "));
    Ok(())
}

fn gone(path: &Path) -> Result<()> {
    anyhow::ensure!(!path.exists(), "{} was left", path.display());
    Ok(())
}
