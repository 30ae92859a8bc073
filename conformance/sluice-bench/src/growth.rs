//! What size costs: Pods, open connections, destinations and networks, step by step.

mod stage;

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use sluice_testbed::interrupt::Interrupt;

use crate::{
    Options,
    idle::possible,
    matrix::rotated,
    progress::Progress,
    statistics::{Estimate, median},
};
use stage::{Costs, Stage};

const ROUNDS: usize = 5;
const QUICK_ROUNDS: usize = 2;
/// The most of a quick run: Pods, connections, destinations (more than a Pod's share), networks.
const QUICK: Sizes = Sizes {
    pods: 100,
    connections: 10_000,
    destinations: 5000,
    networks: 1000,
};
/// What an open connection may take of the memory that is available: two sockets, and what belongs to them.
const ROOM: u64 = 16 << 10;
/// What fewer take is lost among what else the kernel does.
const MANY: u32 = 100;
const KIB: f64 = 1024.0;

/// The largest sizes of the part `growth`; the smaller ones are the powers of ten below.
#[derive(Args, Clone, Copy, Serialize)]
pub(super) struct Sizes {
    /// Pods on the node, for the part `growth`.
    #[arg(long, default_value_t = 1000)]
    pods: u16,
    /// Open connections on the node, for the part `growth`.
    #[arg(long, default_value_t = 200_000)]
    connections: u32,
    /// Destinations of one Pod, for the part `growth`.
    #[arg(long, default_value_t = 20_000)]
    destinations: u16,
    /// Networks in one Pod's list, for the part `growth`.
    #[arg(long, default_value_t = 5000)]
    networks: u16,
}

/// What grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Axis {
    /// Networks in the list of a Pod.
    Networks,
    /// Destinations to which a Pod has connected.
    Destinations,
    /// Open connections between applications and proxies.
    Connections,
    /// Pods on the node.
    Pods,
}

/// The Pods come last: the kernel takes a thousand namespaces down in its own time.
pub(super) const AXES: [Axis; 4] = [
    Axis::Networks,
    Axis::Destinations,
    Axis::Connections,
    Axis::Pods,
];

impl Axis {
    /// Its name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Networks => "networks in a Pod's list",
            Self::Destinations => "destinations of a Pod",
            Self::Connections => "open connections",
            Self::Pods => "Pods on the node",
        }
    }

    /// The name of one of them.
    fn one(self) -> &'static str {
        match self {
            Self::Networks => "network",
            Self::Destinations => "destination",
            Self::Connections => "connection",
            Self::Pods => "Pod",
        }
    }

    fn most(self, sizes: Sizes) -> u32 {
        match self {
            Self::Networks => sizes.networks.into(),
            Self::Destinations => sizes.destinations.into(),
            Self::Connections => sizes.connections,
            Self::Pods => sizes.pods.into(),
        }
    }
}

/// A figure that may grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Figure {
    Connect,
    Add,
    Restart,
    Memory,
}

impl Figure {
    pub(super) const ALL: [Self; 4] = [Self::Connect, Self::Add, Self::Restart, Self::Memory];

    /// Its name and unit.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect of an application, µs",
            Self::Add => "ADD of one more Pod, ms",
            Self::Restart => "restart of the daemon, ms",
            Self::Memory => "memory of the daemon, MiB",
        }
    }

    fn of(self, costs: &Costs) -> f64 {
        match self {
            Self::Connect => costs.connect_nanos / 1e3,
            Self::Add => costs.add_millis,
            Self::Restart => costs.restart_millis,
            Self::Memory => costs.daemon_kib / KIB,
        }
    }
}

/// The costs of a size in a round.
#[derive(Serialize)]
struct Sample {
    axis: Axis,
    size: u32,
    round: usize,
    costs: Costs,
    /// Those of a node with one Pod, in turn.
    reference: Costs,
}

/// Kernel memory at a size.
#[derive(Serialize)]
struct Memory {
    axis: Axis,
    size: u32,
    /// More in the kernel's slabs and in its memory for each processor than before, sockets included.
    kernel_bytes: f64,
    /// In Sluice's maps.
    maps_bytes: u64,
}

/// All that was measured.
#[derive(Serialize)]
pub(super) struct Growth {
    sizes: Sizes,
    /// Connections for which the machine has memory.
    possible_connections: u32,
    rounds: usize,
    samples: Vec<Sample>,
    memory: Vec<Memory>,
}

/// Measures, and removes everything that it made.
pub(super) fn measure(options: &Options, interrupt: &Interrupt) -> Result<Growth> {
    let possible_connections = stage::available()? / ROOM;
    let possible_connections = u32::try_from(possible_connections).unwrap_or(u32::MAX);
    let sizes = options.sizes.bounded(options.quick, possible_connections);
    let rounds = if options.quick { QUICK_ROUNDS } else { ROUNDS };
    let mut growth = Growth {
        sizes,
        possible_connections,
        rounds,
        samples: Vec::new(),
        memory: Vec::new(),
    };
    let each = possible()?;
    let count = |axis: &Axis| steps(axis.most(sizes)).len() * (rounds + 1);
    let progress = Progress::start(AXES.iter().map(count).sum());
    let binaries = options.binaries.resolve()?;
    let mut reference = Stage::start(&binaries, "one", 1, interrupt)?;
    let grown = AXES.into_iter().try_for_each(|axis| {
        let steps = steps(axis.most(sizes));
        let pods = stage::pods(axis, &steps, each);
        progress.show(&format!("{}: starting", axis.name()));
        let mut stage = Stage::start(&binaries, axis.one(), pods, interrupt)?;
        let stages = (&mut stage, &mut reference);
        let grown = growth.grow((axis, &steps, each), stages, &progress, interrupt);
        let removed = stage.remove();
        grown.and(removed)
    });
    let removed = reference.remove();
    grown.and(removed)?;
    Ok(growth)
}

/// Powers of ten below the largest size, and that.
fn steps(most: u32) -> Vec<u32> {
    let powers = (0..).map_while(|power| 10_u32.checked_pow(power));
    let mut steps: Vec<_> = powers.take_while(|size| *size < most).collect();
    steps.push(most.max(1));
    steps
}

impl Sizes {
    fn bounded(self, quick: bool, connections: u32) -> Self {
        let Self {
            pods,
            connections: wanted,
            destinations,
            networks,
        } = self;
        let all = Self {
            connections: wanted.min(connections),
            ..self
        };
        if !quick {
            return all;
        }
        Self {
            pods: pods.min(QUICK.pods),
            connections: all.connections.min(QUICK.connections),
            destinations: destinations.min(QUICK.destinations),
            networks: networks.min(QUICK.networks),
        }
    }
}

impl Growth {
    /// Measures each step of what grows.
    fn grow(
        &mut self,
        (axis, steps, each): (Axis, &[u32], u16),
        (stage, reference): (&mut Stage, &mut Stage),
        progress: &Progress,
        interrupt: &Interrupt,
    ) -> Result<()> {
        let before = stage::kernel_bytes()?;
        for size in steps.iter().copied() {
            progress.show(&format!("{}: {size}", axis.name()));
            stage.grow(axis, size, each, interrupt)?;
            self.memory.push(Memory {
                axis,
                size,
                kernel_bytes: stage::kernel_bytes()? - before,
                maps_bytes: stage.maps_bytes()?,
            });
            progress.step();
            for round in 0..self.rounds {
                progress.show(&format!("{}: {size}", axis.name()));
                let stages = [&mut *stage, &mut *reference];
                let mut costs = [Costs::default(); 2];
                let order = rotated(&[0, 1], round);
                for which in &order {
                    costs[*which] = stages[*which].costs(interrupt)?;
                }
                // A daemon works for a while after its start.
                for which in &order {
                    costs[*which].restart_millis = stages[*which].restart(interrupt)?;
                }
                progress.step();
                let [costs, reference] = costs;
                self.samples.push(Sample {
                    axis,
                    size,
                    round,
                    costs,
                    reference,
                });
            }
        }
        Ok(())
    }

    /// The sizes of what grows, in order.
    fn steps(&self, axis: Axis) -> Vec<u32> {
        let of = self.memory.iter().filter(|one| one.axis == axis);
        of.map(|one| one.size).collect()
    }

    fn series(&self, axis: Axis, size: u32, of: impl Fn(&Sample) -> f64) -> Vec<f64> {
        let samples = self.samples.iter();
        let samples = samples.filter(|one| (one.axis, one.size) == (axis, size));
        samples.map(of).collect()
    }

    /// Sizes with the median of a figure.
    pub(super) fn curve(&self, axis: Axis, figure: Figure) -> Vec<(u32, f64)> {
        let steps = self.steps(axis).into_iter();
        let point = |size| {
            let series = self.series(axis, size, |sample| figure.of(&sample.costs));
            Some((size, median(&series)?))
        };
        steps.filter_map(point).collect()
    }

    /// The median of a figure of the node with one Pod.
    pub(super) fn reference(&self, figure: Figure) -> Option<f64> {
        let samples = self.samples.iter();
        let samples: Vec<_> = samples.map(|one| figure.of(&one.reference)).collect();
        median(&samples)
    }

    /// Its part of the report.
    pub(super) fn section(&self) -> String {
        let mut lines = vec![format!(
            "\n## Growth\n\n{} rounds for each size; after each, a node with one Pod is measured in turn, and the \
             ratios in brackets are to it, paired within a round, with their 95 % bootstrap interval. connect is \
             that of an application which is redirected; ADD calls sluice-cni alone, for a Pod with the same list; a \
             restart is SIGTERM, and the start until the daemon serves. The kernel's memory is what slabs and \
             memory for each processor hold more than before, sockets included. An open connection has two \
             sockets: its application's and its proxy's. The machine's memory allows {} of them.",
            self.rounds, self.possible_connections
        )];
        lines.extend(AXES.map(|axis| self.table(axis)));
        lines.join("\n")
    }

    fn table(&self, axis: Axis) -> String {
        let mut lines = vec![format!(
            "\n| {} | connect, µs | ADD, ms | restart, ms | daemon, MiB | Sluice's maps, KiB | kernel, KiB for \
             each |\n|---|---|---|---|---|---|---|",
            axis.name()
        )];
        let of = self.memory.iter().filter(|one| one.axis == axis);
        lines.extend(of.map(|memory| {
            let Memory {
                size,
                kernel_bytes,
                maps_bytes,
                ..
            } = memory;
            let [connect, add, restart, daemon] =
                Figure::ALL.map(|figure| self.cell(axis, *size, figure));
            let maps = maps_bytes / 1024;
            let each = if *size < MANY {
                "–".to_owned()
            } else {
                format!("{:.2}", kernel_bytes / KIB / f64::from(*size))
            };
            format!("| {size} | {connect} | {add} | {restart} | {daemon} | {maps} | {each} |")
        }));
        lines.extend(self.each(axis));
        lines.join("\n")
    }

    fn cell(&self, axis: Axis, size: u32, figure: Figure) -> String {
        let costs = self.series(axis, size, |sample| figure.of(&sample.costs));
        let reference = self.series(axis, size, |sample| figure.of(&sample.reference));
        let some = |series: &[f64]| series.iter().copied().map(Some).collect::<Vec<_>>();
        let ratio = Estimate::ratio(&some(&costs), &some(&reference));
        match (median(&costs), ratio) {
            (Some(median), Some(ratio)) => format!("{median:.2} [{}]", ratio.text(2, "×")),
            _ => "–".to_owned(),
        }
    }

    /// What one more costs, from the smallest to the largest size.
    fn each(&self, axis: Axis) -> Option<String> {
        let of = |size: &u32| {
            let wanted = |one: &&Memory| (one.axis, one.size) == (axis, *size);
            self.memory.iter().find(wanted)
        };
        let steps = self.steps(axis);
        let (first, last) = (of(steps.first()?)?, of(steps.last()?)?);
        let more = last.size.checked_sub(first.size);
        let count = f64::from(more.filter(|more| *more > 0)?);
        let daemon = |size| {
            let series = self.series(axis, size, |sample| sample.costs.daemon_kib);
            median(&series)
        };
        let kernel = (last.kernel_bytes - first.kernel_bytes) / KIB / count;
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let maps = (last.maps_bytes as f64 - first.maps_bytes as f64) / count;
        let daemon = (daemon(last.size)? - daemon(first.size)?) / count;
        Some(format!(
            "\nEach further {}: {kernel:.2} KiB of the kernel's memory, {maps:.0} bytes of them in Sluice's maps; \
             {daemon:.2} KiB of the daemon's.",
            axis.one()
        ))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Pods make ADD and memory grow; nothing else grows.
    pub(crate) fn growth() -> Growth {
        let costs = |add_millis, daemon_kib| Costs {
            connect_nanos: 20_000.0,
            add_millis,
            restart_millis: 300.0,
            daemon_kib,
        };
        let sample = |size: u32, add_millis| Sample {
            axis: Axis::Pods,
            size,
            round: 0,
            costs: costs(add_millis, 10_240.0 + 2.0 * f64::from(size)),
            reference: costs(1.0, 10_240.0),
        };
        let memory = |size: u32| Memory {
            axis: Axis::Pods,
            size,
            kernel_bytes: f64::from(size) * 2048.0,
            maps_bytes: 4096 + u64::from(size) * 100,
        };
        Growth {
            sizes: QUICK,
            possible_connections: 1_000_000,
            rounds: 1,
            samples: vec![sample(1, 1.0), sample(10, 1.0), sample(100, 2.0)],
            memory: [1, 10, 100].map(memory).into(),
        }
    }

    #[test]
    fn steps_are_powers_of_ten_and_the_largest_size() {
        assert_eq!(steps(1000), [1, 10, 100, 1000]);
        assert_eq!(steps(20_000), [1, 10, 100, 1000, 10_000, 20_000]);
        assert_eq!((steps(1), steps(0)), (vec![1], vec![1]));
    }

    #[test]
    fn memory_bounds_connections() {
        let wanted = Sizes {
            connections: 200_000,
            ..QUICK
        };
        assert_eq!(wanted.bounded(false, 50_000).connections, 50_000);
        assert_eq!(wanted.bounded(true, 50_000).connections, 10_000);
    }

    #[test]
    fn tables_show_ratios_and_the_cost_of_one_more() {
        let section = growth().section();
        assert!(section.contains("| 100 | 20.00 [1.00× (1.00–1.00)] | 2.00 [2.00× (2.00–2.00)] |"));
        let each = "Each further Pod: 2.00 KiB of the kernel's memory, 100 bytes of them in Sluice's maps; \
                    2.00 KiB of the daemon's.";
        assert!(section.contains(each), "{section}");
    }

    #[test]
    fn curves_hold_medians_of_each_size() {
        let growth = growth();
        let add = growth.curve(Axis::Pods, Figure::Add);
        assert_eq!(add, [(1, 1.0), (10, 1.0), (100, 2.0)]);
        assert!(growth.curve(Axis::Networks, Figure::Add).is_empty());
        assert_eq!(growth.reference(Figure::Memory), Some(10.0));
    }
}
