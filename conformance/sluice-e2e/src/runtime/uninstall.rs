//! Pods that runtimes created before an uninstall are torn down after it: podman uses libcni's cache of
//! the ADD, containerd the current configuration.

use std::{env, fs, path::Path};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use sluice_lab::{Binaries, Lab, backend::sluice::Sluice};
use sluice_testbed::{interrupt::Interrupt, process::output};

use crate::runtime::{
    LIMIT, Node, Outcomes,
    containerd::{Containerd, Programs},
    cri, podman,
};

/// podman passes no annotations.
const BEHAVIOUR: &str = "mesh = 'istio'\nmissing-annotations = 'bypass'\n";
/// libcni's cache of configurations.
const CACHE: &str = "/var/lib/cni";

/// Every behaviour, on nodes of their own.
pub(super) fn run(binaries: &Binaries, interrupt: &Interrupt) -> Result<Outcomes> {
    let mut outcomes = Outcomes::new();
    for runtime in ["podman", "containerd"] {
        let mut lab = Lab::with(binaries.resolve()?, |binaries, directory, cgroup| {
            let sluice = Sluice::start(binaries, directory, cgroup, BEHAVIOUR, interrupt)?;
            Ok(Box::new(sluice))
        })?;
        let node = Node {
            lab: &lab,
            interrupt,
        };
        let outcome = match runtime {
            "podman" => of_podman(&node),
            _ => of_containerd(&node),
        };
        // containerd did not start the plugin. The next daemon finds that the Pod is gone.
        lab.backend.restart(Signal::SIGTERM, interrupt)?;
        let left = lab.remove();
        // A failure leaves something behind, and is the one to report.
        let outcome = outcome.and_then(|()| {
            ensure!(left.is_empty(), "left behind: {}", left.join("; "));
            Ok(())
        });
        let name = format!("{runtime}: a container made before an uninstall is torn down after it");
        outcomes.push((name, outcome));
    }
    Ok(outcomes)
}

fn of_podman(node: &Node<'_>) -> Result<()> {
    podman::load(node, &node.image()?)?;
    podman::start(node)?;
    let said = uninstall(node)?;
    let cached = format!("results/{}-", node.lab.name);
    ensure!(
        said.contains("stays"),
        "the report does not name what keeps the plugin: {said}"
    );
    let plugin = plugin(node)?;
    ensure!(plugin, "the plugin is gone, which the container needs");
    podman::remove_all(node)?;
    is_gone(node)?;
    node.expect_no_state()?;
    // Others on this machine may need a plugin of this name, too.
    let said = uninstall(node)?;
    ensure!(
        !self::plugin(node)? || said.contains("stays"),
        "the plugin stays without a reason: {said}"
    );
    ensure!(!said.contains(&cached), "{said}");
    Ok(())
}

fn of_containerd(node: &Node<'_>) -> Result<()> {
    let containerd = Containerd::start(node, &Programs::Installed, &node.image()?)?;
    let done = cri::across(&containerd, || uninstall(node).map(drop));
    let done = done.and_then(|()| is_gone(node));
    containerd.stop().and(done)
}

/// Uninstalls Sluice from the lab's networks, and returns the installer's output.
fn uninstall(node: &Node<'_>) -> Result<String> {
    let installer = env::current_exe()?.with_file_name("sluice-install");
    ensure!(installer.exists(), "{} is missing", installer.display());
    let mut command = node.lab.within(None).command(Path::new("/bin/sh"))?;
    command
        .args(["-ec", "exec \"$@\" 2>&1", "sh"])
        .arg(installer)
        .args(["uninstall", "--grace", "0", "--cni-cache-dir", CACHE])
        .arg("--cni-bin-dir")
        .arg(node.lab.file("plugins"))
        .arg("--cni-conf-dir")
        .arg(node.lab.file("net.d"))
        .arg("--state-dir")
        .arg(node.lab.file("installer"));
    output(&mut command, LIMIT)
}

fn plugin(node: &Node<'_>) -> Result<bool> {
    let entries = fs::read_dir(node.lab.file("plugins"))?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.into_iter().any(|name| name == "sluice-cni"))
}

/// No lease is left, and nothing in libcni's cache.
fn is_gone(node: &Node<'_>) -> Result<()> {
    let cached = node.lab.cached();
    ensure!(cached.is_empty(), "cached: {}", cached.join(", "));
    let leases = node.lab.file("leases").join(&node.lab.name);
    let entries = fs::read_dir(&leases).with_context(|| leases.display().to_string())?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let left: Vec<String> = names
        .filter(|name| name.parse::<std::net::IpAddr>().is_ok())
        .collect();
    ensure!(left.is_empty(), "leases: {}", left.join(", "));
    Ok(())
}
