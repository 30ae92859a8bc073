//! GC of CNI 1.1 as libcni starts it. containerd calls no GC, so that the test does.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sluice_testbed::process::finish;

use crate::kubernetes::{
    known::{listed, quoted},
    kubectl::Kubectl,
    node::{CNI_BIN, CNI_CONF, CNI_CURRENT},
};

/// libcni's record of each ADD.
const RESULTS: &str = "/var/lib/cni/results";
const LIMIT: Duration = Duration::from_secs(10);

/// Calls GC of each plugin of the chain with every attachment but that of one Pod. Fails if the daemon still
/// knows it.
pub(crate) fn run(kubectl: &Kubectl, without: &str) -> Result<String> {
    let known = listed(kubectl)?;
    ensure!(known.contains(&quoted(without)), "{without} is unknown");
    let chain = chain()?;
    let (name, plugins) = (&chain["name"], chain["plugins"].as_array());
    let valid = attachments(name, without)?;
    ensure!(!valid.is_empty(), "no attachment is left in {RESULTS}");
    let mut called = Vec::new();
    for plugin in plugins.context("no plugins")? {
        let mut configuration = plugin.clone();
        configuration["name"] = name.clone();
        configuration["cniVersion"] = CNI_CURRENT.into();
        configuration["cni.dev/valid-attachments"] = valid.clone().into();
        configuration["cni.dev/attachments"] = valid.clone().into();
        let kind = plugin["type"].as_str().context("no type")?;
        call(kind, &configuration)?;
        called.push(kind);
    }
    let known = listed(kubectl)?;
    ensure!(
        !known.contains(&quoted(without)),
        "{without} is still known: {known}"
    );
    let (called, kept) = (called.join(", "), valid.len());
    Ok(format!(
        "{called}: {kept} attachments kept, that of {without} removed"
    ))
}

/// The list of plugins that the runtime uses.
fn chain() -> Result<Value> {
    let mut files: Vec<_> = fs::read_dir(CNI_CONF)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|it| it == "conflist"))
        .collect();
    files.sort();
    let first = files.first().context("no list of plugins")?;
    Ok(serde_json::from_slice(&fs::read(first)?)?)
}

fn attachments(network: &Value, without: &str) -> Result<Vec<Value>> {
    let pod = json!(["K8S_POD_NAME", without]);
    let mut found = Vec::new();
    for entry in fs::read_dir(RESULTS)? {
        let added: Value = serde_json::from_slice(&fs::read(entry?.path())?)?;
        let arguments = added["cniArgs"].as_array();
        let is_left_out = arguments.is_some_and(|all| all.contains(&pod));
        if added["networkName"] == *network && !is_left_out {
            let (id, name) = (&added["containerId"], &added["ifName"]);
            found.push(json!({ "containerID": id, "ifname": name }));
        }
    }
    Ok(found)
}

fn call(plugin: &str, configuration: &Value) -> Result<()> {
    let mut command = Command::new(Path::new(CNI_BIN).join(plugin));
    command.env("CNI_COMMAND", "GC").env("CNI_PATH", CNI_BIN);
    let Output { status, stdout, .. } = finish(&mut command, &configuration.to_string(), LIMIT)?;
    let said = String::from_utf8_lossy(&stdout);
    ensure!(status.success(), "GC of {plugin}: {said}");
    Ok(())
}
