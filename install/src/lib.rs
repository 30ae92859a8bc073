//! Puts Sluice's CNI plugin into a node's container network, and takes it out again.
//!
//! | command | does |
//! |---|---|
//! | `install` | places the plugin, then puts its entry into the primary network's configuration |
//! | `watch` | installs, then mends what others undo, until SIGTERM; the plugin stays unless the daemon was the last |
//! | `uninstall` | takes the configuration back, waits `--grace` seconds, removes the plugin |
//! | `status` | says what is installed and whether it is used; fails if the next Pod is not seen |
//!
//! The primary network is the one whose file the runtime would use without Sluice. A list
//! (`.conflist`) gets the entry behind its last plugin. A single plugin (`X.conf`) is copied into
//! the list `X.conf.conflist` and moved aside to `X.conf.sluice`. With `--mode own` the primary
//! network's files are left alone, and a copy with the entry, `00-00-sluice.conflist`, goes first.
//!
//! What others edit in between stays. An entry of Sluice's that was there before the installation
//! counts as Sluice's: it is updated, and goes at the uninstall as the plugin does.
#![forbid(unsafe_code)]

mod choice;
mod cli;
mod conflist;
mod crash;
mod directory;
#[cfg(test)]
mod docs;
mod entry;
mod farewell;
#[cfg(fuzzing)]
pub mod fuzz;
mod installation;
mod journal;
mod place;
mod plan;
mod probe;
mod status;
mod throttle;
mod watch;

use std::{
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
    thread,
    time::Duration,
};

use anyhow::Result;
use clap::Parser as _;
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;

use crate::{
    cli::{Cli, Install, Job, Places},
    installation::{Installation, Report},
    journal::Phase,
};

/// How long the plugin outlives the configuration if both go with the daemon, within the time that
/// the kubelet leaves.
const FAREWELL: Duration = Duration::from_secs(5);

/// The command line.
#[must_use]
pub fn main() -> ExitCode {
    #[cfg(feature = "failpoints")]
    let _scenario = fail::FailScenario::setup();
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("sluice-install: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(Cli { job, log }: Cli) -> Result<ExitCode> {
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_new(log)?)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        .init();
    match job {
        Job::Install(install) => {
            let (places, wanted) = install.wanted();
            tell(&Installation::open(&places)?.install(&wanted)?);
        }
        Job::Watch(install) => watch(install)?,
        Job::Uninstall(job) => uninstall(&job.places, Duration::from_secs(job.grace))?,
        Job::Status(job) => return status(&job),
    }
    Ok(ExitCode::SUCCESS)
}

/// What is installed stays when the watch ends, unless the daemon ended as the last one.
fn watch(install: Install) -> Result<()> {
    let socket = install.socket.clone();
    let (places, wanted) = install.wanted();
    watch::run(&places, &wanted)?;
    if farewell::was_last(&socket) {
        info!("no other daemon comes: the plugin goes too");
        uninstall(&places, FAREWELL)?;
        farewell::heeded(&socket)?;
    }
    Ok(())
}

/// The configuration goes first: a Pod that is being torn down still finds the plugin.
fn uninstall(places: &Places, grace: Duration) -> Result<()> {
    let report = Installation::open(places)?.withdraw()?;
    tell(&report);
    if !report.done.is_empty() {
        info!(
            "the plugin stays for {} s, for Pods that are being torn down",
            grace.as_secs()
        );
        thread::sleep(grace);
    }
    let installation = Installation::open(places)?;
    if installation.phase() == Some(Phase::Installed) {
        warn!("installed again meanwhile: the plugin stays");
        return Ok(());
    }
    tell(&installation.remove()?);
    Ok(())
}

fn status(job: &cli::Status) -> Result<ExitCode> {
    let status = status::status(&job.places)?;
    let text = if job.json {
        serde_json::to_string_pretty(&status)? + "\n"
    } else {
        status.table()
    };
    io::stdout().lock().write_all(text.as_bytes())?;
    Ok(if status.effective {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn tell(report: &Report) {
    for done in &report.done {
        info!("{done}");
    }
    for warning in &report.warnings {
        warn!("{warning}");
    }
}
