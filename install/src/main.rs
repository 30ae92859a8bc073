//! Puts Sluice's CNI plugin on a node.
#![forbid(unsafe_code)]

mod place;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "sluice-install", version, about)]
struct Arguments {
    #[command(subcommand)]
    job: Job,
}

#[derive(Subcommand)]
enum Job {
    /// Place the plugin's binary where the container runtime looks for plugins.
    Plugin {
        /// The binary.
        #[arg(long, value_name = "PATH")]
        from: PathBuf,
        /// The runtime's plugin directory, such as /opt/cni/bin.
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
    },
}

fn main() -> Result<()> {
    let Arguments { job } = Arguments::parse();
    match job {
        Job::Plugin { from, to } => {
            let placed = place::binary(&from, &to)?;
            println!("placed {}", placed.display());
        }
    }
    Ok(())
}
