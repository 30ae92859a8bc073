//! What the daemon is told: paths on the command line, behaviour in a file.

mod file;

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use clap::{Args, Parser, Subcommand};
use daemon_api::SOCKET;

pub(crate) use file::{Behaviour, OnExit, ProxyUser};

/// Diverts the traffic of Pods through their service-mesh sidecars, in the kernel.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve this node's Pods until told to stop.
    Run(Run),
    /// Show how the daemon is.
    Status(Ask),
    /// Show the Pods that the daemon knows.
    Pods(Ask),
    /// Tell what would become of a connection of a Pod, and which rule decides.
    Explain(Explain),
    /// Show decisions as the kernel takes them, until interrupted.
    Watch(Watch),
    /// Print what becomes of the Pods of a file of manifests, and with which settings. Needs neither
    /// a running daemon nor root.
    Decide(Decide),
    /// Remove every hook and map that a daemon left: Pods go past their sidecars.
    Detach(Places),
    /// Load and attach every program, to see whether this kernel takes them, and leave again.
    CheckKernel(CheckKernel),
}

/// Options of `run`.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// The socket on which CNI plugins are served.
    #[arg(long, value_name = "PATH", default_value = SOCKET)]
    pub(crate) socket: PathBuf,
    /// The cgroup whose processes are served [default: the root of the unified hierarchy].
    #[arg(long, value_name = "PATH")]
    pub(crate) cgroup: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) places: Places,
    /// The file that tells how the daemon behaves [default: /etc/sluice/sluiced.toml, if it is
    /// there].
    #[arg(long, value_name = "PATH")]
    pub(crate) config: Option<PathBuf>,
    /// What is logged, as `level` or `target=level,…`.
    #[arg(long, value_name = "FILTER", default_value = "info")]
    pub(crate) log: String,
}

/// Where things are that outlive the daemon.
#[derive(Debug, Args)]
pub(crate) struct Places {
    /// A directory in a BPF file system, for what outlives the daemon: maps and hooks.
    #[arg(long, value_name = "PATH", default_value = "/sys/fs/bpf/sluice")]
    pub(crate) bpffs: PathBuf,
    /// A directory for what is known of each Pod.
    #[arg(long, value_name = "PATH", default_value = "/run/sluice/pods")]
    pub(crate) state: PathBuf,
}

/// Options of what asks a running daemon.
#[derive(Debug, Args)]
pub(crate) struct Ask {
    /// The daemon's socket.
    #[arg(long, value_name = "PATH", default_value = SOCKET)]
    pub(crate) socket: PathBuf,
    /// Print the answer as it came.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Options of `watch`.
#[derive(Debug, Args)]
pub(crate) struct Watch {
    #[command(flatten)]
    pub(crate) ask: Ask,
    /// Only those of this Pod: NAMESPACE/NAME, one of its addresses, or the beginning of its
    /// container's id.
    #[arg(long, value_name = "POD")]
    pub(crate) pod: Option<String>,
}

/// Options of `decide`.
#[derive(Debug, Args)]
pub(crate) struct Decide {
    /// Pods, workloads and lists of them, as YAML or JSON; `-` is the standard input.
    #[arg(long, value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// The mesh [default: the one that the configuration names].
    #[arg(long, value_name = "NAME")]
    pub(crate) mesh: Option<String>,
    /// Look at annotations alone, as where the API server is not asked.
    #[arg(long)]
    pub(crate) annotations_only: bool,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// The daemon's configuration [default: /etc/sluice/sluiced.toml, if it is there].
    #[arg(long, value_name = "PATH")]
    pub(crate) config: Option<PathBuf>,
}

/// Options of `explain`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("connection").required(true).args(["to", "from"]))]
pub(crate) struct Explain {
    #[command(flatten)]
    pub(crate) ask: Ask,
    /// The Pod: NAMESPACE/NAME, one of its addresses, or the beginning of its container's id.
    #[arg(long, value_name = "POD")]
    pub(crate) pod: String,
    /// A process in the Pod connects to this address and port.
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) to: Option<SocketAddr>,
    /// The user of that process, and its group if that has another number.
    #[arg(long = "as", value_name = "UID[:GID]", default_value = "0", requires = "to", value_parser = user)]
    pub(crate) user: (u32, u32),
    /// It sends a datagram: what matters is whether that is a DNS query.
    #[arg(long, requires = "to")]
    pub(crate) udp: bool,
    /// A peer with this address connects to the Pod.
    #[arg(long, value_name = "IP", requires = "port")]
    pub(crate) from: Option<IpAddr>,
    /// The port of the Pod to which that peer connects.
    #[arg(long, value_name = "PORT", requires = "from")]
    pub(crate) port: Option<u16>,
}

/// `UID` or `UID:GID`.
fn user(text: &str) -> Result<(u32, u32), std::num::ParseIntError> {
    let (uid, gid) = text.split_once(':').unwrap_or((text, text));
    Ok((uid.parse()?, gid.parse()?))
}

/// Options of `check-kernel`.
#[derive(Debug, Args)]
pub(crate) struct CheckKernel {
    /// The cgroup to which programs are attached [default: the root of the unified hierarchy].
    #[arg(long, value_name = "PATH")]
    pub(crate) cgroup: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
