//! The node's container runtime and its kubelet are changed for other releases while Pods are connected.

use std::{net::SocketAddr, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sluice_lab::APPLICATION;
use sluice_testbed::{agent::ExecContext, interrupt::Interrupt, process::Process};

use crate::kubernetes::{
    Options, calls,
    cluster::Cluster,
    known::{listed, quoted},
    kubectl::Kubectl,
    pods::{Mesh, PORT, Pod},
};

/// The Pod that is added after the upgrade.
pub(crate) const POD: &str = "later";
/// The load starts before the upgrade and ends after it.
const LOAD_SECONDS: u64 = 60;
/// For the load to end.
const LIMIT: Duration = Duration::from_secs(2 * LOAD_SECONDS);

/// Fails if a connection is lost or bypasses a sidecar, or if a Pod does not work afterwards.
pub(crate) fn run(
    cluster: &mut Cluster,
    options: &Options,
    [client, server]: [&Pod; 2],
    interrupt: &Interrupt,
) -> Result<String> {
    let kubectl = cluster.kubectl.clone();
    let log = options.logs.join("load-of-the-node-upgrade.log");
    let mut load = Process::start("the load", &mut load(&kubectl, client, server)?, &log)?;
    let changed = cluster.upgrade_node(&options.next_containerd, interrupt)?;
    load.check().context("the load ended before the upgrade")?;
    let [later] = Pod::start(&kubectl, [(POD, Mesh::Plugin)])?;
    let called = calls::all(&kubectl, &[(&later, Mesh::Plugin), (server, Mesh::Plugin)])?;
    let ended = interrupt.wait(LIMIT, || Ok(load.check().is_err()))?;
    ensure!(ended, "the load does not end");
    Ok(format!(
        "{changed}; {}; then {called}",
        calls::judge(&load.log())?
    ))
}

/// The load as a process of the node in the Pod: a command of `kubectl exec` ends with the kubelet.
fn load(kubectl: &Kubectl, client: &Pod, server: &Pod) -> Result<Command> {
    let netns = netns(kubectl, client)?;
    let application = ExecContext {
        netns: Some(&netns),
        user: Some(APPLICATION),
        ..ExecContext::default()
    };
    let mut command = application.own()?;
    let to = SocketAddr::new(server.ip, PORT);
    command.args(calls::load_arguments(to, LOAD_SECONDS));
    Ok(command)
}

/// The network namespace of a Pod, as the daemon lists it.
fn netns(kubectl: &Kubectl, pod: &Pod) -> Result<PathBuf> {
    let pods: Vec<Value> = serde_json::from_str(&listed(kubectl)?)?;
    let name = quoted(pod.name);
    let found = pods.iter().find(|one| one.to_string().contains(&name));
    let path = found.and_then(|pod| pod["netns"].as_str());
    Ok(path.context("the daemon does not list the Pod")?.into())
}
