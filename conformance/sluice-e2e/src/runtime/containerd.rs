//! A containerd with root, state, socket and configuration of its own, on the lab's node.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use sluice_testbed::process::{Process, output};

use crate::runtime::{IMAGE, LIMIT, Node};

const START: Duration = Duration::from_secs(20);
/// The CRI plugin's directory for Pods.
const NAMESPACE: &str = "k8s.io";

/// A running containerd.
pub(super) struct Containerd {
    process: Process,
    pub(super) socket: PathBuf,
}

impl Containerd {
    /// Starts it, with an image.
    pub(super) fn start(node: &Node<'_>, image: &Path) -> Result<Self> {
        let home = node.lab.file("containerd");
        fs::create_dir(&home)?;
        let (socket, configuration) = (home.join("containerd.sock"), home.join("config.toml"));
        fs::write(&configuration, self::configuration(node, &home, &socket))?;
        let mut command = node.command("containerd")?;
        command.arg("--config").arg(&configuration);
        let process = Process::start("containerd", &mut command, &home.join("log"))?;
        let mut containerd = Self { process, socket };
        let ready = node.interrupt.wait(START, || {
            containerd.process.check()?;
            Ok(containerd.ctr(node, &["version"]).is_ok())
        })?;
        ensure!(
            ready,
            "containerd is not ready\n{}",
            containerd.process.tail()
        );
        let image = image.to_str().context("a path that is not UTF-8")?;
        for namespace in [NAMESPACE, "default"] {
            let arguments = [
                "--namespace",
                namespace,
                "images",
                "import",
                "--snapshotter",
                "native",
                image,
            ];
            containerd.ctr(node, &arguments)?;
        }
        Ok(containerd)
    }

    /// Runs its client.
    pub(super) fn ctr(&self, node: &Node<'_>, arguments: &[&str]) -> Result<String> {
        let mut command = node.command("ctr")?;
        output(
            command.arg("--address").arg(&self.socket).args(arguments),
            LIMIT,
        )
    }

    /// The end of its log.
    pub(super) fn tail(&self) -> String {
        self.process.tail()
    }

    /// Ends it.
    pub(super) fn stop(self) -> Result<()> {
        self.process.stop()
    }
}

fn configuration(node: &Node<'_>, home: &Path, socket: &Path) -> String {
    let home = home.display();
    let (plugins, networks) = (node.lab.file("plugins"), node.lab.file("net.d"));
    format!(
        r#"version = 2
root = "{home}/root"
state = "{home}/state"
[grpc]
address = "{socket}"
[plugins."io.containerd.internal.v1.opt"]
path = "{home}/opt"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{IMAGE}"
disable_tcp_service = true
disable_cgroup = true
disable_apparmor = true
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{plugins}"
conf_dir = "{networks}"
max_conf_num = 1
"#,
        socket = socket.display(),
        plugins = plugins.display(),
        networks = networks.display(),
    )
}
