//! Puts Sluice's CNI plugin into a node's container network, and takes it out again.
//!
//! | command | does |
//! |---|---|
//! | `install` | places the plugin, then puts its entry into the primary network's configuration |
//! | `run` | installs, then repairs what others change, until SIGTERM; the plugin stays unless the daemon was the last |
//! | `uninstall` | takes the configuration back, waits `--grace` seconds, removes the plugin if no Pod needs it |
//! | `status` | says what is installed and whether it is used; fails if the next Pod is not seen |
//!
//! The primary network is the one whose file the runtime would use without Sluice. A list
//! (`.conflist`) gets the entry behind its last plugin. For a single plugin (`X.conf`) the list
//! `X-sluice.conflist` goes before it; `X.conf` stays where others look for it. Of Multus the first
//! network to which it delegates gets the entry. With `--mode standalone` the primary network's files are
//! not edited, and a copy with the entry, `00-00-sluice.conflist`, goes first.
//!
//! Before a network gets the entry, the plugin must serve it in its own version of the CNI spec.
//!
//! What others edit in between stays. An entry of Sluice's that was there before the installation
//! counts as Sluice's: it is updated, and goes at the uninstall as the plugin does.
#![forbid(unsafe_code)]

mod atomic_file;
mod attributes;
mod backoff;
mod cli;
mod conf_files;
mod conflist;
mod directory;
#[cfg(test)]
mod docs;
mod entry;
mod failpoint;
mod fitness;
#[cfg(fuzzing)]
pub mod fuzz;
mod install_state;
mod installation;
mod plan;
mod probe;
mod reconcile;
mod remarks;
mod select;
mod spec;
mod status;
mod uninstall_marker;
mod users;

use std::{
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
    thread,
    time::Duration,
};

use anyhow::Result;
use clap::Parser as _;
use sluice_api::text;
use tracing::{info, warn};
use tracing_subscriber::{EnvFilter, field::MakeExt as _, fmt::format::debug_fn};

use crate::{
    cli::{Cli, Command, Install},
    install_state::Phase,
    installation::{Installation, Report},
    spec::Paths,
};

/// How long the plugin outlives the configuration if both go with the daemon, within the time that
/// the kubelet leaves.
const UNINSTALL_GRACE: Duration = Duration::from_secs(5);

/// The command line.
#[must_use]
pub fn main() -> ExitCode {
    #[cfg(feature = "failpoints")]
    let _scenario = fail::FailScenario::setup();
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("sluice-install: {}", text::lines(format_args!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}

fn run(Cli { command, log }: Cli) -> Result<ExitCode> {
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_new(log)?)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        .fmt_fields(
            debug_fn(|writer, field, value| text::field(writer, field.name(), value))
                .delimited(" "),
        )
        .init();
    match command {
        Command::Install(install) => {
            let (paths, spec) = install.spec();
            log_report(&Installation::open(&paths)?.install(&spec)?);
        }
        Command::Run(install) => run_reconciler(install)?,
        Command::Uninstall(command) => {
            uninstall(&command.paths, Duration::from_secs(command.grace))?;
        }
        Command::Status(command) => return status(&command),
    }
    Ok(ExitCode::SUCCESS)
}

/// What is installed stays when the watch ends, unless the daemon ended as the last one.
fn run_reconciler(install: Install) -> Result<()> {
    let socket = install.socket.clone();
    let (paths, spec) = install.spec();
    reconcile::run(&paths, &spec)?;
    if uninstall_marker::daemon_requested(&socket) {
        info!("the daemon requested uninstall: removing the plugin");
        uninstall(&paths, UNINSTALL_GRACE)?;
        uninstall_marker::acknowledge(&socket)?;
    }
    Ok(())
}

/// The configuration goes first: a Pod that is being torn down still finds the plugin.
fn uninstall(paths: &Paths, grace: Duration) -> Result<()> {
    let report = Installation::open(paths)?.remove_config()?;
    log_report(&report);
    if !report.done.is_empty() {
        info!(
            "the plugin stays for {} s, for Pods that are being torn down",
            grace.as_secs()
        );
        thread::sleep(grace);
    }
    let installation = Installation::open(paths)?;
    if installation.phase() == Some(Phase::Installed) {
        warn!("reinstalled during the grace period: the plugin stays");
        return Ok(());
    }
    log_report(&installation.remove()?);
    Ok(())
}

fn status(command: &cli::Status) -> Result<ExitCode> {
    let status = status::status(&command.paths)?;
    let text = if command.json {
        text::json(&serde_json::to_string_pretty(&status)?) + "\n"
    } else {
        status.table()
    };
    io::stdout().lock().write_all(text.as_bytes())?;
    Ok(if status.active {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn log_report(report: &Report) {
    for done in &report.done {
        info!("{done}");
    }
    for warning in &report.warnings {
        warn!("{warning}");
    }
}
