//! Many short connections from one Pod to a few destinations, with client ports used again.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use sluice_lab::{APPLICATION, Lab, PROXY, PodSpec};
use sluice_testbed::{interrupt::Interrupt, process::Process};

use crate::{
    Options,
    agent::churn::ChurnResult,
    check::{Bound, Check},
    cpu::on_cpu,
    matrix::Variant,
    progress::Progress,
    topology::{self, settle, start},
};

const VARIANTS: [Variant; 2] = [Variant::Iptables, Variant::Off];
const SERVERS: [&str; 3] = ["server-a", "server-b", "server-c"];
const CLIENT: &str = "client";
const PORT: u16 = 8080;
const OUTBOUND: u16 = 15001;
const RATE: u32 = 1000;
const COUNT: u32 = 60_000;
const QUICK_COUNT: u32 = 5000;
/// So few that each is used again before `TIME_WAIT`, which lasts a minute, is over.
const PORTS: &str = "20000 21999";
const PATIENCE: Duration = Duration::from_mins(1);

/// What one contender made of it.
#[derive(Serialize)]
pub(super) struct Churn {
    variant: Variant,
    churned: ChurnResult,
    /// SYNs that were sent again, by client and sidecar.
    retransmitted: u64,
}

/// Measures. Also returns failures of the removal.
pub(super) fn measure(
    options: &Options,
    interrupt: &Interrupt,
) -> Result<(Vec<Churn>, Vec<String>)> {
    let count = if options.quick { QUICK_COUNT } else { COUNT };
    let (mut churns, mut complaints) = (Vec::new(), Vec::new());
    let progress = Progress::start(VARIANTS.len());
    for variant in VARIANTS {
        let mut lab = topology::lab(options.binaries.resolve()?, variant, interrupt)?;
        progress.show(&format!("{count} short connections: {}", variant.name()));
        let outcome = run(&mut lab, count, interrupt);
        progress.step();
        complaints.extend(lab.remove());
        let (churned, retransmitted) = outcome?;
        churns.push(Churn {
            variant,
            churned,
            retransmitted,
        });
    }
    Ok((churns, complaints))
}

fn run(lab: &mut Lab, count: u32, interrupt: &Interrupt) -> Result<(ChurnResult, u64)> {
    for name in SERVERS.into_iter().chain([CLIENT]) {
        lab.add(PodSpec {
            name,
            meshed: name == CLIENT,
            proxy: false,
            transparent: false,
            ports: &[],
        })?;
    }
    settle(lab, CLIENT, PORTS)?;
    let mut processes = Vec::new();
    for name in SERVERS {
        let mut command = lab.place(lab.pod(name)?, APPLICATION).own()?;
        command.args(["bench-server", "--port", &PORT.to_string()]);
        processes.push(on_cpu(1, || start(lab, name, &mut command, interrupt))?);
    }
    let mut command = lab.place(lab.pod(CLIENT)?, PROXY).own()?;
    command.args(["min-proxy", "--port", &OUTBOUND.to_string()]);
    processes.push(on_cpu(0, || start(lab, "relay", &mut command, interrupt))?);
    let before = retransmitted(lab)?;
    let churned = on_cpu(0, || churn(lab, count, interrupt))?;
    let again = retransmitted(lab)? - before;
    for process in processes {
        process.stop()?;
    }
    Ok((churned, again))
}

fn churn(lab: &Lab, count: u32, interrupt: &Interrupt) -> Result<ChurnResult> {
    let mut command = lab.place(lab.pod(CLIENT)?, APPLICATION).own()?;
    command.args(["churn", "--rate", &RATE.to_string()]);
    command.args(["--count", &count.to_string()]);
    for name in SERVERS {
        let to = SocketAddr::new(lab.pod(name)?.address(true)?, PORT);
        command.args(["--to", &to.to_string()]);
    }
    let limit = Duration::from_secs((count / RATE).into()) + PATIENCE;
    let mut client = Process::start("churn", &mut command, &lab.file("churn.json"))?;
    let ended = interrupt.wait(limit, || client.ended())?;
    ensure!(ended, "the client does not end\n{}", client.tail());
    Ok(serde_json::from_str(&client.log())?)
}

fn retransmitted(lab: &Lab) -> Result<u64> {
    let netstat = lab.pod(CLIENT)?.netns.read("/proc/net/netstat")?;
    counter(&netstat, "TcpExt:", "TCPSynRetrans").context("no TCPSynRetrans in /proc/net/netstat")
}

/// A line of names, and then a line of numbers, both beginning with the group.
fn counter(netstat: &str, group: &str, name: &str) -> Option<u64> {
    let mut lines = netstat.lines().filter(|line| line.starts_with(group));
    let place = lines.next()?.split(' ').position(|word| word == name)?;
    lines.next()?.split(' ').nth(place)?.parse().ok()
}

impl Churn {
    /// Its promised limits.
    pub(super) fn checks(&self) -> Vec<Check> {
        let Self {
            variant,
            churned,
            retransmitted,
        } = self;
        let judge = |figure, measured: f64| {
            let promise = [variant.name(), "short connections", figure];
            Check::exact(promise, Bound::AtMost(0.0), "", measured)
        };
        if variant.acceleration().is_none() {
            return Vec::new();
        }
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let retransmitted = *retransmitted as f64;
        vec![
            judge("SYNs sent again", retransmitted),
            judge("EADDRNOTAVAIL", churned.unavailable.into()),
            judge("other failures", churned.failed.into()),
        ]
    }
}

/// Its part of the report.
pub(super) fn section(churns: &[Churn]) -> String {
    let mut lines = vec![
        format!(
            "\n## Short connections\n\n{RATE} a second from one Pod to {} destinations in turn, \
             through the minimal proxy; client ports {PORTS} are used again and again.\n",
            SERVERS.len()
        ),
        "| | answered | EADDRNOTAVAIL | other failures | SYNs sent again | s |\n|---|---|---|---|---|---|"
            .to_owned(),
    ];
    lines.extend(churns.iter().map(|churn| {
        let ChurnResult {
            answered,
            unavailable,
            failed,
            seconds,
        } = churn.churned;
        let (who, again) = (churn.variant.name(), churn.retransmitted);
        format!("| {who} | {answered} | {unavailable} | {failed} | {again} | {seconds:.1} |")
    }));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_found_by_its_name_and_group() {
        let netstat = "TcpExt: A TCPSynRetrans B\nTcpExt: 1 22 3\nIpExt: A\nIpExt: 9\n";
        assert_eq!(counter(netstat, "TcpExt:", "TCPSynRetrans"), Some(22));
        assert_eq!(counter(netstat, "IpExt:", "TCPSynRetrans"), None);
    }

    #[test]
    fn checks_cover_promised_figures_only() {
        let churn = |variant| Churn {
            variant,
            churned: ChurnResult::default(),
            retransmitted: 1,
        };
        let met = |churn: Churn| churn.checks().iter().map(|one| one.met).collect::<Vec<_>>();
        assert_eq!(met(churn(Variant::Off)), [false, true, true]);
        assert!(met(churn(Variant::Iptables)).is_empty());
    }
}
