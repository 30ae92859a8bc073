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
#[cfg(feature = "failpoints")]
mod failpoint;
#[cfg(fuzzing)]
pub mod fuzz;
mod kube;
mod limit;
mod memory;
mod netns;
mod pods;
mod privileges;
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
    let done = match Cli::parse().command {
        Command::Run(args) => app::run(args),
        Command::Status(args) => client::status(&args),
        Command::Pods(args) => client::pods(&args),
        Command::Explain(args) => client::explain(args),
        Command::Monitor(args) => client::monitor(args),
        Command::Audit(args) => match client::audit(args) {
            Ok(false) => return ExitCode::FAILURE,
            done => done.map(drop),
        },
        Command::Doctor(args) => match doctor::run(&args) {
            Ok(code) => return code,
            failed => failed.map(drop),
        },
        Command::BugReport(args) => bug_report::run(&args),
        Command::Connections(args) => client::connections(args),
        Command::Decide(decide) => decide::run(&decide),
        Command::Detach(paths) => detach::run(&paths),
        Command::CheckKernel(args) => check_kernel::run(args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sluiced: {}", text::lines(format_args!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}
