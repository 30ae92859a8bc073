//! The CRI calls that a kubelet makes to containerd.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use anyhow::{Context, Result, ensure};
use k8s_cri::v1::{
    LinuxPodSandboxConfig, LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption,
    PodSandboxConfig, PodSandboxMetadata, PodSandboxStatusRequest, RemovePodSandboxRequest,
    RunPodSandboxRequest, StopPodSandboxRequest, runtime_service_client::RuntimeServiceClient,
};
use serde_json::Value;
use sluice_lab::{pod_annotations::EXCLUDE_INBOUND_PORTS, proxy::INBOUND};
use tokio::runtime::{Builder, Runtime};
use tonic::transport::{Channel, Endpoint};

use crate::runtime::{Node, Outcomes, Sandbox, containerd::Containerd, malformed, meshed, refused};

/// A client of the CRI.
struct Cri {
    runtime: Runtime,
    client: RuntimeServiceClient<Channel>,
}

/// Every behaviour.
pub(super) fn run(node: &Node<'_>, containerd: &Containerd) -> Outcomes {
    let name = |what: &str| format!("containerd's CRI: {what}");
    let mut cri = match Cri::connect(containerd) {
        Ok(cri) => cri,
        Err(error) => return vec![(name("it answers"), Err(error.context(containerd.tail())))],
    };
    vec![
        (
            name("a meshed Pod is entered through its proxy"),
            cri.is_entered(node, "meshed", meshed(), INBOUND),
        ),
        (
            name("a Pod without a sidecar is not intercepted"),
            cri.is_entered(node, "plain", BTreeMap::new(), "application"),
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
    ]
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
        by: &str,
    ) -> Result<()> {
        let sandbox = self.start(name, annotations)?;
        let reached = node.reached(&sandbox);
        self.stop(&sandbox.id)?;
        self.remove(&sandbox.id)?;
        let reached = reached?;
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

    fn start(&mut self, name: &str, annotations: BTreeMap<String, String>) -> Result<Sandbox> {
        let metadata = PodSandboxMetadata {
            name: name.to_owned(),
            uid: format!("uid-of-{name}"),
            namespace: "demo".to_owned(),
            attempt: 0,
        };
        let host = NamespaceOption {
            network: NamespaceMode::Pod.into(),
            pid: NamespaceMode::Container.into(),
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

    fn find(&mut self, id: String) -> Result<Sandbox> {
        let Self { runtime, client } = self;
        let request = PodSandboxStatusRequest {
            pod_sandbox_id: id.clone(),
            verbose: true,
        };
        let answer = runtime
            .block_on(client.pod_sandbox_status(request))?
            .into_inner();
        let network = answer
            .status
            .and_then(|status| status.network)
            .context("no network")?;
        let info = answer.info.get("info").context("no verbose status")?;
        Ok(Sandbox {
            id,
            netns: netns(info)?,
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
fn netns(info: &str) -> Result<PathBuf> {
    let info: Value = serde_json::from_str(info)?;
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
