//! The built binaries: the daemon on the node, the plugin in the chain.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use sluice_testbed::{
    agent::ExecContext,
    bpffs::Bpffs,
    http,
    interrupt::Interrupt,
    process::{Process, output},
};

use crate::{
    Binaries,
    backend::{Backend, Counters, Explained, iptables::Iptables},
    bpf_objects::BpfObjects,
    pod_annotations::PodAnnotations,
};

/// Where measurements put a daemon's files: on a node these are in memory, too, below `/run`.
pub const MEMORY: &str = "/dev/shm";
/// An emulated machine needs minutes to verify the programs.
const START: Duration = Duration::from_mins(10);
/// The counters of the programs, as the daemon exports them.
const METRICS: [&str; 2] = [
    "sluice_decisions_total{reason=\"",
    "sluice_datapath_events_total{reason=\"",
];

/// A running daemon and the plugin that talks to it.
pub struct Sluice {
    daemon: Option<Process>,
    log: PathBuf,
    socket: PathBuf,
    plugin: PathBuf,
    sluiced: PathBuf,
    cgroup: PathBuf,
    state: PathBuf,
    config: PathBuf,
    pins: Bpffs,
}

impl Sluice {
    /// Starts the daemon in the machine's own network namespace, with its programs on `cgroup`
    /// alone. `behaviour` is its configuration.
    pub fn start(
        binaries: &Binaries,
        directory: &Path,
        cgroup: &Path,
        behaviour: &str,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        let socket = directory.join("sluiced.sock");
        let state = directory.join("sluiced-pods");
        let config = directory.join("sluiced.toml");
        fs::write(&config, behaviour)?;
        let pins = Bpffs::mount()?;
        let mut sluice = Self {
            daemon: None,
            log: directory.join("sluiced.log"),
            socket,
            plugin: binaries.sluice_cni.clone(),
            sluiced: binaries.sluiced.clone(),
            cgroup: cgroup.to_owned(),
            state,
            config,
            pins,
        };
        sluice.run(interrupt)?;
        Ok(sluice)
    }

    /// Starts the daemon and waits until it is ready.
    fn run(&mut self, interrupt: &Interrupt) -> Result<()> {
        let mut command = ExecContext::default().command(&self.sluiced)?;
        command.arg("run").arg("--socket").arg(&self.socket);
        command.arg("--cgroup").arg(&self.cgroup);
        command.arg("--state").arg(&self.state);
        command.arg("--config").arg(&self.config);
        command.arg("--bpffs").arg(self.pins.pins());
        let daemon = Process::start("sluiced", &mut command, &self.log)?;
        let daemon = self.daemon.insert(daemon);
        let ready = interrupt.wait(START, || {
            daemon.check()?;
            Ok(http::get(&self.socket, "/readyz").is_ok())
        })?;
        if !ready {
            bail!(
                "sluiced is not ready after {} s\n{}",
                START.as_secs(),
                daemon.tail()
            );
        }
        Ok(())
    }

    /// The daemon's process id.
    pub fn pid(&self) -> Result<u32> {
        self.daemon().map(Process::id)
    }

    fn daemon(&self) -> Result<&Process> {
        self.daemon.as_ref().context("the daemon is not running")
    }
}

impl Backend for Sluice {
    fn entry(&self) -> Option<Value> {
        Some(json!({
            "type": self.plugin.file_name()?.to_str()?,
            "socket": self.socket,
            "timeoutSeconds": 10,
            "capabilities": { "io.kubernetes.cri.pod-annotations": true },
        }))
    }

    fn plugin(&self) -> Option<PathBuf> {
        Some(self.plugin.clone())
    }

    /// The plugin has enrolled it. The rules of an init container come after.
    fn enroll(&self, netns: &Path, settings: &PodAnnotations) -> Result<()> {
        if settings.ruled {
            Iptables.enroll(netns, settings)?;
        }
        Ok(())
    }

    fn pods(&self) -> Result<Vec<Value>> {
        Ok(serde_json::from_str(&http::get(&self.socket, "/v1/pods")?)?)
    }

    fn counters(&self) -> Result<Option<Counters>> {
        let text = http::get(&self.socket, "/metrics")
            .with_context(|| format!("the daemon's log is {}", self.log.display()))?;
        Ok(Some(counters(&text)))
    }

    fn explain(&self, pod: IpAddr, connection: &Explained) -> Result<Option<String>> {
        let question = json!({ "pod": pod, "connection": { "outbound": connection } });
        let answer = http::post(&self.socket, "/v1/explain", &question.to_string())?;
        let answer: Value = serde_json::from_str(&answer)?;
        Ok(answer["rule"].as_str().map(str::to_owned))
    }

    fn audit(&self) -> Result<Vec<Value>> {
        let mut answer: Value =
            serde_json::from_str(&http::post(&self.socket, "/v1/audit", "{}")?)?;
        let mut found = Vec::new();
        for part in ["findings", "problems"] {
            if let Value::Array(some) = answer[part].take() {
                found.extend(some);
            }
        }
        Ok(found)
    }

    fn bpf_objects(&self) -> Result<BpfObjects> {
        BpfObjects::of(self.pid()?, &self.pins.pins())
    }

    fn restart(&mut self, signal: Signal, interrupt: &Interrupt) -> Result<()> {
        let mut daemon = self.daemon.take().context("the daemon is not running")?;
        daemon.end(signal)?;
        self.run(interrupt)
    }

    fn forget_programs(&self) -> Result<()> {
        for generation in fs::read_dir(self.pins.pins())? {
            fs::remove_file(generation?.path().join("programs/seal"))?;
        }
        Ok(())
    }

    fn stop(self: Box<Self>) -> Result<()> {
        let Self {
            daemon,
            socket,
            sluiced,
            state,
            pins,
            ..
        } = *self;
        let pods = http::get(&socket, "/v1/pods");
        daemon.map_or(Ok(()), Process::stop)?;
        // Without it the data path would work on.
        let mut detach = ExecContext::default().command(&sluiced)?;
        detach.arg("detach").arg("--state").arg(&state);
        output(detach.arg("--bpffs").arg(pins.pins()), START)?;
        let pods: Vec<Value> = serde_json::from_str(&pods?)?;
        if !pods.is_empty() {
            bail!("the daemon still knows deleted Pods: {}", Value::from(pods));
        }
        if socket.exists() {
            bail!("the daemon left its socket {}", socket.display());
        }
        if pins.pins().exists() {
            bail!("pins were left");
        }
        Ok(())
    }
}

/// From Prometheus' text format.
fn counters(text: &str) -> Counters {
    let parse = |line: &str| {
        let labels = METRICS.iter().find_map(|metric| line.strip_prefix(metric));
        let (reason, count) = labels?.split_once("\"}")?;
        Some((reason.to_owned(), count.trim().parse().ok()?))
    };
    text.lines().filter_map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_from_both_metrics() {
        let text = "# TYPE sluice_decisions_total counter\n\
                    sluice_decisions_total{reason=\"inbound_to_proxy\"} 3\n\
                    sluice_datapath_events_total{reason=\"listener_added\"} 2\n\
                    sluice_attachments{state=\"meshed\"} 1\n";
        let expected = [("inbound_to_proxy", 3), ("listener_added", 2)];
        let expected = expected.map(|(reason, count)| (reason.to_owned(), count));
        assert_eq!(counters(text), expected.into());
    }
}
