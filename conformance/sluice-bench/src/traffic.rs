//! The path of the data: every variant under every load, with every kind of sidecar.

use std::time::Duration;

use anyhow::Result;
use sluice_testbed::interrupt::Interrupt;

use crate::{
    Options,
    matrix::{self, LOADS, Load, Sidecar, Variant, rotated},
    progress::Progress,
    results::{Measured, Results},
    topology::{Shape, Topology},
};

const QUICK_ROUNDS: usize = 3;

/// Measures. Returns failures of the removal.
pub(super) fn measure(
    options: &Options,
    results: &mut Results,
    interrupt: &Interrupt,
) -> Result<Vec<String>> {
    let plan = Plan::of(options);
    results.rounds = plan.rounds;
    results.setting.seconds = plan.duration.as_secs_f64();
    results.setting.workers = options.workers;
    let mut complaints = Vec::new();
    let progress = Progress::start(plan.runs());
    for (sidecar, variants) in &plan.sidecars {
        let compared = (*sidecar, &**variants);
        complaints.extend(plan.compare(compared, results, (&progress, options), interrupt)?);
    }
    Ok(complaints)
}

/// The measured loads.
struct Plan {
    rounds: usize,
    duration: Duration,
    /// Each with its variants.
    sidecars: Vec<(Sidecar, Vec<Variant>)>,
    loads: Vec<Load>,
    /// Whether the loads were chosen: each then runs with every proxy that can carry it.
    chosen: bool,
}

impl Plan {
    fn of(options: &Options) -> Self {
        let Options {
            quick,
            rounds,
            seconds,
            loads,
            ..
        } = options;
        let sidecars = (options.sidecars().into_iter())
            .map(|sidecar| (sidecar, options.variants(sidecar)))
            .collect();
        let is_wanted = |load: &Load| {
            let name = load.name();
            loads.is_empty() || loads.iter().any(|part| name.contains(part))
        };
        let wanted = |all: &[Load]| all.iter().copied().filter(is_wanted).collect();
        if *quick {
            return Self {
                rounds: QUICK_ROUNDS,
                duration: Duration::from_secs(1),
                sidecars,
                loads: wanted(&matrix::QUICK),
                chosen: !loads.is_empty(),
            };
        }
        Self {
            rounds: *rounds,
            duration: Duration::from_secs(*seconds),
            sidecars,
            loads: wanted(&LOADS),
            chosen: !loads.is_empty(),
        }
    }

    /// The loads with a sidecar.
    fn loads_with(&self, sidecar: Sidecar) -> impl Iterator<Item = Load> {
        let runs = if self.chosen {
            Sidecar::carries
        } else {
            Sidecar::measures
        };
        let loads = self.loads.iter().copied();
        loads.filter(move |load| runs(sidecar, *load))
    }

    fn runs(&self) -> usize {
        let of =
            |(sidecar, variants): &(_, Vec<_>)| self.loads_with(*sidecar).count() * variants.len();
        self.sidecars.iter().map(of).sum::<usize>() * self.rounds
    }

    /// Every variant with one kind of sidecar. Returns failures of the removal.
    ///
    /// They are built anew for each round: where a process finds its memory makes it faster or slower
    /// for as long as it lives, and would be taken for its variant's merit.
    fn compare(
        &self,
        (sidecar, variants): (Sidecar, &[Variant]),
        results: &mut Results,
        (progress, options): (&Progress, &Options),
        interrupt: &Interrupt,
    ) -> Result<Vec<String>> {
        let mut complaints = Vec::new();
        for round in 0..self.rounds {
            progress.show(&format!("{}: starting", sidecar.name()));
            let mut stages = Vec::new();
            let shape = Shape {
                sidecar,
                tree: (self.loads_with(sidecar)).any(|load| matches!(load, Load::Tree(_))),
            };
            for variant in variants {
                let topology = Topology::build(options, *variant, shape, interrupt)?;
                stages.push((*variant, topology));
            }
            let measured = self.measure(sidecar, (round, &stages), progress, interrupt);
            complaints.extend(
                stages
                    .into_iter()
                    .flat_map(|(_, topology)| topology.remove()),
            );
            results.samples.extend(measured?);
        }
        Ok(complaints)
    }

    /// One round.
    fn measure(
        &self,
        sidecar: Sidecar,
        (round, stages): (usize, &[(Variant, Topology)]),
        progress: &Progress,
        interrupt: &Interrupt,
    ) -> Result<Vec<Measured>> {
        let mut measured = Vec::new();
        let all: Vec<usize> = (0..stages.len()).collect();
        for load in self.loads_with(sidecar) {
            for index in rotated(&all, round) {
                interrupt.check()?;
                let (variant, topology) = &stages[index];
                progress.show(&format!(
                    "{}: {}: {}",
                    sidecar.name(),
                    load.name(),
                    variant.name()
                ));
                let sample = topology.run(load, self.duration)?;
                progress.step();
                measured.push(Measured {
                    round,
                    variant: *variant,
                    sidecar,
                    load,
                    sample,
                });
            }
        }
        Ok(measured)
    }
}
