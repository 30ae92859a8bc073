//! The CRI calls that a kubelet makes to containerd.

use std::{collections::BTreeMap, fs, net::IpAddr, path::PathBuf};

use anyhow::{Context, Result, ensure};
use k8s_cri::v1::{
    IdMapping, LinuxPodSandboxConfig, LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption,
    PodSandboxConfig, PodSandboxMetadata, PodSandboxStatus, PodSandboxStatusRequest,
    RemovePodSandboxRequest, RunPodSandboxRequest, StatusRequest, StopPodSandboxRequest,
    UserNamespace, runtime_service_client::RuntimeServiceClient,
};
use serde_json::Value;
use sluice_lab::{pod_annotations::EXCLUDE_INBOUND_PORTS, proxy::INBOUND};
use tokio::runtime::{Builder, Runtime};
use tonic::transport::{Channel, Endpoint};

use crate::runtime::{Node, Outcomes, Sandbox, containerd::Containerd, malformed, meshed, refused};

/// The users of a Pod with a user namespace, as a kubelet maps them.
const IDS: IdMapping = IdMapping {
    host_id: 1 << 20,
    container_id: 0,
    length: 1 << 16,
};

/// A client of the CRI.
struct Cri {
    runtime: Runtime,
    client: RuntimeServiceClient<Channel>,
}

/// Every behaviour.
pub(super) fn run(node: &Node<'_>, containerd: &Containerd) -> Outcomes {
    let major = containerd.major;
    let name = |what: &str| format!("containerd {major}: {what}");
    let mut cri = match Cri::connect(containerd) {
        Ok(cri) => cri,
        Err(error) => return vec![(name("it answers"), Err(error.context(containerd.tail())))],
    };
    let mut outcomes = vec![
        (
            name("a meshed Pod is entered through its proxy"),
            cri.is_entered(node, "meshed", meshed(), None, INBOUND),
        ),
        (
            name("a Pod without a sidecar is not intercepted"),
            cri.is_entered(node, "plain", BTreeMap::new(), None, "application"),
        ),
        (
            name("a malformed annotation keeps the Pod from starting"),
            refused(
                cri.start("malformed", malformed()),
                &[EXCLUDE_INBOUND_PORTS, "http"],
            ),
        ),
        (
            name("a Pod can be removed again and again"),
            cri.leaves(node),
        ),
    ];
    if containerd.is_modern() {
        outcomes.push((
            name("a meshed Pod with a user namespace of its own is entered through its proxy"),
            cri.user_namespace(node),
        ));
        outcomes.push((
            name("the network is not ready while the plugin does not reach the daemon"),
            cri.network_status(node),
        ));
    }
    outcomes
}

/// Creates a Pod, runs a test with it, and removes it.
pub(super) fn across(containerd: &Containerd, between: impl FnOnce() -> Result<()>) -> Result<()> {
    let mut cri = Cri::connect(containerd)?;
    let sandbox = cri.start("across", meshed())?;
    let done = between();
    cri.stop(&sandbox.id)?;
    cri.remove(&sandbox.id)?;
    done
}

/// Makes a meshed Pod.
pub(super) fn make(containerd: &Containerd, name: &str) -> Result<Sandbox> {
    Cri::connect(containerd)?.start(name, meshed())
}

/// Whether a meshed Pod that another containerd has made is entered through its proxy; removes it.
pub(super) fn take_over(node: &Node<'_>, containerd: &Containerd, sandbox: &Sandbox) -> Result<()> {
    let mut cri = Cri::connect(containerd)?;
    let by = node.reached(sandbox);
    cri.stop(&sandbox.id)?;
    cri.remove(&sandbox.id)?;
    let by = by?;
    ensure!(by == INBOUND, "{by} answered");
    node.expect_no_state()
}

impl Cri {
    fn connect(containerd: &Containerd) -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let endpoint = Endpoint::from_shared(format!("unix://{}", containerd.socket.display()))?;
        let channel = runtime.block_on(endpoint.connect())?;
        Ok(Self {
            runtime,
            client: RuntimeServiceClient::new(channel),
        })
    }

    fn is_entered(
        &mut self,
        node: &Node<'_>,
        name: &str,
        annotations: BTreeMap<String, String>,
        users: Option<UserNamespace>,
        by: &str,
    ) -> Result<()> {
        let expected = users.as_ref().map_or(0, |_| IDS.host_id);
        let sandbox = self.start_with(name, annotations, users)?;
        let reached = node.reached(&sandbox);
        self.stop(&sandbox.id)?;
        self.remove(&sandbox.id)?;
        let (reached, root) = (reached?, sandbox.root);
        ensure!(root == expected, "the Pod's root is {root} on the node");
        ensure!(reached == by, "{reached} answered, not {by}");
        node.expect_no_state()
    }

    fn leaves(&mut self, node: &Node<'_>) -> Result<()> {
        let sandbox = self.start("leaving", meshed())?;
        ensure!(node.pods()?.len() == 1, "the daemon does not know the Pod");
        // A second stop is a DEL without a network namespace.
        for _ in 0..2 {
            self.stop(&sandbox.id)?;
        }
        for _ in 0..2 {
            self.remove(&sandbox.id)?;
        }
        node.expect_no_state()
    }

    /// As for a Pod with `hostUsers: false`.
    fn user_namespace(&mut self, node: &Node<'_>) -> Result<()> {
        let users = UserNamespace {
            mode: NamespaceMode::Pod.into(),
            uids: vec![IDS],
            gids: vec![IDS],
        };
        self.is_entered(node, "users", meshed(), Some(users), INBOUND)
    }

    /// The runtime runs STATUS of every plugin for its own status.
    fn network_status(&mut self, node: &Node<'_>) -> Result<()> {
        let (socket, moved) = (node.lab.file("sluiced.sock"), node.lab.file("moved.sock"));
        ensure!(self.network_problem()?.is_none(), "it is not ready before");
        fs::rename(&socket, &moved)?;
        let problem = self.network_problem();
        fs::rename(&moved, &socket)?;
        let problem = problem?.context("it is ready without the daemon")?;
        ensure!(problem.contains("sluiced.sock"), "the reason: {problem}");
        ensure!(self.network_problem()?.is_none(), "it is not ready after");
        Ok(())
    }

    /// Why the runtime's network is not ready, if it is not.
    fn network_problem(&mut self) -> Result<Option<String>> {
        let Self { runtime, client } = self;
        let answer = runtime
            .block_on(client.status(StatusRequest::default()))?
            .into_inner();
        let conditions = answer.status.context("no status")?.conditions;
        let network = conditions
            .into_iter()
            .find(|one| one.r#type == "NetworkReady");
        let network = network.context("no condition of the network")?;
        Ok((!network.status).then_some(network.message))
    }

    fn start(&mut self, name: &str, annotations: BTreeMap<String, String>) -> Result<Sandbox> {
        self.start_with(name, annotations, None)
    }

    fn start_with(
        &mut self,
        name: &str,
        annotations: BTreeMap<String, String>,
        userns_options: Option<UserNamespace>,
    ) -> Result<Sandbox> {
        let metadata = PodSandboxMetadata {
            name: name.to_owned(),
            uid: format!("uid-of-{name}"),
            namespace: "demo".to_owned(),
            attempt: 0,
        };
        let host = NamespaceOption {
            network: NamespaceMode::Pod.into(),
            pid: NamespaceMode::Container.into(),
            userns_options,
            ..NamespaceOption::default()
        };
        let linux = LinuxPodSandboxConfig {
            security_context: Some(LinuxSandboxSecurityContext {
                namespace_options: Some(host),
                ..LinuxSandboxSecurityContext::default()
            }),
            ..LinuxPodSandboxConfig::default()
        };
        let request = RunPodSandboxRequest {
            config: Some(PodSandboxConfig {
                metadata: Some(metadata),
                hostname: name.to_owned(),
                annotations: annotations.into_iter().collect(),
                linux: Some(linux),
                ..PodSandboxConfig::default()
            }),
            ..RunPodSandboxRequest::default()
        };
        let Self { runtime, client } = self;
        let id = runtime
            .block_on(client.run_pod_sandbox(request))?
            .into_inner()
            .pod_sandbox_id;
        self.find(id)
    }

    /// A sandbox's status with what containerd adds to it.
    fn verbose(&mut self, id: &str) -> Result<(PodSandboxStatus, Value)> {
        let Self { runtime, client } = self;
        let request = PodSandboxStatusRequest {
            pod_sandbox_id: id.to_owned(),
            verbose: true,
        };
        let answer = runtime
            .block_on(client.pod_sandbox_status(request))?
            .into_inner();
        let info = answer.info.get("info").context("no verbose status")?;
        let info = serde_json::from_str(info)?;
        Ok((answer.status.context("no status")?, info))
    }

    fn find(&mut self, id: String) -> Result<Sandbox> {
        let (status, info) = self.verbose(&id)?;
        let network = status.network.context("no network")?;
        Ok(Sandbox {
            id,
            netns: netns(&info)?,
            root: root(&info)?,
            address: network.ip.parse::<IpAddr>()?,
        })
    }

    fn stop(&mut self, id: &str) -> Result<()> {
        let Self { runtime, client } = self;
        let request = StopPodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        runtime.block_on(client.stop_pod_sandbox(request))?;
        Ok(())
    }

    fn remove(&mut self, id: &str) -> Result<()> {
        let Self { runtime, client } = self;
        let request = RemovePodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        runtime.block_on(client.remove_pod_sandbox(request))?;
        Ok(())
    }
}

/// The path of a sandbox's network namespace, from the verbose status.
fn netns(info: &Value) -> Result<PathBuf> {
    let namespaces = info["runtimeSpec"]["linux"]["namespaces"].as_array();
    let network = namespaces
        .into_iter()
        .flatten()
        .find(|one| one["type"] == "network");
    let path = network.and_then(|one| one["path"].as_str());
    Ok(path
        .context("a sandbox without a network namespace")?
        .into())
}

/// Which user of the node a sandbox's root is.
fn root(info: &Value) -> Result<u32> {
    let map = fs::read_to_string(format!("/proc/{}/uid_map", info["pid"]))?;
    let root = map.split_whitespace().nth(1);
    root.context("no users")?.parse().context("no user")
}
