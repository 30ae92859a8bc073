//! A containerd with root, state, socket and configuration of its own, on the lab's node.

use std::{
    env, fs, iter,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sluice_testbed::process::{Process, output};

use crate::runtime::{IMAGE, LIMIT, Node};

const START: Duration = Duration::from_secs(20);
/// The CRI plugin's directory for Pods.
const NAMESPACE: &str = "k8s.io";

/// The first release with user namespaces for Pods and STATUS of CNI 1.1.
const MODERN: u32 = 2;

/// A running containerd.
pub(super) struct Containerd {
    process: Process,
    pub(super) socket: PathBuf,
    programs: Programs,
    /// The major number of its release.
    pub(super) major: u32,
}

/// Where its programs are.
#[derive(Clone)]
pub(super) enum Programs {
    /// Where the machine has them.
    Installed,
    /// Unpacked below a directory.
    Below(PathBuf),
}

impl Programs {
    /// A command of one of them, which finds the others before those of the machine.
    fn command(&self, node: &Node<'_>, program: &str) -> Result<Command> {
        let Self::Below(root) = self else {
            return node.command(program);
        };
        let directory = root.join("usr/bin");
        let mut command = node.lab.within(None).command(&directory.join(program))?;
        let inherited = env::var_os("PATH").unwrap_or_default();
        let path = iter::once(directory).chain(env::split_paths(&inherited));
        command.env("PATH", env::join_paths(path)?);
        Ok(command)
    }
}

impl Containerd {
    /// Starts it, with an image. It finds what the one before it has left.
    pub(super) fn start(node: &Node<'_>, programs: &Programs, image: &Path) -> Result<Self> {
        let home = node.lab.file("containerd");
        fs::create_dir_all(&home)?;
        let major = major(node, programs)?;
        let networks = if major < MODERN {
            node.lab.file("net.d")
        } else {
            networks_of_cni_1_1(node, &home)?
        };
        let (socket, configuration) = (home.join("containerd.sock"), home.join("config.toml"));
        let text = self::configuration(node, &home, &socket, &networks);
        fs::write(&configuration, text)?;
        let mut command = programs.command(node, "containerd")?;
        command.arg("--config").arg(&configuration);
        let process = Process::start("containerd", &mut command, &home.join("log"))?;
        let mut containerd = Self {
            process,
            socket,
            programs: programs.clone(),
            major,
        };
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
                "--no-unpack",
                image,
            ];
            containerd.ctr(node, &arguments)?;
        }
        Ok(containerd)
    }

    /// Runs its client.
    pub(super) fn ctr(&self, node: &Node<'_>, arguments: &[&str]) -> Result<String> {
        let mut command = self.programs.command(node, "ctr")?;
        output(
            command.arg("--address").arg(&self.socket).args(arguments),
            LIMIT,
        )
    }

    /// Whether it supports user namespaces for Pods and runs STATUS of the plugins.
    pub(super) fn is_modern(&self) -> bool {
        self.major >= MODERN
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

/// The major number of `containerd github.com/containerd/containerd/v2 2.1.9`.
fn major(node: &Node<'_>, programs: &Programs) -> Result<u32> {
    let mut command = programs.command(node, "containerd")?;
    let said = output(command.arg("--version"), LIMIT)?;
    let version = said.split_whitespace().nth(2);
    let major = version.and_then(|version| version.trim_start_matches('v').split('.').next());
    let major = major.with_context(|| format!("no version in {said}"))?;
    major
        .parse()
        .with_context(|| format!("no version in {said}"))
}

/// The lab's networks as ones of CNI 1.1, which cnitool of Debian does not know.
fn networks_of_cni_1_1(node: &Node<'_>, home: &Path) -> Result<PathBuf> {
    let networks = home.join("net.d");
    fs::create_dir_all(&networks)?;
    for entry in fs::read_dir(node.lab.file("net.d"))? {
        let entry = entry?;
        let mut network: Value = serde_json::from_slice(&fs::read(entry.path())?)?;
        network["cniVersion"] = "1.1.0".into();
        fs::write(networks.join(entry.file_name()), network.to_string())?;
    }
    Ok(networks)
}

fn configuration(node: &Node<'_>, home: &Path, socket: &Path, networks: &Path) -> String {
    let home = home.display();
    let plugins = node.lab.file("plugins");
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
