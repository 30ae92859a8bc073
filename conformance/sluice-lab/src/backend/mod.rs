//! The backends under test, behind one trait: the lab and the rows do not depend on one.

pub mod iptables;
mod none;
pub mod sluice;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Result, bail};
use clap::ValueEnum;
use nix::sys::signal::Signal;
use serde::Serialize;
use serde_json::Value;
use sluice_testbed::{agent::ExecContext, interrupt::Interrupt, process::output};

use crate::{
    Binaries,
    bpf_objects::BpfObjects,
    mesh::{Mesh, NodeWide},
    pod_annotations::PodAnnotations,
};

const LIMIT: Duration = Duration::from_secs(10);

/// How often each reason was given.
pub type Counters = BTreeMap<String, u64>;

/// Redirects the traffic of Pods to their proxies.
pub trait Backend: Send + Sync {
    /// Its entry at the end of the conflist.
    fn entry(&self) -> Option<Value>;
    /// The plugin of that entry.
    fn plugin(&self) -> Option<PathBuf>;
    /// Called for each meshed Pod after it joined the network.
    fn enroll(&self, _netns: &Path, _settings: &PodAnnotations) -> Result<()> {
        Ok(())
    }
    /// Whether it makes the kernel track the Pods' connections.
    fn tracks_connections(&self) -> bool {
        false
    }
    /// Its decisions so far, if it counts them.
    fn counters(&self) -> Result<Option<Counters>>;
    /// Ends its daemon by a signal and starts another one.
    fn restart(&mut self, _signal: Signal, _interrupt: &Interrupt) -> Result<()> {
        bail!("this subject has no daemon")
    }
    /// Makes the next daemon load its programs, as if they differed from those in the kernel.
    fn forget_programs(&self) -> Result<()> {
        bail!("this subject has no daemon")
    }
    /// The Pods that it knows.
    fn pods(&self) -> Result<Vec<Value>> {
        Ok(Vec::new())
    }
    /// The connections that bypass a proxy against a rule, if the backend audits them.
    fn audit(&self) -> Result<Vec<Value>> {
        Ok(Vec::new())
    }
    /// The rule that decides about a connection, as the backend explains it; `None` if it explains
    /// nothing. `pod` is an address of the Pod.
    fn explain(&self, _pod: IpAddr, _connection: &Explained) -> Result<Option<String>> {
        Ok(None)
    }
    /// The BPF objects that must not exist after it has ended.
    fn bpf_objects(&self) -> Result<BpfObjects> {
        Ok(BpfObjects::default())
    }
    /// Ends it; fails if it still knows Pods.
    fn stop(self: Box<Self>) -> Result<()>;
}

/// A connection of a process in a Pod that a backend explains.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Explained {
    /// Its destination.
    pub to: SocketAddr,
    /// The user of the process.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// A datagram.
    pub udp: bool,
}

/// Which one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BackendKind {
    /// The built binaries.
    Sluice,
    /// Real rules in the Pods: the reference.
    Iptables,
    /// Nothing: the control, with which rows must fail.
    None,
}

impl BackendKind {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sluice => "sluice",
            Self::Iptables => "iptables",
            Self::None => "none",
        }
    }

    /// Starts it on a node.
    pub fn start(
        self,
        binaries: &Binaries,
        directory: &Path,
        cgroup: &Path,
        mesh: Mesh,
        interrupt: &Interrupt,
    ) -> Result<Box<dyn Backend>> {
        Ok(match self {
            Self::Sluice => {
                // More can go wrong with it than without.
                let of_node = mesh
                    .node_wide()
                    .map_or_else(|| "families = 'both'\n".to_owned(), |node| node_wide(&node));
                let behaviour = format!(
                    "mesh = '{}'\nacceleration = 'proxies'\n{of_node}\
                     ambient.node-agent = 'istio-cni'\n",
                    mesh.name()
                );
                Box::new(sluice::Sluice::start(
                    binaries, directory, cgroup, &behaviour, interrupt,
                )?)
            }
            Self::Iptables => Box::new(iptables::Iptables),
            Self::None => Box::new(none::NoInterception),
        })
    }
}

/// The part of the daemon's configuration with the environment of Istio's CNI plugin.
fn node_wide(node: &NodeWide) -> String {
    let kind = if node.included { "include" } else { "exclude" };
    format!(
        "istio.{kind}-owner-groups = '{}'\nistio.outbound-loopback-cidr = '{}'\n\
         istio.dual-stack = {}\n",
        node.group, node.loopback, node.dual_stack
    )
}

/// Gives `lo` the proxy's source towards its application; 127.0.0.6 is there in any case.
fn passthrough_address(netns: &Path) -> Result<()> {
    let place = ExecContext {
        netns: Some(netns),
        ..ExecContext::default()
    };
    let arguments = ["-6", "address", "replace", "::6/128", "dev", "lo", "nodad"];
    output(place.command(Path::new("ip"))?.args(arguments), LIMIT).map(drop)
}
