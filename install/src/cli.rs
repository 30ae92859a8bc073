//! The command line.

use std::{
    env,
    path::{Path, PathBuf},
};

use clap::{Args, Parser, Subcommand};

use crate::{
    entry::{Entry, PLUGIN},
    spec::{InstallSpec, Mode, Paths},
};

/// Installs Sluice's CNI plugin in a node's network configuration, and uninstalls it.
#[derive(Debug, Parser)]
#[command(name = "sluice-install", version, about)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Log filter: a level, or target=level,…
    #[arg(long, global = true, value_name = "FILTER", default_value = "info", value_parser = filter)]
    pub(crate) log: String,
}

fn filter(text: &str) -> Result<String, String> {
    sluice_api::check_log_filter(text)?;
    Ok(text.to_owned())
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Place the plugin and add its entry to the primary network's configuration.
    Install(Install),
    /// Install, then repair external changes until SIGTERM. The installation stays.
    Run(Install),
    /// Uninstall: the configuration first, the plugin after the grace period.
    Uninstall(Uninstall),
    /// Show the installation state, the configuration that the runtime uses, and the daemon's status.
    Status(Status),
}

#[derive(Debug, Args)]
pub(crate) struct Install {
    #[command(flatten)]
    pub(crate) paths: Paths,
    /// The plugin's static binary [default: sluice-cni beside this program].
    #[arg(long, value_name = "FILE")]
    plugin: Option<PathBuf>,
    /// Socket of the daemon, as seen from the host.
    #[arg(long, value_name = "PATH", default_value = sluice_api::SOCKET)]
    pub(crate) socket: PathBuf,
    /// Fail every ADD while the daemon does not run. For meshes that select Pods by labels, which the
    /// plugin does not know: Istio's ambient mode.
    #[arg(long)]
    require_daemon: bool,
    /// Which configuration gets the entry.
    #[arg(long, value_enum, default_value_t = Mode::Chained)]
    mode: Mode,
}

#[derive(Debug, Args)]
pub(crate) struct Uninstall {
    #[command(flatten)]
    pub(crate) paths: Paths,
    /// How long the plugin outlives its entry, for Pods that are being torn down.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub(crate) grace: u64,
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) paths: Paths,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

impl Install {
    /// The specification of the installation, and its directories.
    pub(crate) fn spec(self) -> (Paths, InstallSpec) {
        let beside = || {
            let program = env::current_exe().unwrap_or_default();
            program.parent().unwrap_or(Path::new("")).join(PLUGIN)
        };
        let spec = InstallSpec {
            plugin: self.plugin.unwrap_or_else(beside),
            entry: Entry::new(&self.socket).requiring_daemon(self.require_daemon),
            mode: self.mode,
        };
        (self.paths, spec)
    }
}
