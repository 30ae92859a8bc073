//! The command line; the configuration file is in `config/file.rs`.

mod file;
mod metrics_address;

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use clap::{Args, Parser, Subcommand, value_parser};
use clap_complete::Shell;
use ipnet::IpNet;
use sluice_api::SOCKET;

use crate::log::{LogFilter, LogFormat};

pub(crate) use file::{Config, DEFAULT, Error, ProxyUser};
pub(crate) use metrics_address::MetricsAddress;

/// Redirects Pod traffic through service-mesh sidecars with eBPF.
#[derive(Debug, Parser)]
#[command(name = "sluiced", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The command.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the daemon.
    Run(RunArgs),
    /// Show daemon status. Exits with 0 if the daemon is ready, with 1 if it is not.
    Status(StatusArgs),
    /// Show the Pods that the daemon knows.
    Pods(PodsArgs),
    /// Explain how a connection of a Pod is handled, and by which rule.
    Explain(ExplainArgs),
    /// List the connections that bypass their Pod's sidecar against the rules.
    Audit(AuditArgs),
    /// List the TCP connections of meshed Pods, and their paths.
    Connections(ConnectionsArgs),
    /// Check the node, and print the remedy of each problem.
    Doctor(DoctorArgs),
    /// Write an archive with the state of the node, for a bug report.
    BugReport(BugReportArgs),
    /// Print interception decisions as they happen, until interrupted.
    Monitor(MonitorArgs),
    /// Print the interception decision for each Pod of a file of manifests, with its settings. Needs
    /// neither a running daemon nor root.
    Decide(Decide),
    /// Remove every hook and map: traffic of the Pods bypasses the sidecars.
    Detach(DetachArgs),
    /// Load and attach every program to check this kernel, then remove them.
    CheckKernel(CheckKernelArgs),
    /// Print a script that completes this command line in a shell.
    Completions(CompletionsArgs),
    /// Write the manual pages of every command.
    Man(ManArgs),
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
    /// Address at which metrics are served over HTTP: IP:PORT, or :PORT for every address of the node
    /// [default: `metrics-address` of the configuration, else none].
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) metrics_address: Option<MetricsAddress>,
    /// Log filter: a level, or `target=level,…` [default: `log` of the configuration, else info].
    #[arg(long, value_name = "FILTER")]
    pub(crate) log: Option<LogFilter>,
    /// Format of log lines.
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub(crate) log_format: LogFormat,
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

/// Options of `detach`.
#[derive(Debug, Args)]
pub(crate) struct DetachArgs {
    /// The daemon's socket, beside which the plugin stores DELs.
    #[arg(long, value_name = "PATH", default_value = SOCKET)]
    pub(crate) socket: PathBuf,
    #[command(flatten)]
    pub(crate) paths: Paths,
}

/// Options of commands that query a running daemon.
#[derive(Debug, Args)]
pub(crate) struct ClientArgs {
    /// The daemon's socket.
    #[arg(long, value_name = "PATH", default_value = SOCKET)]
    pub(crate) socket: PathBuf,
    /// Time to wait for an answer.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = value_parser!(u16).range(1..))]
    pub(crate) timeout: u16,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Options of `status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// Check only whether the daemon works: it answers, even if it is not ready.
    #[arg(long, conflicts_with_all = ["json", "programs"])]
    pub(crate) live: bool,
    /// Measure the time that each program takes, for this many seconds.
    #[arg(
        long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2",
        value_parser = clap::value_parser!(u64).range(1..=sluice_api::MAX_MEASURE_SECONDS)
    )]
    pub(crate) programs: Option<u64>,
}

/// Options of `pods`.
#[derive(Debug, Args)]
pub(crate) struct PodsArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// Show the Pods that were refused at ADD, with reason and remedy, in place of the known Pods.
    #[arg(long)]
    pub(crate) refused: bool,
}

/// Options of `completions`.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell.
    #[arg(value_name = "SHELL")]
    pub(crate) shell: Shell,
}

/// Options of `man`.
#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// Directory for the pages, which must exist.
    #[arg(value_name = "DIR")]
    pub(crate) directory: PathBuf,
}

/// Options of `monitor`.
#[derive(Debug, Args)]
pub(crate) struct MonitorArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// Only decisions of this Pod: NAMESPACE/NAME, an address, or a prefix of the container ID.
    #[arg(long, value_name = "POD")]
    pub(crate) pod: Option<String>,
    /// Only decisions by this rule, as in the metrics. May be repeated.
    #[arg(long, value_name = "RULE", value_parser = reasons())]
    pub(crate) reason: Vec<String>,
    /// Only decisions about processes of this UID, as numbered on the host.
    #[arg(long, value_name = "UID")]
    pub(crate) uid: Option<u32>,
    /// Only connections to this address or network, with a port or without.
    #[arg(long, value_name = "IP[/PREFIX][:PORT]", value_parser = destination)]
    pub(crate) dest: Option<Destination>,
}

/// The names of all reasons.
fn reasons() -> clap::builder::PossibleValuesParser {
    let labels = sluice_abi::Reason::ALL.iter().map(|reason| reason.label());
    clap::builder::PossibleValuesParser::new(labels)
}

/// The destinations of `monitor --dest`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Destination {
    network: IpNet,
    port: Option<u16>,
}

impl Destination {
    /// Whether it includes an endpoint.
    pub(crate) fn includes(&self, to: SocketAddr) -> bool {
        self.network.contains(&to.ip().to_canonical())
            && self.port.is_none_or(|port| port == to.port())
    }
}

/// `10.0.0.0/8`, `10.0.0.1:80`, `10.0.0.0/8:80`, `fd00::1`, `[fd00::1]:80` or `[fd00::/8]:80`.
fn destination(text: &str) -> Result<Destination, String> {
    let wrong = || format!("'{text}' is not an address or network, with a port or without");
    let network = |text: &str| {
        let plain = text.trim_start_matches('[').trim_end_matches(']');
        let address = || plain.parse::<IpAddr>().ok().map(IpNet::from);
        plain.parse::<IpNet>().ok().or_else(address)
    };
    if let Some(network) = network(text) {
        return Ok(Destination {
            network,
            port: None,
        });
    }
    let (before, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    Ok(Destination {
        network: network(before).ok_or_else(wrong)?,
        port: Some(port.parse().map_err(|_| wrong())?),
    })
}

/// Options of `audit`.
#[derive(Debug, Args)]
pub(crate) struct AuditArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// Only this Pod: NAMESPACE/NAME, an address, or a prefix of the container ID.
    #[arg(long, value_name = "POD")]
    pub(crate) pod: Option<String>,
    /// End the connections that are found.
    #[arg(long)]
    pub(crate) kill: bool,
}

/// Options of `doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    #[command(flatten)]
    pub(crate) paths: Paths,
    /// Cgroup whose processes are intercepted [default: the root of the cgroup2 hierarchy].
    #[arg(long, value_name = "PATH")]
    pub(crate) cgroup: Option<PathBuf>,
    /// The daemon's configuration [default: /etc/sluice/sluiced.toml, if it exists].
    #[arg(long, value_name = "PATH")]
    pub(crate) config: Option<PathBuf>,
}

/// Options of `bug-report`.
#[derive(Debug, Args)]
pub(crate) struct BugReportArgs {
    #[command(flatten)]
    pub(crate) doctor: DoctorArgs,
    /// The archive [default: sluice-bug-report-TIME.tar.gz in the current directory].
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

/// Options of `connections`.
#[derive(Debug, Args)]
pub(crate) struct ConnectionsArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// Only this Pod: NAMESPACE/NAME, an address, or a prefix of the container ID.
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
    /// Also print the verifier's log of a rejected program.
    #[arg(long)]
    pub(crate) verbose: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn destinations_are_networks_with_a_port_or_without() {
        let includes =
            |text: &str, to: &str| destination(text).unwrap().includes(to.parse().unwrap());
        for (text, to, expected) in [
            ("10.0.0.0/8", "10.1.2.3:80", true),
            ("10.0.0.0/8", "11.1.2.3:80", false),
            ("10.1.2.3", "[::ffff:10.1.2.3]:80", true),
            ("10.1.2.3:80", "10.1.2.3:80", true),
            ("10.1.2.3:80", "10.1.2.3:81", false),
            ("10.0.0.0/8:80", "10.1.2.3:80", true),
            ("fd00::1", "[fd00::1]:80", true),
            ("[fd00::/8]:80", "[fd00::1]:80", true),
            ("[fd00::1]:80", "[fd00::1]:443", false),
        ] {
            assert_eq!(includes(text, to), expected, "{text} {to}");
        }
        for text in ["", "shop", "10.0.0.0/40", "10.0.0.1:70000"] {
            assert!(destination(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
