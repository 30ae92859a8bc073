//! Drives Sluice's binaries from outside, in Pods with a real proxy and made by real CNI plugins,
//! and compares the observations of clients, proxies and servers with the sidecar's rules.
#![deny(unsafe_code)]

mod attack;
mod chaos;
mod demo;
mod scale;
mod suite;
mod who;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "sluice-conformance", version, about)]
struct Arguments {
    #[command(subcommand)]
    job: Job,
}

#[derive(Subcommand)]
enum Job {
    /// Build a small mesh on this machine, send traffic through it, show the outcomes.
    Demo(demo::Options),
    /// Restart and kill the daemon under load: no connection may fail or bypass the proxies.
    Chaos(chaos::Options),
    /// Measure ADD, DEL, memory and takeover with many Pods on the node.
    Scale(scale::Options),
    /// List the cases of the conformance suite, each with the rules that it shows.
    List,
    /// Run the cases on Sluice, and on the two backends that validate them.
    Run(suite::command::Run),
    /// Compare two subjects by random Pods and connections.
    Diff(suite::command::Diff),
    /// Try to get past the sidecar and into the daemon; compare with rules.
    Attack(attack::Options),
    /// Compare the daemon's decisions on a corpus of Pods with those of each mesh's own tools.
    Who(who::Options),
    /// Act as an attacker in a Pod: many attempts.
    #[command(hide = true)]
    Intrude,
    /// Act as an attacker in a Pod: many destinations.
    #[command(hide = true)]
    Flood(attack::agent::flood::Flood),
    /// Act as a witness on the node: packets with a route.
    #[command(hide = true)]
    Sniff,
    /// An agent, which runs inside a namespace.
    #[command(flatten)]
    Agent(sluice_testbed::agent::Job),
}

fn main() -> ExitCode {
    let Arguments { job } = Arguments::parse();
    let outcome = match job {
        Job::Demo(options) => demo::run(&options),
        Job::Chaos(options) => chaos::run(&options),
        Job::Scale(options) => scale::run(&options),
        Job::List => suite::command::list().map(|()| true),
        Job::Run(run) => run.run(),
        Job::Diff(diff) => diff.run(),
        Job::Attack(options) => options.run(),
        Job::Who(options) => who::run(&options),
        Job::Intrude => attack::agent::run().map(|()| true),
        Job::Flood(flood) => flood.run().map(|()| true),
        Job::Sniff => attack::agent::sniff::run().map(|()| true),
        Job::Agent(job) => job.run().map(|()| true),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        // The reader ended, as `head` does when it has its lines.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sluice-conformance: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let kind = error.downcast_ref().map(std::io::Error::kind);
    kind == Some(std::io::ErrorKind::BrokenPipe)
}
