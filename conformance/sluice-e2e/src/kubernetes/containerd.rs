//! The node's container runtime.

use std::{
    env, fs, iter,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use sluice_testbed::process::output;

use crate::kubernetes::node::{CNI_BIN, CNI_CONF, LAB, RUNTIME_WITHOUT_ANNOTATIONS_CONF};

/// The socket of its CRI.
pub(crate) const SOCKET: &str = "/run/containerd/containerd.sock";
/// The handler of a runtime that passes no annotations.
pub(crate) const RUNTIME_WITHOUT_ANNOTATIONS: &str = "quiet";
/// The image of the container that holds a Pod's namespaces.
const PAUSE: &str = "sluice.test/pause:1";
const LIMIT: Duration = Duration::from_mins(3);

/// Where its programs are.
#[derive(Clone)]
pub(crate) enum Containerd {
    /// Where the machine has them.
    Installed,
    /// Unpacked below a directory, with runc in some.
    Below(PathBuf),
}

impl Containerd {
    /// Below a directory, if there is one.
    pub(crate) fn find(directory: Option<&Path>) -> Self {
        directory.map_or(Self::Installed, |root| Self::Below(root.to_owned()))
    }

    /// The daemon's command, with its configuration written.
    pub(crate) fn daemon(&self) -> Result<Command> {
        let file = Path::new(LAB).join("containerd.toml");
        fs::write(&file, configuration())?;
        let mut command = self.command("containerd")?;
        command.arg("--config").arg(file);
        Ok(command)
    }

    /// Whether it answers.
    pub(crate) fn answers(&self) -> bool {
        self.ctr(&["version"]).is_ok()
    }

    /// Loads an image.
    pub(crate) fn import(&self, image: &Path) -> Result<()> {
        let file = image.to_str().context("a path that is not UTF-8")?;
        self.ctr(&["images", "import", file])
            .map(drop)
            .with_context(|| format!("cannot import {file}"))
    }

    /// Gives an image another name.
    pub(crate) fn tag(&self, image: &str, name: &str) -> Result<()> {
        let said = self.ctr(&["images", "tag", image, name])?;
        ensure!(said.contains(name), "no image {name}: {said}");
        Ok(())
    }

    fn ctr(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.command("ctr")?;
        command.arg("--namespace=k8s.io").args(arguments);
        output(&mut command, LIMIT)
    }

    /// A command of one of its programs, which finds the others before those of the machine.
    fn command(&self, program: &str) -> Result<Command> {
        let Self::Below(root) = self else {
            return Ok(Command::new(program));
        };
        let directory = root.join("usr/bin");
        let mut command = Command::new(directory.join(program));
        let inherited = env::var_os("PATH").unwrap_or_default();
        let own = iter::once(directory).chain([root.join("usr/sbin")]);
        command.env(
            "PATH",
            env::join_paths(own.chain(env::split_paths(&inherited)))?,
        );
        Ok(command)
    }
}

/// The directories of CNI are named, as Debian's containerd 1.7 has another default than 1.6.
///
/// `restrict_oom_score_adj`: on machines without `CAP_SYS_RESOURCE` scores cannot be lowered.
fn configuration() -> String {
    format!(
        "version = 2\n\
         [grpc]\n\
         address = \"{SOCKET}\"\n\
         [plugins.\"io.containerd.grpc.v1.cri\"]\n\
         sandbox_image = \"{PAUSE}\"\n\
         restrict_oom_score_adj = true\n\
         [plugins.\"io.containerd.grpc.v1.cri\".cni]\n\
         bin_dir = \"{CNI_BIN}\"\n\
         conf_dir = \"{CNI_CONF}\"\n\
         [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\n\
         runtime_type = \"io.containerd.runc.v2\"\n\
         [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.{RUNTIME_WITHOUT_ANNOTATIONS}]\n\
         runtime_type = \"io.containerd.runc.v2\"\n\
         cni_conf_dir = \"{RUNTIME_WITHOUT_ANNOTATIONS_CONF}\"\n"
    )
}
