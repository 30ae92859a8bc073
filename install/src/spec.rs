//! The specification of an installation: what is installed, in which form, and in which directories.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::entry::Entry;

/// Directories of the host.
#[derive(Debug, Clone, Args)]
pub(crate) struct Paths {
    /// Plugin directory of the container runtime.
    #[arg(
        long = "cni-bin-dir",
        value_name = "DIR",
        default_value = "/opt/cni/bin"
    )]
    pub(crate) cni_bin: PathBuf,
    /// Configuration directory of the container runtime.
    #[arg(
        long = "cni-conf-dir",
        value_name = "DIR",
        default_value = "/etc/cni/net.d"
    )]
    pub(crate) cni_conf: PathBuf,
    /// Cache directory of libcni. While a cached configuration names the plugin, uninstall keeps
    /// the plugin's file.
    #[arg(
        long = "cni-cache-dir",
        value_name = "DIR",
        default_value = "/var/lib/cni"
    )]
    pub(crate) cni_cache: PathBuf,
    /// Directory for the state that an exact uninstall needs.
    #[arg(
        long = "state-dir",
        value_name = "DIR",
        default_value = "/var/lib/sluice"
    )]
    pub(crate) state: PathBuf,
}

/// Which configuration gets the entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// The primary network's own file.
    Chained,
    /// A copy of it with a higher priority. No other program rewrites it, so it also covers Pods
    /// that start after a reboot, before Sluice, when the primary network has written its own file
    /// again.
    Standalone,
}

/// The desired installation.
#[derive(Debug)]
pub(crate) struct InstallSpec {
    pub(crate) plugin: PathBuf,
    pub(crate) entry: Entry,
    pub(crate) mode: Mode,
}
