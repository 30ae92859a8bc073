//! Many short connections from one Pod to a few destinations, with client ports used again.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use sluice_lab::{APPLICATION, Lab, PROXY, PodSpec};
use sluice_testbed::{interrupt::Interrupt, process::Process};

use crate::{
    Options,
    agent::churn::{ChurnOutput, ChurnResult},
    check::{Bound, Check},
    conntrack,
    cpu::on_cpu,
    matrix::Variant,
    progress::Progress,
    statistics::quantile,
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
/// With a full table every connection may wait for its time limit.
const FULL_COUNT: u32 = 2000;
/// So few that each is used again before `TIME_WAIT`, which lasts a minute, is over.
const PORTS: &str = "20000 21999";
const PATIENCE: Duration = Duration::from_mins(1);

/// The result of one variant.
#[derive(Serialize)]
pub(super) struct Churn {
    pub(super) variant: Variant,
    /// The connection tracking table of the client's Pod was at its limit.
    pub(super) table_full: bool,
    churned: ChurnResult,
    pub(super) tail: Tail,
    /// SYNs that were sent again, by client and sidecar.
    retransmitted: u64,
}

/// The distribution of the times until the first byte, in µs.
#[derive(Default, Serialize)]
pub(super) struct Tail {
    p50: Option<f64>,
    p99: Option<f64>,
    p999: Option<f64>,
    max: Option<f64>,
    /// Times, each with the share of connections that took longer; the shares fall evenly in a logarithmic
    /// scale.
    pub(super) curve: Vec<(f64, f64)>,
}

impl Tail {
    /// Points of the curve for each power of ten.
    const POINTS: u32 = 10;

    fn of(mut micros: Vec<f64>) -> Self {
        micros.sort_unstable_by(f64::total_cmp);
        let at = |share: f64| quantile(&micros, share);
        let points =
            (1_u32..).map(|point| 10_f64.powf(-f64::from(point) / f64::from(Self::POINTS)));
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let least = 1.0 / micros.len().max(1) as f64;
        let shares = points.take_while(|share| *share >= least);
        Self {
            p50: at(0.5),
            p99: at(0.99),
            p999: at(0.999),
            max: micros.last().copied(),
            curve: shares
                .filter_map(|share| Some((at(1.0 - share)?, share)))
                .collect(),
        }
    }
}

/// Measures. Also returns failures of the removal.
pub(super) fn measure(
    options: &Options,
    interrupt: &Interrupt,
) -> Result<(Vec<Churn>, Vec<String>)> {
    let count = if options.quick { QUICK_COUNT } else { COUNT };
    let (mut churns, mut complaints) = (Vec::new(), Vec::new());
    let progress = Progress::start(2 * VARIANTS.len());
    for (table_full, count) in [(false, count), (true, FULL_COUNT)] {
        for variant in VARIANTS {
            let mut lab = topology::lab(options.binaries.resolve()?, variant, interrupt)?;
            let table = if table_full {
                ", conntrack table full"
            } else {
                ""
            };
            progress.show(&format!(
                "{count} short connections: {}{table}",
                variant.name()
            ));
            let outcome = run(&mut lab, count, table_full, interrupt);
            progress.step();
            complaints.extend(lab.remove());
            let (output, retransmitted) = outcome?;
            churns.push(Churn {
                variant,
                table_full,
                churned: output.counts,
                tail: Tail::of(output.micros),
                retransmitted,
            });
        }
    }
    Ok((churns, complaints))
}

fn run(
    lab: &mut Lab,
    count: u32,
    table_full: bool,
    interrupt: &Interrupt,
) -> Result<(ChurnOutput, u64)> {
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
    if table_full {
        conntrack::fill(lab, CLIENT)?;
    }
    let before = retransmitted(lab)?;
    let churned = on_cpu(0, || churn(lab, count, interrupt))?;
    let again = retransmitted(lab)? - before;
    for process in processes {
        process.stop()?;
    }
    Ok((churned, again))
}

fn churn(lab: &Lab, count: u32, interrupt: &Interrupt) -> Result<ChurnOutput> {
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
            table_full,
            churned,
            retransmitted,
            ..
        } = self;
        let under = if *table_full {
            "short connections, conntrack table full"
        } else {
            "short connections"
        };
        let judge = |figure, measured: f64| {
            let promise = [variant.name(), under, figure];
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
             through the minimal proxy; client ports {PORTS} are used again and again. The times, in ms, \
             are those until the first byte of the answer, from when the connection was due. \
             `table full`: the connection tracking table of the client's Pod is at its limit.\n",
            SERVERS.len()
        ),
        "| | answered | EADDRNOTAVAIL | other failures | SYNs sent again | s | p50 | p99 | p99.9 | most |\n\
         |---|---|---|---|---|---|---|---|---|---|"
            .to_owned(),
    ];
    let millis = |micros: Option<f64>| {
        micros.map_or_else(|| "–".to_owned(), |micros| format!("{:.2}", micros / 1e3))
    };
    lines.extend(churns.iter().map(|churn| {
        let ChurnResult {
            answered,
            unavailable,
            failed,
            seconds,
        } = churn.churned;
        let (name, again) = (churn.variant.name(), churn.retransmitted);
        let table = if churn.table_full { ", table full" } else { "" };
        let Tail { p50, p99, p999, max, .. } = churn.tail;
        let times = [p50, p99, p999, max].map(millis).join(" | ");
        format!(
            "| {name}{table} | {answered} | {unavailable} | {failed} | {again} | {seconds:.1} | {times} |"
        )
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
            table_full: false,
            churned: ChurnResult::default(),
            tail: Tail::default(),
            retransmitted: 1,
        };
        let met = |churn: Churn| churn.checks().iter().map(|one| one.met).collect::<Vec<_>>();
        assert_eq!(met(churn(Variant::Off)), [false, true, true]);
        assert!(met(churn(Variant::Iptables)).is_empty());
    }

    #[test]
    fn the_curve_ends_with_the_slowest_connection() {
        let tail = Tail::of((1..=1000).map(f64::from).collect());
        assert_eq!((tail.p50, tail.max), (Some(500.5), Some(1000.0)));
        let (time, share) = *tail.curve.last().unwrap();
        assert!(
            (0.001..0.0013).contains(&share) && time > 998.0,
            "{time} {share}"
        );
        assert!(Tail::of(Vec::new()).curve.is_empty());
    }
}
