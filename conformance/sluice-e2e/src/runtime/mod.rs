//! Real runtimes, from Debian's packages and with state of their own, call the plugin.

mod containerd;
mod cri;
mod ctr;
mod podman;
mod uninstall;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use nix::unistd::Uid;
use serde_json::Value;
use sluice_lab::{
    Binaries, Lab,
    backend::BackendKind,
    mesh::Ports,
    pod_annotations::{EXCLUDE_INBOUND_PORTS, PodAnnotations},
    proxy::{INBOUND, OUTBOUND},
    servers,
};
use sluice_testbed::{
    agent::{
        ExecContext,
        probe::{Attempt, ProbeResult, Way},
    },
    interrupt::Interrupt,
    process::{Process, finish, output},
    terminal::step,
};

use containerd::{Containerd, Programs};

/// The program of every container of this test.
const IMAGE: &str = "sluice.test/pause:1";
const LIMIT: Duration = Duration::from_mins(1);
const PORT: u16 = 8080;

/// The options of a run.
#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    binaries: Binaries,
    /// A directory with a containerd 2 and reference plugins of CNI 1.1, unpacked: the node changes to it
    #[arg(long, value_name = "DIRECTORY")]
    next: Option<PathBuf>,
}

/// A Pod that a runtime has made.
struct Sandbox {
    id: String,
    netns: PathBuf,
    address: IpAddr,
    /// Which user of the node its root is.
    root: u32,
}

/// The node with everything that the runtimes share.
struct Node<'a> {
    lab: &'a Lab,
    interrupt: &'a Interrupt,
}

/// The name of each behaviour, and its outcome.
type Outcomes = Vec<(String, Result<()>)>;

impl Options {
    /// Runs every behaviour. `false` if one failed.
    pub(crate) fn run(&self) -> Result<bool> {
        ensure!(Uid::effective().is_root(), "needs root, to run containers");
        let interrupt = Interrupt::install()?;
        let mut binaries = self.binaries.resolve()?;
        let next = self.next.as_deref().map(Path::canonicalize).transpose();
        let next = next.context("no next containerd: run setup/containerd.sh sid")?;
        if let Some(next) = &next {
            binaries.cni_plugins = next.join("usr/lib/cni");
        }
        let lab = Lab::create(binaries, BackendKind::Sluice, &interrupt)?;
        let node = Node {
            lab: &lab,
            interrupt: &interrupt,
        };
        let outcomes = drive(&node, next);
        let left = lab.remove();
        let mut good = left.is_empty();
        let across = step("an uninstall while containers run", || {
            uninstall::run(&self.binaries, &interrupt)
        });
        for (name, outcome) in outcomes?.into_iter().chain(across?) {
            good &= outcome.is_ok();
            match outcome {
                Ok(()) => println!("✓ {name}"),
                Err(error) => println!("✗ {name}\n    {error:#}"),
            }
        }
        for left in left {
            println!("left behind: {left}");
        }
        Ok(good)
    }
}

fn drive(node: &Node<'_>, next: Option<PathBuf>) -> Result<Outcomes> {
    let image = step("making an image", || node.image())?;
    let mut outcomes = Outcomes::new();
    let start = |programs| Containerd::start(node, programs, &image);
    let mut containerd = step("starting containerd", || start(&Programs::Installed))?;
    outcomes.extend(step("containerd's CRI", || cri::run(node, &containerd)));
    if let Some(next) = next {
        let sandbox = cri::make(&containerd, "upgraded")?;
        containerd.stop()?;
        let next = Programs::Below(next);
        containerd = step("starting the next containerd", || start(&next))?;
        outcomes.push((
            "a Pod from before containerd's upgrade is entered and removed after it".to_owned(),
            cri::take_over(node, &containerd, &sandbox),
        ));
        outcomes.extend(step("its CRI", || cri::run(node, &containerd)));
    }
    outcomes.extend(step("ctr", || ctr::run(node, &containerd)));
    outcomes.push(("containerd ends".to_owned(), containerd.stop()));
    outcomes.extend(step("podman", || podman::run(node, &image)));
    Ok(outcomes)
}

impl Node<'_> {
    /// An image with one static binary that does nothing.
    fn image(&self) -> Result<PathBuf> {
        let (tree, image) = (self.lab.file("pause"), self.lab.file("pause.tar"));
        std::fs::create_dir_all(tree.join("bin"))?;
        std::fs::copy("/bin/busybox", tree.join("bin/busybox")).context("busybox-static")?;
        let script = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../install/manifests/image.sh"
        );
        let mut command = Command::new(script);
        command.arg(&image).arg(IMAGE).arg(&tree);
        output(command.args(["/bin/busybox", "sleep", "2147483647"]), LIMIT)?;
        Ok(image)
    }

    /// A command on the node.
    fn command(&self, program: &str) -> Result<Command> {
        self.lab.within(None).command(&which(program)?)
    }

    /// The Pods that the daemon knows.
    fn pods(&self) -> Result<Vec<Value>> {
        self.lab.backend.pods()
    }

    /// The server that answers at a port of a Pod, with a stand-in for its proxy in it.
    fn reached(&self, sandbox: &Sandbox) -> Result<String> {
        let Sandbox {
            id,
            netns,
            address,
            root,
        } = sandbox;
        let within = ExecContext {
            netns: Some(netns),
            ..self.lab.within(None)
        };
        let unprivileged = "echo 0 >/proc/sys/net/ipv4/ip_unprivileged_port_start";
        let mut low = within.command("/bin/sh".as_ref())?;
        output(low.args(["-ec", unprivileged]), LIMIT)?;
        let settings = PodAnnotations::default();
        let mut proxy = ExecContext {
            user: Some(root + settings.uid),
            ..within
        }
        .own()?;
        proxy.arg("echo-server");
        let Ports { outbound, inbound } = settings.mesh.ports();
        for (name, port) in [(OUTBOUND, outbound), (INBOUND, inbound)] {
            proxy.args(["--tcp", &format!("{name}={port}")]);
        }
        let log = self.lab.file(&format!("{id}-proxy.log"));
        let mut proxy = Process::start("the proxy", &mut proxy, &log)?;
        let mut servers = servers::listen(self.lab, id, "application", within)?;
        servers::wait(&mut proxy, self.interrupt)?;
        servers::wait(&mut servers, self.interrupt)?;
        let answer = self.ask(SocketAddr::new(*address, PORT));
        proxy.stop()?;
        servers.stop()?;
        answer
    }

    fn ask(&self, to: SocketAddr) -> Result<String> {
        let attempts = [Attempt {
            to,
            way: Way::Tcp,
            source: None,
            transparent: false,
            mark: None,
        }];
        let mut command = self.lab.within(None).own()?;
        let answer = finish(
            command.arg("probe"),
            &serde_json::to_string(&attempts)?,
            LIMIT,
        )?;
        let noticed: Vec<ProbeResult> = serde_json::from_slice(&answer.stdout)?;
        let noticed = noticed
            .into_iter()
            .next()
            .context("no report of the client")?;
        let seen = noticed
            .seen
            .with_context(|| format!("no answer: {:?}", noticed.errno))?;
        Ok(seen.by)
    }

    /// Fails if the daemon lists a Pod.
    fn expect_no_state(&self) -> Result<()> {
        let pods = self.pods()?;
        ensure!(
            pods.is_empty(),
            "the daemon still knows {}",
            Value::from(pods)
        );
        Ok(())
    }
}

/// Annotations of a Pod with a sidecar, and of one with invalid annotations.
fn meshed() -> BTreeMap<String, String> {
    PodAnnotations::default().annotations
}

fn malformed() -> BTreeMap<String, String> {
    PodAnnotations::default()
        .with(EXCLUDE_INBOUND_PORTS, "80,http")
        .annotations
}

/// The error must name the annotation.
fn refused<T>(outcome: Result<T>, names: &[&str]) -> Result<()> {
    let Err(error) = outcome else {
        anyhow::bail!("it was not refused")
    };
    let said = format!("{error:#}");
    let missing: Vec<_> = names.iter().filter(|name| !said.contains(**name)).collect();
    ensure!(
        missing.is_empty(),
        "the reason does not name {missing:?}: {said}"
    );
    Ok(())
}

fn which(program: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|directory| directory.join(program));
    let also = ["/usr/sbin", "/sbin"].map(|directory| PathBuf::from(directory).join(program));
    found
        .chain(also)
        .find(|path| path.is_file())
        .with_context(|| format!("{program} is missing: run make setup"))
}
