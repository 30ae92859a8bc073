//! Every sample of a run, and their summaries.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::utsname::uname;
use serde::{Deserialize, Serialize};

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
    #[serde(flatten)]
    pub(super) setting: Setting,
    pub(super) rounds: usize,
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

/// Where, with how many workers and for how long each load of the traffic ran. Rounds with equal settings can be compared.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Setting {
    pub(super) kernel: String,
    pub(super) cpu: String,
    pub(super) processors: usize,
    /// Whether idle processors polled for work, and did not sleep.
    pub(super) awake: bool,
    pub(super) seconds: f64,
    /// Worker threads of each Envoy.
    #[serde(default = "one_worker")]
    pub(super) workers: u16,
}

/// The workers of runs that do not state them.
const fn one_worker() -> u16 {
    1
}

/// What the file of an earlier run holds of its traffic.
#[derive(Deserialize)]
struct Traffic {
    #[serde(flatten)]
    setting: Setting,
    rounds: usize,
    samples: Vec<Measured>,
}

impl Traffic {
    fn read(file: &Path) -> Result<Self> {
        let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
        serde_json::from_str(&text)
            .with_context(|| format!("{}: no samples of a run", file.display()))
    }
}

/// A sample with its variant and load.
#[derive(Serialize, Deserialize)]
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
            setting: Setting {
                kernel: uname()?.release().to_string_lossy().into_owned(),
                cpu: model.map_or("unknown", |(_, name)| name).to_owned(),
                processors: thread::available_parallelism()?.get(),
                ..Setting::default()
            },
            ..Self::default()
        })
    }

    /// The traffic of earlier runs on one machine, as the rounds of one run.
    pub(super) fn pooled(files: &[PathBuf]) -> Result<Self> {
        let mut results = Self::default();
        for file in files {
            let run = Traffic::read(file)?;
            ensure!(!run.samples.is_empty(), "{}: no traffic", file.display());
            if results.rounds == 0 {
                results.setting = run.setting.clone();
            }
            ensure!(
                run.setting == results.setting,
                "{} is of another machine, or its loads had another duration or number of workers: {:?}, not {:?}",
                file.display(),
                run.setting,
                results.setting
            );
            let before = results.rounds;
            let later = run.samples.into_iter().map(|one| Measured {
                round: before + one.round,
                ..one
            });
            results.samples.extend(later);
            results.rounds += run.rounds;
        }
        Ok(results)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pooled_runs_are_the_rounds_of_one_run() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, rate: u32, seconds: u32| {
            let sample = |variant: &str, rate: u32| {
                format!(
                    r#"{{"round": 0, "variant": "{variant}", "sidecar": "envoy-tcp", "load": "bulk, 4 streams",
                     "sample": {{"rate": {rate}.0, "cpu": 1.0, "conntrack": 0}}}}"#
                )
            };
            let text = format!(
                r#"{{"kernel": "6.18", "cpu": "one", "processors": 2, "awake": true, "rounds": 1,
                 "seconds": {seconds}.0, "samples": [{}, {}]}}"#,
                sample("off", rate),
                sample("iptables", 10)
            );
            let path = directory.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let runs = [file("first", 10, 1), file("second", 30, 1)];
        let pooled = Results::pooled(&runs).unwrap();
        assert_eq!(pooled.rounds, 2);
        let bulk = (Sidecar::EnvoyTcp, Load::Bulk(4));
        let ratio = pooled.ratio((Variant::Off, Variant::Iptables), bulk, Figure::Rate);
        assert_eq!(
            ratio.map(|ratio| ratio.text(1, "")).unwrap(),
            "2.0 (1.0–3.0)"
        );
        let other = Results::pooled(&[file("third", 10, 1), file("longer", 10, 2)]);
        let error = other.err().unwrap().to_string();
        assert!(error.contains("longer is of another machine"), "{error}");
    }
}
