//! Installs Sluice's CNI plugin in a node's network configuration, and uninstalls it.
//!
//! | command | does |
//! |---|---|
//! | `install` | places the plugin, then adds its entry to the primary network's configuration |
//! | `run` | installs, then repairs changes by others until SIGTERM; the plugin stays unless the daemon left an uninstall marker |
//! | `uninstall` | restores the configuration, waits `--grace` seconds, removes the plugin if no Pod needs it |
//! | `status` | shows what is installed and whether the runtime uses it; fails if the next Pod would not be intercepted |
//!
//! The primary network is the one whose file the runtime would use without Sluice. A list
//! (`.conflist`) gets the entry behind its last plugin. For a single plugin (`X.conf`) the installer writes
//! the list `X-sluice.conflist`, which sorts before it; `X.conf` stays for other programs. With Multus the
//! first network to which it delegates gets the entry. With `--mode standalone` the primary network's files
//! are not edited, and a copy with the entry, `00-00-sluice.conflist`, sorts first.
//!
//! Before a network gets the entry, the plugin must serve it in its own version of the CNI spec.
//!
//! Edits by other programs stay. An entry of Sluice from before the installation counts as Sluice's: it is
//! updated, and an uninstall removes it with the plugin.
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

/// Time between the removal of the configuration and of the plugin if both end with the daemon. It is
/// shorter than the kubelet's grace period.
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
        .with_ansi(text::has_colors(io::stderr().is_terminal()))
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

/// The installation stays when `run` ends, unless the daemon left an uninstall marker.
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

/// The configuration is restored first: a Pod that is being torn down still finds the plugin.
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
