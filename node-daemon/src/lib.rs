//! The node daemon.
//!
//! It owns the kernel programs, and takes Pods in and lets them go when the CNI plugin says so
//! over a unix socket. Data goes one way: `api` → `pods` → `netns` and `bpf`.
#![cfg_attr(not(test), deny(unsafe_code))]

mod api;
mod app;
mod ask;
mod bpf;
mod cgroup;
mod check_kernel;
mod config;
#[cfg(feature = "failpoints")]
mod crash;
mod detach;
#[cfg(test)]
mod docs;
#[cfg(fuzzing)]
pub mod fuzz;
mod journal;
mod kube;
mod memory;
mod netns;
mod pods;
mod privileges;

use std::process::ExitCode;

use clap::Parser as _;
use config::{Cli, Command};

/// The command line.
#[must_use]
pub fn main() -> ExitCode {
    #[cfg(feature = "failpoints")]
    let _scenario = fail::FailScenario::setup();
    let done = match Cli::parse().command {
        Command::Run(run) => app::run(run),
        Command::Status(ask) => ask::status(&ask),
        Command::Pods(ask) => ask::pods(&ask),
        Command::Explain(explain) => ask::explain(explain),
        Command::Watch(watch) => ask::watch(watch),
        Command::Detach(places) => detach::run(&places),
        Command::CheckKernel(check) => check_kernel::run(check),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sluiced: {error:#}");
            ExitCode::FAILURE
        }
    }
}
