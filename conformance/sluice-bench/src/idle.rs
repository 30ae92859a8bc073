//! What thousands of open connections cost the kernel while nothing happens on them.

use std::{fs, thread, time::Duration};

use anyhow::{Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::Serialize;
use sluice_testbed::interrupt::Interrupt;

use crate::{
    Options,
    check::{Bound, Check},
    matrix::{Sidecar, Variant, rotated},
    progress::Progress,
    statistics::{Estimate, Summary},
    topology::{Shape, Topology},
};

const VARIANTS: [Variant; 3] = [Variant::Iptables, Variant::Off, Variant::All];
const ROUNDS: usize = 3;
const QUICK_ROUNDS: usize = 1;
const COUNT: u16 = 10_000;
const QUICK_COUNT: u16 = 5000;
/// Descriptors of a sidecar beside those of its connections.
const SPARE: u64 = 100;
/// Freed objects are counted until a grace period of RCU is over.
pub(crate) const REST: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_mins(1);

/// The results of a round, for each connection.
#[derive(Serialize)]
struct Sample {
    round: usize,
    variant: Variant,
    bytes: f64,
    conntrack: f64,
    /// What stays after all are closed.
    stays: f64,
}

/// All that was measured.
#[derive(Serialize)]
pub(super) struct Idle {
    connections: u16,
    rounds: usize,
    samples: Vec<Sample>,
}

/// Measures. Also returns failures of the removal.
pub(super) fn measure(options: &Options, interrupt: &Interrupt) -> Result<(Idle, Vec<String>)> {
    let (wanted, rounds) = if options.quick {
        (QUICK_COUNT, QUICK_ROUNDS)
    } else {
        (COUNT, ROUNDS)
    };
    let connections = wanted.min(possible()?);
    // One for each round: connections that were closed stay tracked for minutes.
    let mut stages = Vec::new();
    for round in 0..rounds {
        for variant in rotated(&VARIANTS, round) {
            let shape = Shape {
                sidecar: Sidecar::Minimal,
                tree: false,
            };
            let topology = Topology::build(options, variant, shape, interrupt)?;
            stages.push((round, variant, topology));
        }
    }
    let samples = samples(&stages, connections, interrupt);
    let removed = stages
        .into_iter()
        .flat_map(|(_, _, topology)| topology.remove());
    let complaints = removed.collect();
    let idle = Idle {
        connections,
        rounds,
        samples: samples?,
    };
    Ok((idle, complaints))
}

/// How many connections a sidecar may have, with two descriptors for each. Containers may not
/// raise their limit.
pub(super) fn possible() -> Result<u16> {
    let enough = 2 * u64::from(COUNT) + SPARE;
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let raised = setrlimit(Resource::RLIMIT_NOFILE, enough, enough.max(most)).is_ok();
    let limit = if raised {
        enough
    } else {
        setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
        most
    };
    Ok(u16::try_from(limit.saturating_sub(SPARE) / 2)?)
}

fn samples(
    stages: &[(usize, Variant, Topology)],
    connections: u16,
    interrupt: &Interrupt,
) -> Result<Vec<Sample>> {
    for (_, _, topology) in stages {
        topology.linger0()?;
    }
    let each = f64::from(connections);
    let progress = Progress::start(stages.len());
    let mut samples = Vec::new();
    for (round, variant, topology) in stages {
        progress.show(&format!(
            "{connections} open connections: {}",
            variant.name()
        ));
        let sockets = topology.sockets()?;
        let before = (allocated()?, topology.conntrack()?);
        let held = topology.hold(connections, interrupt)?;
        thread::sleep(REST);
        let after = (allocated()?, topology.conntrack()?);
        held.stop()?;
        // The sidecars have as many to close.
        let closed = interrupt.wait(PATIENCE, || Ok(topology.sockets()? <= sockets))?;
        ensure!(closed, "{} leaves connections open", variant.name());
        thread::sleep(REST);
        let end = allocated()?;
        progress.step();
        samples.push(Sample {
            round: *round,
            variant: *variant,
            bytes: more(before.0, after.0) / each,
            conntrack: more(before.1, after.1) / each,
            stays: more(before.0, end) / each,
        });
    }
    Ok(samples)
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn more(before: u64, after: u64) -> f64 {
    after as f64 - before as f64
}

/// Bytes in the kernel's small objects.
pub(super) fn allocated() -> Result<u64> {
    Ok(objects(&fs::read_to_string("/proc/slabinfo")?))
}

/// slabinfo(5): name, objects in use, all objects, size of one.
fn objects(slabinfo: &str) -> u64 {
    let bytes = |line: &str| {
        let mut words = line.split_whitespace();
        let name = words.next()?;
        let used: u64 = words.next()?.parse().ok()?;
        let size: u64 = words.nth(1)?.parse().ok()?;
        (!of_files(name)).then_some(used * size)
    };
    slabinfo.lines().filter_map(bytes).sum()
}

/// Slab caches that change with any read of files; a socket's inode has its own.
fn of_files(cache: &str) -> bool {
    let begins = [
        "buffer_head",
        "dentry",
        "ext4_",
        "jbd2_",
        "kmalloc-rcl-",
        "radix_tree_node",
    ];
    begins.iter().any(|name| cache.starts_with(name))
        || (cache.ends_with("inode_cache") && cache != "sock_inode_cache")
}

impl Idle {
    fn series(&self, variant: Variant, figure: fn(&Sample) -> f64) -> Vec<Option<f64>> {
        let of = |round| {
            let mut samples = self.samples.iter();
            samples.find(|sample| (sample.round, sample.variant) == (round, variant))
        };
        (0..self.rounds)
            .map(|round| of(round).map(figure))
            .collect()
    }

    fn summary(&self, variant: Variant, figure: fn(&Sample) -> f64) -> Option<Summary> {
        let series = self.series(variant, figure).into_iter();
        Summary::of(&series.flatten().collect::<Vec<_>>())
    }

    /// Its promised limits.
    pub(super) fn checks(&self) -> Vec<Check> {
        let ours = VARIANTS
            .into_iter()
            .filter(|one| one.acceleration().is_some());
        let judged = ours.filter_map(|variant| {
            let promise = [
                variant.name(),
                "open connections",
                "conntrack entries of each",
            ];
            let entries = self.summary(variant, |sample| sample.conntrack)?.median;
            Some(Check::exact(promise, Bound::AtMost(0.0), "", entries))
        });
        judged.collect()
    }

    /// Its part of the report.
    pub(super) fn section(&self) -> String {
        let Self {
            connections,
            rounds,
            ..
        } = self;
        let mut lines = vec![
            format!(
                "\n## Open connections\n\n{connections} connections through both sidecars (minimal \
                 proxies), on which nothing happens; rounds, interleaved: {rounds}. Memory is what \
                 the kernel's slabs hold more than before, without the caches of files; what stays is \
                 counted when all are closed. There are six sockets to a connection.\n"
            ),
            "| | KiB for each | against iptables | KiB that stay | conntrack entries for each |\n\
             |---|---|---|---|---|"
                .to_owned(),
        ];
        let kib = |sample: &Sample| sample.bytes / 1024.0;
        let base = self.series(Variant::Iptables, kib);
        lines.extend(VARIANTS.into_iter().filter_map(|variant| {
            let memory = self.summary(variant, kib)?.text(1);
            let ratio = Estimate::ratio(&self.series(variant, kib), &base)?;
            let entries = self.summary(variant, |sample| sample.conntrack)?.text(1);
            let stays = self
                .summary(variant, |sample| sample.stays / 1024.0)?
                .text(2);
            let (who, ratio) = (variant.name(), ratio.text(2, "×"));
            Some(format!(
                "| {who} | {memory} | {ratio} | {stays} | {entries} |"
            ))
        }));
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_in_use_count_but_not_those_of_files() {
        let slabinfo = "slabinfo - version: 2.1\n\
            # name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab>\n\
            ext4_inode_cache  400 400 1128 29 8 : tunables 0 0 0\n\
            dentry            700 700  192 21 1 : tunables 0 0 0\n\
            sock_inode_cache    2  38  832 19 4 : tunables 0 0 0\n\
            TCP                 1  13 2368 13 8 : tunables 0 0 0\n";
        assert_eq!(objects(slabinfo), 2 * 832 + 2368);
    }

    #[test]
    fn one_tracked_connection_fails_the_row() {
        let sample = |variant| Sample {
            round: 0,
            variant,
            bytes: 1024.0,
            conntrack: 0.01,
            stays: 0.0,
        };
        let idle = Idle {
            connections: 100,
            rounds: 1,
            samples: VARIANTS.map(sample).into(),
        };
        let met: Vec<_> = idle.checks().iter().map(|check| check.met).collect();
        assert_eq!(met, [false, false]);
    }
}
