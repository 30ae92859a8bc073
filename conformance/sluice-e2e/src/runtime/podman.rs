//! podman's CNI backend, which passes the container's name alone.

use std::{fs, path::Path, process::Command};

use anyhow::Result;
use sluice_testbed::process::output;

use crate::runtime::{IMAGE, LIMIT, Node, Outcomes, refused};

/// Every behaviour.
pub(super) fn run(node: &Node<'_>, image: &Path) -> Outcomes {
    let name = |what: &str| format!("podman: {what}");
    let started = load(node, image).and_then(|()| start(node));
    vec![
        (
            name("a container without a description does not start, with the reason"),
            refused(started, &["annotations"]),
        ),
        (name("no state of the Pod is left"), node.expect_no_state()),
        (name("its state can be reset"), remove_all(node)),
    ]
}

/// Imports the image.
pub(super) fn load(node: &Node<'_>, image: &Path) -> Result<()> {
    let home = node.lab.file("podman");
    fs::create_dir(&home)?;
    fs::write(home.join("containers.conf"), configuration(node, &home))?;
    let image = image.display().to_string();
    podman(node, &["load", "--input", &image]).map(drop)
}

/// Starts a container.
pub(super) fn start(node: &Node<'_>) -> Result<String> {
    podman(
        node,
        &[
            "run",
            "--detach",
            // podman's own are higher than what a machine may allow without CAP_SYS_RESOURCE.
            "--ulimit",
            "nofile=1024:1024",
            "--ulimit",
            "nproc=1024:1024",
            "--name",
            "lonely",
            "--network",
            &node.lab.name,
            IMAGE,
        ],
    )
}

/// Ends and removes every container.
pub(super) fn remove_all(node: &Node<'_>) -> Result<()> {
    podman(node, &["rm", "--all", "--force", "--time", "0"]).map(drop)
}

fn podman(node: &Node<'_>, arguments: &[&str]) -> Result<String> {
    let home = node.lab.file("podman");
    let mut command: Command = node.command("podman")?;
    command
        .env("CONTAINERS_CONF", home.join("containers.conf"))
        .arg("--root")
        .arg(home.join("root"))
        .arg("--runroot")
        .arg(home.join("run"))
        .args(["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs"]);
    output(command.args(arguments), LIMIT)
}

fn configuration(node: &Node<'_>, home: &Path) -> String {
    format!(
        r#"[engine]
lock_type = "file"
static_dir = "{home}/static"
tmp_dir = "{home}/tmp"
volume_path = "{home}/volumes"
events_logger = "file"
runtime = "runc"
[network]
network_backend = "cni"
cni_plugin_dirs = ["{plugins}"]
network_config_dir = "{networks}"
"#,
        home = home.display(),
        plugins = node.lab.file("plugins").display(),
        networks = node.lab.file("net.d").display(),
    )
}
