//! Calls between Pods, and whether sidecars carried them.

use std::{
    iter,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use sluice_lab::proxy::{INBOUND, OUTBOUND};
use sluice_testbed::{
    agent::{call::CallResult, load_gen::LoadResult},
    interrupt::Interrupt,
};

use crate::kubernetes::{
    kubectl::Kubectl,
    pods::{APP, Mesh, NAMESPACE, PORT, Pod},
};

/// The program of the applications' containers.
pub(crate) const PROGRAM: &str = "/bin/sluice-e2e";
/// The source address of connections from a sidecar to its application.
const SIDECAR: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 6));
const LOGGED: Duration = Duration::from_secs(3);
/// Connections of a load that stay open.
const OPEN: &str = "50";
/// Its new connections a second.
const RATE: &str = "100";

/// A Pod, and how it is meshed.
pub(crate) type End<'a> = (&'a Pod, Mesh);

/// One call. Fails unless exactly the expected sidecars carried it.
fn call(kubectl: &Kubectl, (from, mesh): End<'_>, (to, other): End<'_>) -> Result<String> {
    let what = format!("{} → {}", from.name, to.name);
    let address = SocketAddr::new(to.ip, PORT);
    let (out, inbound) = (mesh != Mesh::None, other != Mesh::None);
    let carried = || -> Result<[usize; 2]> {
        Ok([
            from.carried(OUTBOUND, from.ip, address)?,
            to.carried(INBOUND, from.ip, address)?,
        ])
    };
    let before = carried()?;
    let said = kubectl.exec(
        [NAMESPACE, from.name, APP],
        &[PROGRAM, "call", "--to", &address.to_string()],
    )?;
    let heard: CallResult = serde_json::from_str(&said).with_context(|| said.clone())?;
    let greeting = heard.greeting.with_context(|| format!("{what}: {said}"))?;
    ensure!(
        heard.peer == Some(address),
        "{what}: the client sees {:?}",
        heard.peer
    );
    let source = if inbound { SIDECAR } else { from.ip };
    ensure!(
        greeting.source.ip() == source,
        "{what}: the server saw {}, not {source}",
        greeting.source.ip()
    );
    let expected = [
        before[0] + usize::from(out),
        before[1] + usize::from(inbound),
    ];
    // A proxy writes its log when a connection has ended, a little later.
    Interrupt::never().wait(LOGGED, || Ok(carried()? == expected))?;
    let seen = carried()?;
    ensure!(
        seen == expected,
        "{what}: carried {seen:?} times, expected {expected:?}"
    );
    Ok(what)
}

/// Each of these Pods calls every other.
pub(crate) fn all(kubectl: &Kubectl, ends: &[End<'_>]) -> Result<String> {
    let mut made = Vec::new();
    for from in ends {
        for to in ends.iter().filter(|to| to.0.name != from.0.name) {
            made.push(call(kubectl, *from, *to)?);
        }
    }
    Ok(made.join(", "))
}

/// A command that keeps connections open and opens new ones for `seconds`.
pub(crate) fn load(kubectl: &Kubectl, from: &Pod, to: &Pod, seconds: u64) -> Command {
    let mut command = kubectl.command();
    command
        .args([
            "exec",
            "--namespace",
            NAMESPACE,
            from.name,
            "--container",
            APP,
            "--",
        ])
        .arg(PROGRAM)
        .args(load_arguments(SocketAddr::new(to.ip, PORT), seconds));
    command
}

/// The arguments of a load.
pub(crate) fn load_arguments(to: SocketAddr, seconds: u64) -> Vec<String> {
    let (to, seconds) = (to.to_string(), seconds.to_string());
    let options = [
        "--to",
        &to,
        "--open",
        OPEN,
        "--rate",
        RATE,
        "--seconds",
        &seconds,
    ];
    iter::once("load-gen")
        .chain(options)
        .map(str::to_owned)
        .collect()
}

/// The result of a load. Fails unless every call went through its sidecars.
pub(crate) fn judge(said: &str) -> Result<String> {
    let line = said.lines().last().context("no report of the load")?;
    let outcome: LoadResult = serde_json::from_str(line).with_context(|| said.to_owned())?;
    let LoadResult {
        kept,
        requests,
        opened,
        bypassed,
        failed,
        failures,
        ..
    } = outcome;
    ensure!(
        failed == 0,
        "{failed} calls failed, {bypassed} bypassed a sidecar: {failures:?}"
    );
    ensure!(bypassed == 0, "{bypassed} calls bypassed a sidecar");
    ensure!(
        kept.to_string() == OPEN,
        "{kept} connections stayed, not {OPEN}"
    );
    Ok(format!(
        "{kept} connections stayed open ({requests} requests), {opened} new ones; 0 failed, 0 past a sidecar"
    ))
}
