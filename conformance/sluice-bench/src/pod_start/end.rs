//! The end of a Pod that had connections: the rules left connection tracking entries, which the kernel frees with
//! the namespace.

use std::{
    fs::{self, File},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    net::if_::if_nametoindex,
    sched::{CloneFlags, setns},
};
use serde::Serialize;
use sluice_lab::{APPLICATION, PROXY};
use sluice_testbed::{
    agent::ExecContext, bulk_netns::BulkNetns, interrupt::Interrupt, process::output,
};

use crate::{
    matrix::rotated,
    pod_start::{Node, Variant},
    progress::Progress,
    statistics::{Estimate, Summary},
};

/// Connections that the Pod opened and closed before it ends. With the rules, whose connections to the proxy differ
/// in the client's port alone, there is no room for more than 64,512 entries.
const CONNECTIONS: [u32; 3] = [0, 10_000, 60_000];
const QUICK_CONNECTIONS: [u32; 2] = [0, 10_000];
const ROUNDS: usize = 5;
const QUICK_ROUNDS: usize = 2;
/// A destination of documentation (RFC 5737).
const DESTINATION: &str = "198.51.100.1:20000";
/// Connections to each port, fewer than client ports: no entry takes the place of another.
const FOR_EACH_PORT: u32 = 2000;
const OUTBOUND: u16 = 15001;
/// Entries outlive the measurement.
const KEEP: &str = "net/netfilter/nf_conntrack_tcp_timeout_close";
/// The Pod, and a namespace that ends right after it.
const POD: u16 = 0;
const NEXT: u16 = 1;
const PAUSE: Duration = Duration::from_micros(200);
const PATIENCE: Duration = Duration::from_mins(2);

/// The end of one Pod.
#[derive(Serialize)]
struct Sample {
    round: usize,
    variant: Variant,
    connections: u32,
    /// Connection tracking entries before the end.
    entries: u64,
    /// Until the kernel has taken the namespace down, DEL included.
    millis: f64,
}

/// All of them.
#[derive(Default, Serialize)]
pub(super) struct Ends {
    rounds: usize,
    samples: Vec<Sample>,
}

impl Ends {
    /// Measures.
    pub(super) fn of(node: &Node, quick: bool, interrupt: &Interrupt) -> Result<Self> {
        let (rounds, connections): (_, &[u32]) = if quick {
            (QUICK_ROUNDS, &QUICK_CONNECTIONS)
        } else {
            (ROUNDS, &CONNECTIONS)
        };
        let variants = [Variant::Rules, Variant::Plugin];
        let progress = Progress::start(rounds * connections.len() * variants.len());
        let mut samples = Vec::new();
        for round in 0..rounds {
            for connections in connections {
                for variant in rotated(&variants, round) {
                    progress.show(&format!("a Pod ends after {connections} connections"));
                    let (entries, millis) = end(node, variant, *connections, interrupt)?;
                    progress.step();
                    samples.push(Sample {
                        round,
                        variant,
                        connections: *connections,
                        entries,
                        millis,
                    });
                }
            }
        }
        Ok(Self { rounds, samples })
    }

    fn series(&self, variant: Variant, connections: u32) -> Vec<Option<f64>> {
        let wanted = |round| {
            let mut samples = self.samples.iter();
            let of = (round, variant, connections);
            samples.find(|one| (one.round, one.variant, one.connections) == of)
        };
        (0..self.rounds)
            .map(|round| Some(wanted(round)?.millis))
            .collect()
    }

    /// Its part of the report.
    pub(super) fn section(&self) -> String {
        let mut lines = vec![
            format!(
                "\nThe end of a Pod after connections, which are closed. Milliseconds until the kernel has \
                 taken the namespace down, DEL included; {} rounds, interleaved; median (quartiles), the ratio \
                 paired. The entries are those of connection tracking in the Pod.\n",
                self.rounds
            ),
            "| connections before | entries, rules | rules | entries, Sluice | Sluice | rules against Sluice |\n\
             |---|---|---|---|---|---|"
                .to_owned(),
        ];
        let mut levels: Vec<_> = self.samples.iter().map(|one| one.connections).collect();
        levels.sort_unstable();
        levels.dedup();
        let none = || "–".to_owned();
        let text = |series: &[Option<f64>]| {
            let series: Vec<_> = series.iter().copied().flatten().collect();
            Summary::of(&series).map_or_else(none, |of| of.text(1))
        };
        lines.extend(levels.into_iter().map(|connections| {
            let [rules, ours] =
                [Variant::Rules, Variant::Plugin].map(|variant| self.series(variant, connections));
            let entries = |variant| {
                let mut samples = self.samples.iter();
                let one =
                    samples.find(|one| (one.variant, one.connections) == (variant, connections));
                one.map_or_else(none, |one| one.entries.to_string())
            };
            let ratio = Estimate::ratio(&rules, &ours);
            format!(
                "| {connections} | {} | {} | {} | {} | {} |",
                entries(Variant::Rules),
                text(&rules),
                entries(Variant::Plugin),
                text(&ours),
                ratio.map_or_else(none, |ratio| ratio.text(1, "×")),
            )
        }));
        lines.join("\n")
    }
}

/// Entries before the end, and milliseconds.
fn end(
    node: &Node,
    variant: Variant,
    connections: u32,
    interrupt: &Interrupt,
) -> Result<(u64, f64)> {
    let crowd = BulkNetns::make(node.name("end"), NEXT + 1, interrupt)?;
    for number in [POD, NEXT] {
        let host = node.host.name();
        crowd.ip(number, "link set lo up")?;
        crowd.ip(
            number,
            &format!(
                "link add eth0 type veth peer name {} netns {host}",
                link(number)
            ),
        )?;
        node.host.ip(&format!("link set {} up", link(number)))?;
        crowd.ip(number, "link set eth0 up")?;
        crowd.ip(number, "route add default dev eth0")?;
    }
    match variant {
        Variant::Rules => node.in_thread(|node| node.rules_in(&crowd, POD)?())?,
        Variant::Plugin => drop(node.plugin_call(&crowd, "ADD", POD)?.run()?),
    }
    node.in_thread(|_| keep_entries(&crowd))?;
    connect(node, &crowd, connections)?;
    let entries = node.in_thread(|_| tracked(&crowd))?;
    let del = match variant {
        Variant::Rules => None,
        Variant::Plugin => Some(node.plugin_call(&crowd, "DEL", POD)?),
    };
    let begin = Instant::now();
    if let Some(del) = del {
        del.run()?;
    }
    for number in [POD, NEXT] {
        crowd.remove(number)?;
        // The kernel takes links down before connection tracking, and namespaces one after the other: the next
        // one's link goes when all of the Pod's is gone.
        node.host.run(|| gone(&link(number)))??;
    }
    Ok((entries, begin.elapsed().as_secs_f64() * 1e3))
}

fn link(number: u16) -> String {
    format!("pod{number}")
}

/// Opens connections, and closes them.
fn connect(node: &Node, crowd: &BulkNetns, count: u32) -> Result<()> {
    if count == 0 {
        return Ok(());
    }
    let place = ExecContext {
        netns: Some(&crowd.path(POD)),
        cgroup: Some(&node.pods_cgroup),
        ..ExecContext::default()
    };
    let mut command = place.own()?;
    command.args(["syscall-loop", "--to", DESTINATION]);
    command.args(["--listen", &OUTBOUND.to_string()]);
    command.args(["--count", &count.to_string()]);
    let destinations = count.div_ceil(FOR_EACH_PORT);
    command.args(["--destinations", &destinations.to_string()]);
    command.args(["--owner", &PROXY.to_string()]);
    command.args(["--user", &APPLICATION.to_string()]);
    output(&mut command, PATIENCE).map(drop)
}

/// Enters the Pod's namespace with this thread.
fn enter(crowd: &BulkNetns) -> Result<()> {
    Ok(setns(
        File::open(crowd.path(POD))?,
        CloneFlags::CLONE_NEWNET,
    )?)
}

/// Keeps the entries of closed connections, if there is connection tracking.
fn keep_entries(crowd: &BulkNetns) -> Result<()> {
    enter(crowd)?;
    let file = format!("/proc/sys/{KEEP}");
    if fs::exists(&file)? {
        fs::write(file, "600")?;
    }
    Ok(())
}

fn tracked(crowd: &BulkNetns) -> Result<u64> {
    enter(crowd)?;
    let count = fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count");
    count.map_or(Ok(0), |count| Ok(count.trim().parse()?))
}

/// Waits until a link of this thread's namespace is gone.
fn gone(link: &str) -> Result<()> {
    let begin = Instant::now();
    while if_nametoindex(link).is_ok() {
        ensure!(begin.elapsed() < PATIENCE, "the kernel keeps a namespace");
        thread::sleep(PAUSE);
    }
    Ok(())
}

impl Node {
    /// Does it in a thread of its own, which may enter a namespace.
    fn in_thread<T: Send>(&self, work: impl FnOnce(&Self) -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let ended = scope.spawn(|| work(self)).join();
            ended.ok().context("a thread panicked")?
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_rows_with_their_entries() {
        let sample = |variant, entries, millis| Sample {
            round: 0,
            variant,
            connections: 10_000,
            entries,
            millis,
        };
        let ends = Ends {
            rounds: 1,
            samples: vec![
                sample(Variant::Rules, 10_000, 60.0),
                sample(Variant::Plugin, 0, 20.0),
            ],
        };
        let row = "| 10000 | 10000 | 60.0 (60.0–60.0) | 0 | 20.0 (20.0–20.0) | 3.0× (3.0–3.0) |";
        assert!(ends.section().ends_with(row), "{}", ends.section());
    }
}
