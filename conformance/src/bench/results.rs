//! Every sample of a run, and what is drawn from them.

use std::{fs, thread};

use anyhow::Result;
use nix::sys::utsname::uname;
use serde::Serialize;

use crate::bench::{
    churn::Churn,
    control::Control,
    goals::{self, Verdict},
    idle::Idle,
    matter::{Contender, Figure, Load, Sample, Sidecar},
    programs::Programs,
    statistics::{Estimate, Summary},
};

/// All that was measured.
#[derive(Default, Serialize)]
pub(super) struct Results {
    pub(super) kernel: String,
    pub(super) processor: String,
    pub(super) processors: usize,
    /// Whether idle processors polled for work, and did not sleep.
    pub(super) awake: bool,
    pub(super) rounds: usize,
    pub(super) seconds: f64,
    pub(super) samples: Vec<Measured>,
    pub(super) control: Option<Control>,
    pub(super) programs: Option<Programs>,
    pub(super) churn: Vec<Churn>,
    pub(super) idle: Option<Idle>,
    /// What was promised, as far as it was measured.
    pub(super) verdicts: Vec<Verdict>,
}

/// A sample and what it is of.
#[derive(Serialize)]
pub(super) struct Measured {
    pub(super) round: usize,
    pub(super) contender: Contender,
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
            processor: model.map_or("unknown", |(_, name)| name).to_owned(),
            processors: thread::available_parallelism()?.get(),
            ..Self::default()
        })
    }

    /// Compares what was measured with what is promised.
    pub(super) fn judge(&mut self) {
        let all = goals::all();
        let mut verdicts: Vec<_> = all.iter().filter_map(|goal| goal.verdict(self)).collect();
        verdicts.extend(self.control.iter().flat_map(Control::verdicts));
        verdicts.extend(self.programs.iter().flat_map(Programs::verdicts));
        verdicts.extend(self.churn.iter().flat_map(Churn::verdicts));
        verdicts.extend(self.idle.iter().flat_map(Idle::verdicts));
        self.verdicts = verdicts;
    }

    /// A figure's value in each round.
    fn series(
        &self,
        contender: Contender,
        (sidecar, load): (Sidecar, Load),
        figure: Figure,
    ) -> Vec<Option<f64>> {
        let mut series = vec![None; self.rounds];
        let wanted = (contender, sidecar, load);
        let of = |one: &&Measured| (one.contender, one.sidecar, one.load) == wanted;
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
        contender: Contender,
        what: (Sidecar, Load),
        figure: Figure,
    ) -> Option<Summary> {
        let series = self.series(contender, what, figure);
        Summary::of(&series.into_iter().flatten().collect::<Vec<_>>())
    }

    /// Of one contender to another, round by round.
    pub(super) fn ratio(
        &self,
        (contender, base): (Contender, Contender),
        what: (Sidecar, Load),
        figure: Figure,
    ) -> Option<Estimate> {
        let of = |contender| self.series(contender, what, figure);
        Estimate::ratio(&of(contender), &of(base))
    }

    /// Who and what is in it, in order.
    pub(super) fn contents(&self) -> (Vec<Contender>, Vec<(Sidecar, Load)>) {
        let mut contenders: Vec<_> = self.samples.iter().map(|one| one.contender).collect();
        let mut matters: Vec<_> = self
            .samples
            .iter()
            .map(|one| (one.sidecar, one.load))
            .collect();
        contenders.sort_unstable();
        contenders.dedup();
        matters.sort_unstable();
        matters.dedup();
        (contenders, matters)
    }
}
