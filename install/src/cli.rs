//! The command line.

use std::{
    env,
    path::{Path, PathBuf},
};

use clap::{Args, Parser, Subcommand, ValueEnum};
use tracing_subscriber::filter::LevelFilter;

use crate::{
    entry::{Entry, PLUGIN},
    installation::InstallSpec,
};

/// Puts Sluice's CNI plugin into a node's container network, and takes it out again.
#[derive(Debug, Parser)]
#[command(name = "sluice-install", version, about)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// What is logged: a level, or target=level,…
    #[arg(long, global = true, value_name = "FILTER", default_value = "info", value_parser = filter)]
    pub(crate) log: String,
}

/// A word that is no level would name a target, and silence everything else.
fn filter(text: &str) -> Result<String, String> {
    let is_level = |part: &str| part.parse::<LevelFilter>().is_ok();
    let wrong = text.split(',').find(|part| {
        let level = part.split_once('=').map_or(*part, |(_, level)| level);
        !is_level(level.trim())
    });
    match wrong {
        Some(part) => Err(format!(
            "'{part}' is neither a level (off, error, warn, info, debug, trace) nor target=level"
        )),
        None => Ok(text.to_owned()),
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Place the plugin and put its entry into the primary network's configuration.
    Install(Install),
    /// Install, then repair external changes until SIGTERM. The installation stays.
    Run(Install),
    /// Uninstall: the configuration first, the plugin after the grace period.
    Uninstall(Uninstall),
    /// Show the installation state, the configuration that the runtime uses, and the daemon's status.
    Status(Status),
}

/// Where things are on the host.
#[derive(Debug, Clone, Args)]
pub(crate) struct Paths {
    /// Where the container runtime looks for plugins.
    #[arg(
        long = "cni-bin-dir",
        value_name = "DIR",
        default_value = "/opt/cni/bin"
    )]
    pub(crate) cni_bin: PathBuf,
    /// Where the container runtime looks for network configurations.
    #[arg(
        long = "cni-conf-dir",
        value_name = "DIR",
        default_value = "/etc/cni/net.d"
    )]
    pub(crate) cni_conf: PathBuf,
    /// Where libcni caches the configurations of the Pods that it added. As long as one of them
    /// names the plugin, an uninstall leaves the plugin's file.
    #[arg(
        long = "cni-cache-dir",
        value_name = "DIR",
        default_value = "/var/lib/cni"
    )]
    pub(crate) cni_cache: PathBuf,
    /// Where the journal is kept that an exact uninstall needs.
    #[arg(
        long = "state-dir",
        value_name = "DIR",
        default_value = "/var/lib/sluice"
    )]
    pub(crate) state: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Install {
    #[command(flatten)]
    pub(crate) paths: Paths,
    /// The plugin's static binary [default: sluice-cni beside this program].
    #[arg(long, value_name = "FILE")]
    plugin: Option<PathBuf>,
    /// Where the daemon listens, as seen from the host.
    #[arg(long, value_name = "PATH", default_value = daemon_api::SOCKET)]
    pub(crate) socket: PathBuf,
    /// Whose configuration carries the entry.
    #[arg(long, value_enum, default_value_t = Mode::Chained)]
    mode: Mode,
}

#[derive(Debug, Args)]
pub(crate) struct Uninstall {
    #[command(flatten)]
    pub(crate) paths: Paths,
    /// How long the plugin outlives the configuration, for Pods that are being torn down.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub(crate) grace: u64,
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) paths: Paths,
    /// For programs.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Whose configuration carries the entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// The primary network's own file.
    Chained,
    /// A copy of it with a higher priority. Nobody else rewrites it, so it intercepts Pods that
    /// start between the node's boot and Sluice's start, when the primary network has just put
    /// its own file back.
    Standalone,
}

impl Install {
    /// What is to be in place, and where.
    pub(crate) fn spec(self) -> (Paths, InstallSpec) {
        let beside = || {
            let program = env::current_exe().unwrap_or_default();
            program.parent().unwrap_or(Path::new("")).join(PLUGIN)
        };
        let spec = InstallSpec {
            plugin: self.plugin.unwrap_or_else(beside),
            entry: Entry::new(&self.socket),
            mode: self.mode,
        };
        (self.paths, spec)
    }
}
