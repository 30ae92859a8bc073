//! `kubectl sluice`: queries the node daemons of a cluster. Each query is a command that runs in the daemon's
//! container, over the API server (`pods/exec`), because the daemon serves its API on a unix socket only.
#![forbid(unsafe_code)]

mod cli;
mod cluster;
mod nodes;

use std::process::ExitCode;

use clap::Parser as _;
use sluice_api::text;

use cli::{Cli, Command};
use cluster::Cluster;

fn main() -> ExitCode {
    let done = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Into::into)
        .and_then(|runtime| runtime.block_on(run(Cli::parse())));
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("kubectl-sluice: {}", text::lines(format_args!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}

/// Carries out a command. Returns the worst exit code of the daemons' commands.
async fn run(cli: Cli) -> anyhow::Result<u8> {
    let cluster = Cluster::connect(&cli.access).await?;
    match cli.command {
        Command::Status { json } => nodes::status(&cluster, json).await,
        Command::Pods { pod: Some(pod) } => {
            one_node(&cluster, cli::sluiced("pods", &[]), pod).await
        }
        Command::Pods { pod: None } => nodes::each(&cluster, cli::sluiced("pods", &[])).await,
        Command::Audit { pod, kill } => {
            let kill = kill.then(|| "--kill".to_owned());
            if let Some(pod) = pod {
                let mut command = cli::sluiced("audit", &["--pod", &pod]);
                command.extend(kill);
                one_node(&cluster, command, pod).await
            } else {
                let mut command = cli::sluiced("audit", &[]);
                command.extend(kill);
                nodes::each(&cluster, command).await
            }
        }
        Command::Doctor => nodes::each(&cluster, cli::sluiced("doctor", &[])).await,
        Command::Connections { pod } => {
            one_node(&cluster, cli::sluiced("connections", &["--pod", &pod]), pod).await
        }
        Command::Explain { pod, rest } => {
            let mut command = cli::sluiced("explain", &["--pod", &pod]);
            command.extend(rest);
            one_node(&cluster, command, pod).await
        }
        Command::Monitor { pod, rest } => {
            let mut command = cli::sluiced("monitor", &["--pod", &pod]);
            command.extend(rest);
            one_node(&cluster, command, pod).await
        }
    }
}

/// Runs a command on the node of a Pod.
async fn one_node(cluster: &Cluster, command: Vec<String>, pod: String) -> anyhow::Result<u8> {
    let daemon = cluster.daemon_of(&pod).await?;
    cluster.stream(&daemon, command).await
}
