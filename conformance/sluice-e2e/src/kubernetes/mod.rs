//! The end-to-end test: a control plane, a kubelet and a container runtime on this machine, in
//! namespaces and cgroups of their own; the chart installed, upgraded under load and deleted.
//!
//! Two processes share the work. The outer one makes the cgroups, starts the inner one as the
//! first process of new namespaces, and afterwards checks that no cgroup and no mount is left. The inner
//! one prepares the node, starts the cluster and runs the scenario. When it ends, the kernel ends
//! every process and unmounts every file system in its namespaces.

mod admission;
mod calls;
mod cgroups;
mod chart;
mod checks;
mod cluster;
mod containerd;
mod features;
mod gc;
mod known;
mod kubectl;
mod node;
mod node_upgrade;
mod plugin;
mod pods;
mod release;
mod scenario;
mod snapshot;
mod untouched;

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use nix::{
    sys::{
        prctl::set_pdeathsig,
        signal::{SigSet, Signal},
    },
    unistd::Uid,
};
use sluice_testbed::interrupt::Interrupt;

use crate::kubernetes::{cgroups::Cgroups, checks::Checks, node::SYSCTLS};

/// For everything but building. Waits end with their condition: on an idle machine the test takes five minutes.
const LIMIT: Duration = Duration::from_mins(30);

/// The files that the end-to-end test uses.
#[derive(Args, Clone)]
pub(crate) struct Options {
    /// The directory with kube-apiserver, kubelet and so on.
    #[arg(long, env = "KUBERNETES", default_value = "target/tools/kubernetes")]
    kubernetes: PathBuf,
    /// The directory with the images.
    #[arg(long, env = "IMAGES", default_value = "target/image")]
    images: PathBuf,
    /// The directory with the chart and what renders it.
    #[arg(long, env = "MANIFESTS", default_value = "install/manifests")]
    manifests: PathBuf,
    /// A Python with Helm's engine.
    #[arg(
        long,
        env = "MANIFESTS_PYTHON",
        default_value = "target/tools/manifests/bin/python"
    )]
    helm: PathBuf,
    /// The kubelet that the node has before its upgrade: that of --kubernetes if none is named.
    #[arg(long)]
    older_kubelet: Option<PathBuf>,
    /// The directory with bridge, host-local and portmap.
    #[arg(long, env = "CNI_PLUGINS", default_value = "/usr/lib/cni")]
    cni_plugins: PathBuf,
    /// The directory with the plugin of kubectl.
    #[arg(
        long,
        env = "KUBECTL_PLUGINS",
        default_value = "target/x86_64-unknown-linux-gnu/release"
    )]
    kubectl_plugins: PathBuf,
    /// The directory with the containerd of before the upgrade, unpacked: the machine's if none is named.
    #[arg(long)]
    containerd: Option<PathBuf>,
    /// The directory with the next containerd, unpacked.
    #[arg(long, default_value = "target/debian/containerd-trixie")]
    next_containerd: PathBuf,
    /// Where the logs of the cluster go.
    #[arg(long, default_value = "target/e2e")]
    logs: PathBuf,
}

impl Options {
    /// Makes the paths absolute. Fails if one does not exist.
    fn resolve(&self) -> Result<Self> {
        let find = |path: &PathBuf| {
            std::path::absolute(path)
                .ok()
                .filter(|path| path.exists())
                .with_context(|| format!("{} is missing: run make e2e", path.display()))
        };
        fs::create_dir_all(&self.logs)?;
        Ok(Self {
            kubernetes: find(&self.kubernetes)?,
            images: find(&self.images)?,
            manifests: find(&self.manifests)?,
            helm: find(&self.helm)?,
            cni_plugins: find(&self.cni_plugins)?,
            kubectl_plugins: find(&self.kubectl_plugins)?,
            older_kubelet: self.older_kubelet.as_ref().map(find).transpose()?,
            containerd: self.containerd.as_ref().map(find).transpose()?,
            next_containerd: find(&self.next_containerd)?,
            logs: find(&self.logs)?,
        })
    }

    fn arguments(&self) -> Vec<(&'static str, &Path)> {
        let mut arguments: Vec<(_, &Path)> = vec![
            ("--kubernetes", &self.kubernetes),
            ("--images", &self.images),
            ("--manifests", &self.manifests),
            ("--helm", &self.helm),
            ("--cni-plugins", &self.cni_plugins),
            ("--kubectl-plugins", &self.kubectl_plugins),
            ("--next-containerd", &self.next_containerd),
            ("--logs", &self.logs),
        ];
        for (name, path) in [
            ("--older-kubelet", &self.older_kubelet),
            ("--containerd", &self.containerd),
        ] {
            arguments.extend(path.as_deref().map(|path| (name, path)));
        }
        arguments
    }
}

/// The hidden subcommand that becomes the node's first process.
#[derive(Args)]
pub(crate) struct Node {
    /// The cgroup to enter in each hierarchy; none if that was done.
    #[arg(long = "cgroup")]
    cgroups: Vec<PathBuf>,
    #[command(flatten)]
    options: Options,
}

impl Node {
    /// Enters the cgroups and namespaces, or, in them, runs the node. `false` if a check failed.
    pub(crate) fn run(self) -> Result<bool> {
        let Self { cgroups, options } = self;
        if cgroups.is_empty() {
            return scenario::run(&options);
        }
        Cgroups::enter(&cgroups)?;
        // Blocked by the outer process, and what is blocked stays so.
        SigSet::all().thread_unblock()?;
        set_pdeathsig(Signal::SIGKILL)?;
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--net", "--cgroup", "--ipc", "--uts", "--pid"])
            .args(["--fork", "--kill-child", "--propagation", "private", "--"])
            .arg(fs::canonicalize("/proc/self/exe")?)
            .arg("kubernetes-node");
        for (name, value) in options.arguments() {
            command.arg(name).arg(value);
        }
        Err(command.exec()).context("cannot run unshare")
    }
}

/// Runs the test. `false` if a check failed.
pub(crate) fn run(options: &Options) -> Result<bool> {
    ensure!(
        Uid::effective().is_root(),
        "needs root, to make namespaces and cgroups"
    );
    let interrupt = Interrupt::install()?;
    let options = options.resolve()?;
    let settings = sysctls()?;

    let cgroups = Cgroups::create(&format!("sluice-e2e-{}", std::process::id()))?;
    let passed = inside(&options, &cgroups, &interrupt);
    let mut checks = Checks::default();
    checks.check("nothing is left on this machine", || {
        let paths = cgroups.remove()?;
        ensure!(
            sysctls()? == settings,
            "the machine's own settings have changed"
        );
        Ok(format!(
            "{} cgroups removed, {} settings as before",
            paths,
            settings.len()
        ))
    });
    Ok(passed? && checks.passed())
}

/// Runs the inner process to its end.
fn inside(options: &Options, cgroups: &Cgroups, interrupt: &Interrupt) -> Result<bool> {
    let mut command = Command::new(fs::canonicalize("/proc/self/exe")?);
    command.arg("kubernetes-node");
    for cgroup in cgroups.paths() {
        command.arg("--cgroup").arg(cgroup);
    }
    for (name, value) in options.arguments() {
        command.arg(name).arg(value);
    }
    // The outer process handles Ctrl-C: it ends the inner one and cleans up.
    let mut node = command.process_group(0).spawn()?;
    let mut status = None;
    let outcome = interrupt.wait(LIMIT, || {
        status = node.try_wait()?;
        Ok(status.is_some())
    });
    if status.is_none() {
        node.kill()?;
        node.wait()?;
    }
    ensure!(
        outcome?,
        "stopped: not done after {} s, see the logs in {}",
        LIMIT.as_secs(),
        options.logs.display()
    );
    Ok(status.is_some_and(|status| status.success()))
}

fn sysctls() -> Result<Vec<String>> {
    let read = |path: &&str| fs::read_to_string(path).with_context(|| (*path).to_owned());
    SYSCTLS.iter().map(read).collect()
}
