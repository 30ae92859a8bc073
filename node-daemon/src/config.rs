//! The command line; the configuration file is in `config/file.rs`.

mod file;

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use clap::{Args, Parser, Subcommand};
use sluice_api::SOCKET;

pub(crate) use file::{Ambient, Config, ProxyUser};

/// Redirects Pod traffic through service-mesh sidecars with eBPF.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the daemon.
    Run(RunArgs),
    /// Show daemon status.
    Status(ClientArgs),
    /// Show the Pods that the daemon knows.
    Pods(ClientArgs),
    /// Explain how a connection of a Pod is handled, and by which rule.
    Explain(ExplainArgs),
    /// Print interception decisions as they happen, until interrupted.
    Monitor(MonitorArgs),
    /// Print the interception decision for each Pod of a file of manifests, with its settings. Needs
    /// neither a running daemon nor root.
    Decide(Decide),
    /// Remove every hook and map: traffic of the Pods bypasses the sidecars.
    Detach(Paths),
    /// Load and attach every program to check this kernel, then remove them.
    CheckKernel(CheckKernelArgs),
}

/// Options of `run`.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Unix socket for the CNI plugin and the client commands.
    #[arg(long, value_name = "PATH", default_value = SOCKET)]
    pub(crate) socket: PathBuf,
    /// Cgroup whose processes are intercepted [default: the root of the cgroup2 hierarchy].
    #[arg(long, value_name = "PATH")]
    pub(crate) cgroup: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) paths: Paths,
    /// Configuration file [default: /etc/sluice/sluiced.toml, if it exists].
    #[arg(long, value_name = "PATH")]
    pub(crate) config: Option<PathBuf>,
    /// Log filter: a level, or `target=level,…`.
    #[arg(long, value_name = "FILTER", default_value = "info")]
    pub(crate) log: String,
}

/// Directories that outlive the daemon.
#[derive(Debug, Args)]
pub(crate) struct Paths {
    /// Directory in a BPF file system for pinned maps and links.
    #[arg(long, value_name = "PATH", default_value = "/sys/fs/bpf/sluice")]
    pub(crate) bpffs: PathBuf,
    /// Directory for per-Pod state.
    #[arg(long, value_name = "PATH", default_value = "/run/sluice/pods")]
    pub(crate) state: PathBuf,
}

/// Options of commands that query a running daemon.
#[derive(Debug, Args)]
pub(crate) struct ClientArgs {
    /// The daemon's socket.
    #[arg(long, value_name = "PATH", default_value = SOCKET)]
    pub(crate) socket: PathBuf,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Options of `monitor`.
#[derive(Debug, Args)]
pub(crate) struct MonitorArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// Only decisions of this Pod: NAMESPACE/NAME, an address, or a prefix of the container ID.
    #[arg(long, value_name = "POD")]
    pub(crate) pod: Option<String>,
}

/// Options of `decide`.
#[derive(Debug, Args)]
pub(crate) struct Decide {
    /// Pods, workloads and lists of them, as YAML or JSON; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Mesh [default: the mesh of the configuration].
    #[arg(long, value_name = "NAME")]
    pub(crate) mesh: Option<String>,
    /// Evaluate annotations only, as without an API server.
    #[arg(long)]
    pub(crate) annotations_only: bool,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// The daemon's configuration [default: /etc/sluice/sluiced.toml, if it exists].
    #[arg(long, value_name = "PATH")]
    pub(crate) config: Option<PathBuf>,
}

/// Options of `explain`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("connection").required(true).args(["to", "from"]))]
pub(crate) struct ExplainArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// The Pod: NAMESPACE/NAME, an address, or a prefix of the container ID.
    #[arg(long, value_name = "POD")]
    pub(crate) pod: String,
    /// Outbound: destination address and port.
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) to: Option<SocketAddr>,
    /// UID of the connecting process, and its GID if different.
    #[arg(long = "as", value_name = "UID[:GID]", default_value = "0", requires = "to", value_parser = user)]
    pub(crate) user: (u32, u32),
    /// Simulate UDP (DNS only).
    #[arg(long, requires = "to")]
    pub(crate) udp: bool,
    /// Inbound: source address of the peer.
    #[arg(long, value_name = "IP", requires = "port")]
    pub(crate) from: Option<IpAddr>,
    /// Inbound: destination port in the Pod.
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
pub(crate) struct CheckKernelArgs {
    /// Cgroup to attach to [default: the root of the cgroup2 hierarchy].
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
