//! `kubectl sluice`, as an administrator runs it. Its output is kept with the logs.

use std::{fs, process::Command, time::Duration};

use anyhow::{Result, ensure};
use sluice_testbed::{interrupt::Interrupt, process::Process};

use crate::kubernetes::{
    Options, calls,
    kubectl::Kubectl,
    pods::{Mesh, NAMESPACE, Pod},
};

/// The time limit for a decision to reach the monitor.
const REPORTED: Duration = Duration::from_secs(30);

/// Runs each command. Fails if one fails, or prints other output.
pub(crate) fn ask(
    kubectl: &Kubectl,
    options: &Options,
    client: &Pod,
    outside: &Pod,
    interrupt: &Interrupt,
) -> Result<String> {
    let pod = format!("{NAMESPACE}/{}", client.name);
    let explain = ["explain", &pod, "--to", "198.51.100.1:80", "--as", "1000"];
    let mut page = String::new();
    // The exit codes of doctor for warnings and problems: the cluster's node has no clock of its own, for example.
    for (arguments, codes, part) in [
        (&["status"][..], &[0][..], "ready"),
        (&["pods", &pod], &[0], &*pod),
        (&explain, &[0], "outbound_to_proxy"),
        (&["audit"], &[0], "against a rule: 0"),
        (&["connections", &pod], &[0], "PATH"),
        (&["doctor"], &[0, 1, 4], "ok       CNI chain "),
    ] {
        let (code, said) = kubectl.sluice(&options.kubectl_plugins, arguments)?;
        let line = arguments.join(" ");
        ensure!(
            code.is_some_and(|code| codes.contains(&code)) && said.contains(part),
            "kubectl sluice {line}: exit code {code:?}\n{said}"
        );
        page.extend(["$ kubectl sluice ", &line, "\n", &said, "\n"]);
    }
    let said = monitor(kubectl, options, client, outside, interrupt)?;
    page.extend(["$ kubectl sluice monitor ", &pod, "\n", &said]);
    fs::write(options.logs.join("kubectl-sluice.txt"), page)?;
    Ok("status, pods, explain, audit, connections, doctor and monitor".to_owned())
}

/// Calls from a Pod until the monitor shows one.
fn monitor(
    kubectl: &Kubectl,
    options: &Options,
    client: &Pod,
    outside: &Pod,
    interrupt: &Interrupt,
) -> Result<String> {
    let pod = format!("{NAMESPACE}/{}", client.name);
    let mut command: Command = kubectl.plugin(&options.kubectl_plugins);
    command.args(["monitor", &pod, "--reason", "outbound_to_proxy"]);
    let log = options.logs.join("monitor.log");
    let mut monitor = Process::start("kubectl sluice monitor", &mut command, &log)?;
    let shown = interrupt.wait(REPORTED, || {
        monitor.check()?;
        calls::all(kubectl, &[(client, Mesh::Plugin), (outside, Mesh::None)])?;
        Ok(monitor.log().contains("outbound_to_proxy"))
    })?;
    let said = monitor.log();
    monitor.stop()?;
    ensure!(shown, "the monitor shows no call: {said}");
    Ok(said)
}
