//! The node daemon: owns the kernel programs, and enrolls and unenrolls Pods on requests of the CNI
//! plugin over a unix socket.
//!
//! Dependencies have one direction: `api` → `pods` → `netns` and `bpf`.
#![cfg_attr(not(test), deny(unsafe_code))]

mod api;
mod app;
mod bpf;
mod bug_report;
mod cgroup;
mod check_kernel;
mod client;
mod config;
mod decide;
mod detach;
#[cfg(test)]
mod docs;
mod doctor;
mod event_log;
mod exit;
#[cfg(feature = "failpoints")]
mod failpoint;
#[cfg(fuzzing)]
pub mod fuzz;
mod kernel;
mod kube;
mod limit;
mod log;
mod manual;
mod memory;
mod netns;
mod pods;
mod privileges;
mod refusals;
mod reload;
mod shortage;
mod ztunnel;

use std::process::ExitCode;

use clap::Parser as _;
use config::{Cli, Command};
use sluice_api::text;

/// The command line.
#[must_use]
pub fn main() -> ExitCode {
    #[cfg(feature = "failpoints")]
    let _scenario = fail::FailScenario::setup();
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) if error.is::<client::OutputClosed>() => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sluiced: {}", text::lines(format_args!("{error:#}")));
            let is_unreachable = error.is::<client::Unreachable>();
            ExitCode::from(if is_unreachable {
                exit::UNREACHABLE
            } else {
                exit::NOT_READY
            })
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run(args) => app::run(args)?,
        Command::Status(args) => return client::status(&args),
        Command::Pods(args) => client::pods(&args)?,
        Command::Explain(args) => client::explain(args)?,
        Command::Monitor(args) => client::monitor(args)?,
        Command::Audit(args) => {
            if !client::audit(args)? {
                return Ok(exit::NOT_READY.into());
            }
        }
        Command::Connections(args) => client::connections(args)?,
        Command::Doctor(args) => return doctor::run(&args),
        Command::BugReport(args) => bug_report::run(&args)?,
        Command::Decide(decide) => decide::run(&decide)?,
        Command::Detach(args) => detach::run(&args)?,
        Command::CheckKernel(args) => check_kernel::run(args)?,
        Command::Completions(args) => manual::completions(args.shell),
        Command::Man(args) => manual::man(&args.directory)?,
    }
    Ok(ExitCode::SUCCESS)
}
