//! `sluiced doctor`: checks the node, from its foundations to single Pods, and prints remedies.
//!
//! It runs in a process of its own. Without a daemon it skips the checks that need one.

mod answers;
mod check;
mod daemon;
mod network;
mod node;

use std::{process::ExitCode, time::Duration};

use answers::{Answers, Reached};
#[cfg(test)]
use check::Level;
pub(crate) use check::{Check, page};

use crate::{
    client,
    config::{Config, DoctorArgs},
};

/// Timeout for each answer of the daemon. An answer takes milliseconds, an audit at most seconds.
const TIMEOUT: Duration = Duration::from_secs(8);

/// Runs all checks, and prints them.
pub(crate) fn run(args: &DoctorArgs) -> anyhow::Result<ExitCode> {
    let checks = checks(args);
    let page = if args.client.json {
        serde_json::to_string(&checks)?
    } else {
        page(&checks)
    };
    client::print(page.as_bytes())?;
    Ok(check::worst(&checks).exit_code())
}

/// All checks, in order.
pub(crate) fn checks(args: &DoctorArgs) -> Vec<Check> {
    let config = Config::read(args.config.as_deref());
    let reached = Reached::by(&args.client.socket, TIMEOUT);
    let mut checks = vec![
        node::privileges(),
        node::kernel(),
        node::cgroup(args.cgroup.clone()),
        node::bpffs(&args.paths.bpffs),
        node::configuration(config.as_ref()),
        node::clock(),
        node::node_memory(),
        daemon::reached(&reached),
        node::generations(&args.paths.bpffs, matches!(reached, Reached::Yes { .. })),
    ];
    if let Reached::Yes { pid } = reached {
        checks.extend(pid.map(node::daemon_memory));
        match Answers::of(&args.client.socket, TIMEOUT) {
            Ok(answers) => checks.extend(daemon::checks(&answers)),
            Err(error) => checks.push(daemon::unusable(&error)),
        }
    }
    checks.push(node::map_fill(&args.paths.bpffs));
    checks.push(network::plugin());
    let kubeconfig = config.map(|config| config.kubeconfig).unwrap_or_default();
    checks.push(network::api_server(kubeconfig, TIMEOUT));
    checks
}
