//! Paths of the binaries under test and their companions.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};
use clap::Args;

/// The binaries of the lab.
#[derive(Args)]
pub struct Binaries {
    /// The CNI plugin under test.
    #[arg(
        long,
        env = "SLUICE_CNI",
        default_value = "target/x86_64-unknown-linux-musl/release/sluice-cni"
    )]
    pub sluice_cni: PathBuf,
    /// The node daemon under test.
    #[arg(long, env = "SLUICED", default_value = "target/release/sluiced")]
    pub sluiced: PathBuf,
    /// The proxy of the Pods.
    #[arg(long, env = "ENVOY", default_value = "target/tools/bin/envoy")]
    pub envoy: PathBuf,
    /// The container runtime's part.
    #[arg(long, env = "CNITOOL", default_value = "target/tools/bin/cnitool")]
    pub cnitool: PathBuf,
    /// The directory with bridge, host-local and portmap.
    #[arg(long, env = "CNI_PLUGINS", default_value = "/usr/lib/cni")]
    pub cni_plugins: PathBuf,
}

impl Binaries {
    /// Makes the paths absolute; fails if one leads nowhere.
    pub fn resolve(&self) -> Result<Self> {
        let find = |path: &PathBuf| {
            fs::canonicalize(path)
                .with_context(|| format!("{} is missing: run make build", path.display()))
        };
        Ok(Self {
            sluice_cni: find(&self.sluice_cni)?,
            sluiced: find(&self.sluiced)?,
            envoy: find(&self.envoy)?,
            cnitool: find(&self.cnitool)?,
            cni_plugins: find(&self.cni_plugins)?,
        })
    }
}
