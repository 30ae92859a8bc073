//! Every sample of a run, and their summaries.

use std::{fs, thread};

use anyhow::Result;
use nix::sys::utsname::uname;
use serde::Serialize;

use crate::{
    check::Check,
    churn::Churn,
    control_plane::ControlPlane,
    growth::Growth,
    idle::Idle,
    matrix::{Figure, Load, Sample, Sidecar, Variant},
    pod_start::PodStart,
    programs::Programs,
    statistics::{Estimate, Summary},
};

/// All that was measured.
#[derive(Default, Serialize)]
pub(super) struct Results {
    pub(super) kernel: String,
    pub(super) cpu: String,
    pub(super) processors: usize,
    /// Whether idle processors polled for work, and did not sleep.
    pub(super) awake: bool,
    pub(super) rounds: usize,
    pub(super) seconds: f64,
    pub(super) samples: Vec<Measured>,
    pub(super) control: Option<ControlPlane>,
    pub(super) pod_start: Option<PodStart>,
    pub(super) programs: Option<Programs>,
    pub(super) churn: Vec<Churn>,
    pub(super) idle: Option<Idle>,
    pub(super) growth: Option<Growth>,
    /// The checks of measured figures.
    pub(super) checks: Vec<Check>,
}

/// A sample with its variant and load.
#[derive(Serialize)]
pub(super) struct Measured {
    pub(super) round: usize,
    pub(super) variant: Variant,
    pub(super) sidecar: Sidecar,
    pub(super) load: Load,
    pub(super) sample: Sample,
}

impl Results {
    /// Nothing yet, on this machine.
    pub(super) fn of_this_machine() -> Result<Self> {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo")?;
        let model = cpuinfo.lines().find(|line| line.starts_with("model name"));
        let model = model.and_then(|line| line.split_once(": "));
        Ok(Self {
            kernel: uname()?.release().to_string_lossy().into_owned(),
            cpu: model.map_or("unknown", |(_, name)| name).to_owned(),
            processors: thread::available_parallelism()?.get(),
            ..Self::default()
        })
    }

    /// A figure's value in each round.
    fn series(
        &self,
        variant: Variant,
        (sidecar, load): (Sidecar, Load),
        figure: Figure,
    ) -> Vec<Option<f64>> {
        let mut series = vec![None; self.rounds];
        let wanted = (variant, sidecar, load);
        let of = |one: &&Measured| (one.variant, one.sidecar, one.load) == wanted;
        for one in self.samples.iter().filter(of) {
            if let Some(place) = series.get_mut(one.round) {
                *place = figure.of(&one.sample);
            }
        }
        series
    }

    /// Of all rounds.
    pub(super) fn summary(
        &self,
        variant: Variant,
        what: (Sidecar, Load),
        figure: Figure,
    ) -> Option<Summary> {
        let series = self.series(variant, what, figure);
        Summary::of(&series.into_iter().flatten().collect::<Vec<_>>())
    }

    /// Of one variant to another, round by round.
    pub(super) fn ratio(
        &self,
        (variant, base): (Variant, Variant),
        what: (Sidecar, Load),
        figure: Figure,
    ) -> Option<Estimate> {
        let of = |variant| self.series(variant, what, figure);
        Estimate::ratio(&of(variant), &of(base))
    }

    /// Its variants and loads, in order.
    pub(super) fn contents(&self) -> (Vec<Variant>, Vec<(Sidecar, Load)>) {
        let mut variants: Vec<_> = self.samples.iter().map(|one| one.variant).collect();
        let mut matters: Vec<_> = self
            .samples
            .iter()
            .map(|one| (one.sidecar, one.load))
            .collect();
        variants.sort_unstable();
        variants.dedup();
        matters.sort_unstable();
        matters.dedup();
        (variants, matters)
    }
}
