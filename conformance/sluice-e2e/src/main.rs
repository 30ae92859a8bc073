//! End-to-end tests: Sluice on a Kubernetes node, and with containerd, ctr and podman.
#![forbid(unsafe_code)]

mod kubernetes;
mod runtime;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "sluice-e2e", version, about)]
struct Arguments {
    #[command(subcommand)]
    job: Job,
}

#[derive(Subcommand)]
enum Job {
    /// Install Sluice on a real cluster of one node, upgrade it under load, remove it.
    Kubernetes(kubernetes::Options),
    #[command(hide = true)]
    KubernetesNode(kubernetes::Node),
    /// Let real runtimes call the plugin: containerd's CRI, ctr, podman.
    Runtimes(runtime::Options),
    /// An agent, which runs inside a namespace.
    #[command(flatten)]
    Agent(sluice_testbed::agent::Job),
}

fn main() -> ExitCode {
    let Arguments { job } = Arguments::parse();
    let outcome = match job {
        Job::Kubernetes(options) => kubernetes::run(&options),
        Job::KubernetesNode(node) => node.run(),
        Job::Runtimes(options) => options.run(),
        Job::Agent(job) => job.run().map(|()| true),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("sluice-e2e: {error:#}");
            ExitCode::FAILURE
        }
    }
}
