//! Pods and verbs of newer releases: native sidecars, user namespaces, STATUS and GC of CNI 1.1.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sluice_lab::proxy::OUTBOUND;
use sluice_testbed::interrupt::Interrupt;

use crate::kubernetes::{
    calls::{self, PROGRAM},
    checks::Checks,
    cluster::get_node,
    gc,
    kubectl::Kubectl,
    node_upgrade,
    pods::{APP, IMAGE, Mesh, PORT, Pod, manifest},
};

/// The Pods that stay.
pub(crate) const PODS: [&str; 2] = [NATIVE, USERS];
const NATIVE: &str = "native";
const USERS: &str = "users";
/// The daemon's socket on the node.
const SOCKET: &str = "/run/sluice/sluiced.sock";
/// A kubelet asks the runtime every 5 s, and reports the node every 10 s.
const REPORTED: Duration = Duration::from_mins(1);
/// A proxy writes its log when a connection has ended, a little later.
const LOGGED: Duration = Duration::from_secs(3);

/// Every check, beside a meshed Pod that answers.
pub(crate) fn check(kubectl: &Kubectl, server: &Pod, interrupt: &Interrupt, checks: &mut Checks) {
    checks.check("a native sidecar carries calls of init containers", || {
        native_sidecar(kubectl, server, interrupt)
    });
    checks.check(
        "a Pod with a user namespace goes through its sidecar",
        || user_namespace(kubectl, server),
    );
    checks.check(
        "the node is not ready while the plugin's STATUS fails",
        || status(kubectl, interrupt),
    );
    checks.check("GC removes the Pod that is not valid", || {
        let kept = gc::run(kubectl, node_upgrade::POD)?;
        let [native, users] = PODS.map(|name| Pod::ready(kubectl, name));
        let called = calls::all(
            kubectl,
            &[(&native?, Mesh::Native), (&users?, Mesh::Native)],
        )?;
        Ok(format!("{kept}; then {called}"))
    });
}

/// An init container behind the sidecar calls a server before the application starts.
fn native_sidecar(kubectl: &Kubectl, server: &Pod, interrupt: &Interrupt) -> Result<String> {
    let to = (server.ip, PORT).into();
    let mut pod = manifest(NATIVE, Mesh::Native)?;
    let init = pod["spec"]["initContainers"].as_array_mut();
    init.context("no init containers")?.push(json!({
        "name": "migration",
        "image": IMAGE,
        "command": [PROGRAM, "call", "--to", format!("{to}")],
        "securityContext": { "runAsUser": sluice_lab::APPLICATION },
    }));
    kubectl.apply(&pod.to_string())?;
    let pod = Pod::ready(kubectl, NATIVE)?;
    let carried = interrupt.wait(LOGGED, || Ok(pod.carried(OUTBOUND, pod.ip, to)? == 1))?;
    ensure!(
        carried,
        "the sidecar did not carry the call of the init container"
    );
    let called = calls::all(kubectl, &[(&pod, Mesh::Native), (server, Mesh::Plugin)])?;
    Ok(format!(
        "1 call before the application started; then {called}"
    ))
}

/// `hostUsers: false`: the proxy's user is another one on the node.
fn user_namespace(kubectl: &Kubectl, server: &Pod) -> Result<String> {
    let mut pod = manifest(USERS, Mesh::Native)?;
    pod["spec"]["hostUsers"] = false.into();
    kubectl.apply(&pod.to_string())?;
    let pod = Pod::ready(kubectl, USERS)?;
    let map = uid_map(USERS)?;
    let first: Vec<_> = map.split_whitespace().collect();
    ensure!(
        first.first() == Some(&"0") && first.get(1) != Some(&"0"),
        "the Pod's users are the node's: {map}"
    );
    let called = calls::all(kubectl, &[(&pod, Mesh::Native), (server, Mesh::Plugin)])?;
    Ok(format!("uid_map {}; {called}", first.join(" ")))
}

/// The users of a Pod's application.
fn uid_map(pod: &str) -> Result<String> {
    for entry in fs::read_dir("/proc")? {
        let process = entry?.path();
        let command = fs::read(process.join("cmdline")).unwrap_or_default();
        let words: Vec<_> = command.split(|byte| *byte == 0).collect();
        if words.starts_with(&[PROGRAM.as_bytes(), b"serve", b"--name", pod.as_bytes()]) {
            return Ok(fs::read_to_string(process.join("uid_map"))?);
        }
    }
    anyhow::bail!("no process of {pod}'s container {APP}")
}

/// The runtime calls STATUS of every plugin to answer the kubelet.
fn status(kubectl: &Kubectl, interrupt: &Interrupt) -> Result<String> {
    let socket = Path::new(SOCKET);
    let moved = socket.with_extension("moved");
    fs::rename(socket, &moved)?;
    let refused = wait_for_condition(kubectl, "False", interrupt);
    fs::rename(&moved, socket)?;
    let refused = refused?;
    ensure!(refused.contains("sluiced.sock"), "the reason: {refused}");
    wait_for_condition(kubectl, "True", interrupt)?;
    Ok(refused)
}

/// Waits for the node's condition `Ready`. Returns its message.
fn wait_for_condition(kubectl: &Kubectl, value: &str, interrupt: &Interrupt) -> Result<String> {
    let mut seen = Value::Null;
    let changed = interrupt.wait(REPORTED, || {
        let node = get_node(kubectl)?;
        let conditions = node["status"]["conditions"].as_array();
        let ready = conditions.and_then(|all| all.iter().find(|one| one["type"] == "Ready"));
        seen = ready.cloned().unwrap_or_default();
        Ok(seen["status"] == value)
    })?;
    ensure!(changed, "the condition Ready is not {value}: {seen}");
    Ok(seen["message"].as_str().unwrap_or_default().to_owned())
}
