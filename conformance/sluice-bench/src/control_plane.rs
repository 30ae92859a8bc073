//! The control plane: the plugin's part of ADD and DEL, and the resources of plugin and daemon.

mod footprint;
mod node;

use anyhow::Result;
use serde::Serialize;
use sluice_testbed::{interrupt::Interrupt, terminal::step};

use crate::{
    Options,
    check::{Bound, Check},
    progress::Progress,
    statistics::{Estimate, Summary},
};
use footprint::Footprint;
use node::Node;

/// Pods that a daemon knows; one daemon for each number, so that a round has all of them.
const LEVELS: [u16; 3] = [0, 100, 500];
const ROUNDS: u16 = 200;
const QUICK_ROUNDS: u16 = 20;

/// Whose time it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Run {
    /// The chain without the plugin.
    Bare,
    /// The chain with the plugin at its end, with so many Pods on the node.
    Chain(u16),
    /// The plugin alone.
    Plugin(u16),
}

/// The request of the runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
enum Verb {
    Add,
    Del,
}

impl Verb {
    fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
        }
    }
}

/// One call.
#[derive(Serialize)]
struct Timing {
    round: u16,
    run: Run,
    verb: Verb,
    millis: f64,
}

/// All that was measured.
#[derive(Serialize)]
pub(super) struct ControlPlane {
    rounds: u16,
    timings: Vec<Timing>,
    footprint: Footprint,
}

/// Measures, and removes everything that it made.
pub(super) fn measure(options: &Options, interrupt: &Interrupt) -> Result<ControlPlane> {
    let node = step("adding hundreds of Pods", || {
        Node::build(&options.binaries.resolve()?, interrupt)
    })?;
    let rounds = if options.quick { QUICK_ROUNDS } else { ROUNDS };
    let timings = timings(&node, rounds, interrupt)?;
    let footprint = step("starting plugin and daemon", || {
        Footprint::of(&node, &options.binaries.resolve()?, interrupt)
    })?;
    step("deleting the Pods", || node.remove())?;
    Ok(ControlPlane {
        rounds,
        timings,
        footprint,
    })
}

fn timings(node: &Node, rounds: u16, interrupt: &Interrupt) -> Result<Vec<Timing>> {
    let mut runs = vec![Run::Bare];
    runs.extend(LEVELS.map(Run::Chain));
    runs.extend(LEVELS.map(Run::Plugin));
    // The first call makes the bridge.
    node.time(Run::Bare)?;
    let progress = Progress::start(usize::from(rounds) * runs.len());
    let mut timings = Vec::new();
    for round in 0..rounds {
        // The order would matter: caches are warm after the plugin.
        fastrand::Rng::with_seed(round.into()).shuffle(&mut runs);
        for run in &runs {
            interrupt.check()?;
            progress.show("ADD and DEL");
            let times = node.time(*run)?;
            progress.step();
            timings.extend(times.map(|(verb, millis)| Timing {
                round,
                run: *run,
                verb,
                millis,
            }));
        }
    }
    Ok(timings)
}

impl ControlPlane {
    fn series(&self, run: Run, verb: Verb) -> Vec<Option<f64>> {
        let of = |round| {
            let mut timings = self.timings.iter();
            let wanted = (round, run, verb);
            timings.find(|timing| (timing.round, timing.run, timing.verb) == wanted)
        };
        let rounds = 0..self.rounds;
        rounds.map(|round| Some(of(round)?.millis)).collect()
    }

    /// The plugin's time in the chain.
    fn added(&self, pods: u16, verb: Verb) -> Option<Estimate> {
        let of = |run| self.series(run, verb);
        Estimate::difference(&of(Run::Chain(pods)), &of(Run::Bare))
    }

    /// How much longer the plugin alone takes than without Pods on the node.
    fn growth(&self, pods: u16) -> Option<Estimate> {
        let of = |pods| self.series(Run::Plugin(pods), Verb::Add);
        Estimate::ratio(&of(pods), &of(0))
    }

    /// Its promised limits.
    pub(super) fn checks(&self) -> Vec<Check> {
        let most = Bound::AtMost;
        let mut checks = Vec::new();
        for pods in LEVELS {
            let promise = ["sluice-cni", &format!("{pods} Pods"), "added to ADD"];
            let added = self.added(pods, Verb::Add);
            checks.extend(added.map(|added| Check::of(promise, most(2.0), " ms", added)));
        }
        let promise = ["sluice-cni", "500 Pods against none", "its own ADD"];
        let growth = self.growth(500);
        checks.extend(growth.map(|growth| Check::of(promise, most(1.15), "×", growth)));
        checks.extend(self.footprint.checks());
        checks
    }

    /// Its part of the report.
    pub(super) fn section(&self) -> String {
        let mut lines = vec![
            format!(
                "\n## Control path\n\n{} rounds, interleaved, the order shuffled; runtime and \
                 plugins on one processor, daemons on another. The chain is bridge, portmap and \
                 sluice-cni, run by cnitool; what sluice-cni adds is paired within a round with \
                 the chain that lacks it. Medians (quartiles, or 95 % bootstrap interval of what \
                 is paired), in ms.\n",
                self.rounds
            ),
            "| Pods on the node | chain: ADD | added | chain: DEL | added | sluice-cni alone: ADD \
             | against no Pods |\n|---|---|---|---|---|---|---|"
                .to_owned(),
        ];
        let (add, del) = (Verb::Add, Verb::Del);
        let (bare_add, bare_del) = (self.summary(Run::Bare, add), self.summary(Run::Bare, del));
        lines.push(format!(
            "| without sluice-cni | {bare_add} | – | {bare_del} | – | – | – |"
        ));
        lines.extend(LEVELS.map(|pods| {
            let chain = Run::Chain(pods);
            format!(
                "| {pods} | {} | {} | {} | {} | {} | {} |",
                self.summary(chain, add),
                formatted(self.added(pods, add), ""),
                self.summary(chain, del),
                formatted(self.added(pods, del), ""),
                self.summary(Run::Plugin(pods), add),
                formatted(self.growth(pods), "×"),
            )
        }));
        lines.push(self.footprint.text());
        lines.join("\n")
    }

    fn summary(&self, run: Run, verb: Verb) -> String {
        let series: Vec<_> = self.series(run, verb).into_iter().flatten().collect();
        Summary::of(&series).map_or_else(none, |of| of.text(2))
    }
}

fn formatted(estimate: Option<Estimate>, unit: &str) -> String {
    estimate.map_or_else(none, |estimate| estimate.text(2, unit))
}

fn none() -> String {
    "–".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two rounds in which the plugin adds 1 ms without Pods and 2 ms with 500.
    fn control() -> ControlPlane {
        let runs = [
            (Run::Bare, 30.0),
            (Run::Chain(0), 31.0),
            (Run::Chain(500), 32.0),
            (Run::Plugin(0), 1.0),
            (Run::Plugin(500), 1.1),
        ];
        let timing = |round: u16, (run, millis)| Timing {
            round,
            run,
            verb: Verb::Add,
            millis: millis + f64::from(round),
        };
        let rounds = (0..2).flat_map(|round| runs.map(|run| timing(round, run)));
        ControlPlane {
            rounds: 2,
            timings: rounds.collect(),
            footprint: Footprint::default(),
        }
    }

    #[test]
    fn added_time_is_paired_within_a_round() {
        let added = |pods| control().added(pods, Verb::Add).map(|added| added.median);
        assert_eq!((added(0), added(500)), (Some(1.0), Some(2.0)));
        assert_eq!((added(100), control().added(0, Verb::Del)), (None, None));
    }

    #[test]
    fn unmeasured_figures_have_no_check() {
        let checks = control().checks();
        let added = checks.iter().filter(|one| one.promise[2] == "added to ADD");
        assert_eq!(added.map(|one| one.met).collect::<Vec<_>>(), [true, true]);
    }
}
