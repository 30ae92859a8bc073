//! What each program costs, by the kernel's own statistics.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use anyhow::Result;
use aya::{
    programs::loaded_programs,
    sys::{Stats, enable_stats},
};
use serde::Serialize;
use sluice_lab::{APPLICATION, Lab, PROXY, PodSpec, backend::sluice::Sluice};
use sluice_testbed::{interrupt::Interrupt, process::output};

use crate::{
    Options,
    check::{Bound, Check},
    cpu::on_cpu,
    matrix::rotated,
    noop_program::{self, NoopProgram},
    progress::Progress,
    statistics::Estimate,
};

const ROUNDS: usize = 9;
const QUICK_ROUNDS: usize = 3;
const CONNECTS: u32 = 5000;
const QUESTIONS: u32 = 50_000;
const LIMIT: Duration = Duration::from_mins(1);
const OUTBOUND: u16 = 15001;
const MESHED: &str = "meshed";
const PLAIN: &str = "plain";

/// The repeated call of a process of a Pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Act {
    /// A connection, which is closed at once.
    Connect,
    /// `getsockopt` of an option that is not Sluice's.
    Getsockopt,
}

/// Who does what: the Pod's name, and the act.
type Caller = (&'static str, Act);

const CALLERS: [Caller; 4] = [
    (MESHED, Act::Connect),
    (PLAIN, Act::Connect),
    (MESHED, Act::Getsockopt),
    (PLAIN, Act::Getsockopt),
];

/// The kernel's counters of a program in a round.
#[derive(Serialize)]
struct Sample {
    round: usize,
    caller: Caller,
    program: String,
    runs: u64,
    nanos: f64,
}

/// All that was measured.
#[derive(Serialize)]
pub(super) struct Programs {
    samples: Vec<Sample>,
}

/// Measures. Also returns failures of the removal.
pub(super) fn measure(options: &Options, interrupt: &Interrupt) -> Result<(Programs, Vec<String>)> {
    let mut lab = Lab::with(
        options.binaries.resolve()?,
        |binaries, directory, cgroup| {
            let sluice = Sluice::start(binaries, directory, cgroup, "", interrupt)?;
            Ok(Box::new(sluice))
        },
    )?;
    let rounds = if options.quick { QUICK_ROUNDS } else { ROUNDS };
    let samples = samples(&mut lab, rounds, interrupt);
    let complaints = lab.remove();
    Ok((Programs { samples: samples? }, complaints))
}

fn samples(lab: &mut Lab, rounds: usize, interrupt: &Interrupt) -> Result<Vec<Sample>> {
    for name in [MESHED, PLAIN] {
        lab.add(PodSpec {
            name,
            meshed: name == MESHED,
            proxy: false,
            transparent: false,
            ports: &[],
        })?;
    }
    let nothing = NoopProgram::attach(lab.cgroup())?;
    let mut ours = lab.backend.bpf_objects()?.programs();
    ours.insert(nothing.program());
    let _counting = enable_stats(Stats::RunTime)?;
    let progress = Progress::start(rounds * CALLERS.len());
    let mut samples = Vec::new();
    for round in 0..rounds {
        for caller in rotated(&CALLERS, round) {
            interrupt.check()?;
            progress.show(&title(caller));
            let before = counted(&ours);
            on_cpu(0, || act(lab, caller))?;
            progress.step();
            let new = since(&before, counted(&ours)).into_iter();
            samples.extend(new.map(|(program, (runs, time))| Sample {
                round,
                caller,
                program,
                runs,
                nanos: each(time, runs),
            }));
        }
    }
    Ok(samples)
}

/// Runs and time of each program.
type Counts = BTreeMap<String, (u64, Duration)>;

fn counted(ours: &BTreeSet<u32>) -> Counts {
    let programs = loaded_programs().flatten();
    let ours = programs.filter(|program| ours.contains(&program.id()));
    ours.filter_map(|program| {
        let counts = (program.run_count(), program.run_time());
        Some((program.name_as_str()?.to_owned(), counts))
    })
    .collect()
}

/// Of those that ran.
fn since(before: &Counts, now: Counts) -> Counts {
    now.into_iter()
        .filter_map(|(name, (runs, time))| {
            let (old_runs, old_time) = before.get(&name).copied().unwrap_or_default();
            let runs = runs.checked_sub(old_runs).filter(|runs| *runs > 0)?;
            Some((name, (runs, time.saturating_sub(old_time))))
        })
        .collect()
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn each(time: Duration, runs: u64) -> f64 {
    time.as_secs_f64() * 1e9 / runs as f64
}

fn act(lab: &Lab, (pod, act): Caller) -> Result<()> {
    // Root becomes both users.
    let mut command = lab.place(lab.pod(pod)?, 0).own()?;
    command.arg("syscall-loop");
    command.args(["--owner", &PROXY.to_string()]);
    command.args(["--user", &APPLICATION.to_string()]);
    match act {
        Act::Connect => {
            // Sluice redirects the meshed Pod's connection to this port; the other Pod connects to it.
            let to = SocketAddr::new(lab.pod(PLAIN)?.address(true)?, OUTBOUND);
            command.args(["--to", &to.to_string()]);
            command.args(["--listen", &OUTBOUND.to_string()]);
            command.args(["--count", &CONNECTS.to_string()]);
        }
        Act::Getsockopt => {
            command.args(["--count", &QUESTIONS.to_string()]);
        }
    }
    output(&mut command, LIMIT).map(drop)
}

impl Programs {
    /// Of the rounds' means.
    fn cost(&self, caller: Caller, program: &str) -> Option<Estimate> {
        let samples = self.samples.iter();
        let of = samples.filter(|sample| sample.caller == caller && sample.program == program);
        Estimate::of(&of.map(|sample| sample.nanos).collect::<Vec<_>>())
    }

    /// The time of a program beyond one without work at the same hook.
    fn own_cost(&self, caller: Caller, program: &str) -> Option<Estimate> {
        let of = |round: usize, program: &str| {
            let mut samples = self.samples.iter();
            let it = samples
                .find(|one| (one.round, one.caller, &*one.program) == (round, caller, program));
            it.map(|sample| sample.nanos)
        };
        let rounds = self.samples.iter().map(|sample| sample.round + 1).max()?;
        let beyond = |round| Some(of(round, program)? - of(round, noop_program::NAME)?);
        Estimate::of(&(0..rounds).filter_map(beyond).collect::<Vec<_>>())
    }

    /// Its promised limits.
    pub(super) fn checks(&self) -> Vec<Check> {
        let judge = |program: &str, caller, figure: &str, limit, cost: Option<Estimate>| {
            let promise = [program, &title(caller), figure];
            Some(Check::of(promise, Bound::AtMost(limit), " ns", cost?))
        };
        let own = [(MESHED, 400.0), (PLAIN, 80.0)].map(|(pod, limit)| {
            let caller = (pod, Act::Connect);
            let figure = "time of a run beyond a program that does nothing";
            let cost = self.own_cost(caller, "connect4");
            judge("connect4", caller, figure, limit, cost)
        });
        let whole = [MESHED, PLAIN].map(|pod| {
            let caller = (pod, Act::Getsockopt);
            let cost = self.cost(caller, "getsockopt");
            judge("getsockopt", caller, "time of a run", 60.0, cost)
        });
        own.into_iter().chain(whole).flatten().collect()
    }

    /// Its part of the report.
    pub(super) fn section(&self) -> String {
        let mut lines = vec![
            "\n## Cost of each program\n\nTime of a run, as the kernel counts it \
             (BPF_STATS_RUN_TIME); median of the rounds' means and 95 % bootstrap interval. Counting \
             takes time, too: `nothing` is a program that only returns, at the same hook as \
             `connect4`, which is judged by what it takes beyond it. One process connects, accepts \
             in place of the sidecar, and closes, again and again: caches are warm, and no \
             connections of a sidecar are among the application's.\n"
                .to_owned(),
            "| who does what | program | runs for each | ns |\n|---|---|---|---|".to_owned(),
        ];
        let rows: BTreeSet<_> = self
            .samples
            .iter()
            .map(|sample| (sample.caller, &*sample.program))
            .collect();
        lines.extend(rows.into_iter().filter_map(|(caller, program)| {
            let cost = self.cost(caller, program)?.text(0, "");
            // Less is what starts and ends the process.
            let runs = Some(self.runs(caller, program)).filter(|runs| *runs > 0.5)?;
            Some(format!(
                "| {} | `{program}` | {runs:.1} | {cost} |",
                title(caller)
            ))
        }));
        lines.join("\n")
    }

    /// For each act.
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    fn runs(&self, caller: Caller, program: &str) -> f64 {
        let samples = self.samples.iter();
        let of = samples.filter(|sample| sample.caller == caller && sample.program == program);
        let runs: Vec<_> = of.map(|sample| sample.runs as f64).collect();
        let acts = match caller.1 {
            Act::Connect => CONNECTS,
            Act::Getsockopt => QUESTIONS,
        };
        let rounds = self.samples.iter().map(|sample| sample.round + 1).max();
        runs.iter().sum::<f64>() / f64::from(acts) / rounds.unwrap_or(1) as f64
    }
}

fn title((pod, act): Caller) -> String {
    match act {
        Act::Connect => format!("{pod} Pod: connection"),
        Act::Getsockopt => format!("{pod} Pod: foreign getsockopt"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(counts: [(&str, u64, u64); 2]) -> Counts {
        let one = |(name, runs, nanos): (&str, u64, u64)| {
            (name.to_owned(), (runs, Duration::from_nanos(nanos)))
        };
        counts.map(one).into()
    }

    #[test]
    fn only_programs_that_ran_meanwhile_count() {
        let before = counts([("connect4", 10, 1000), ("getsockopt", 5, 100)]);
        let now = counts([("connect4", 14, 1800), ("getsockopt", 5, 100)]);
        let since = since(&before, now);
        assert_eq!(
            since,
            [("connect4".to_owned(), (4, Duration::from_nanos(800)))].into()
        );
        assert!((each(Duration::from_nanos(800), 4) - 200.0).abs() < 1e-6);
    }

    #[test]
    fn meshed_and_unmeshed_connects_have_their_own_limits() {
        let sample = |pod, program: &str, nanos| Sample {
            round: 0,
            caller: (pod, Act::Connect),
            program: program.to_owned(),
            runs: u64::from(CONNECTS),
            nanos,
        };
        let of = |pod| {
            [
                sample(pod, "connect4", 250.0),
                sample(pod, noop_program::NAME, 50.0),
            ]
        };
        let programs = Programs {
            samples: [of(MESHED), of(PLAIN)].into_iter().flatten().collect(),
        };
        let met = programs.checks().into_iter().map(|check| check.met);
        assert_eq!(met.collect::<Vec<_>>(), [true, false]);
        assert!((programs.runs((PLAIN, Act::Connect), "connect4") - 1.0).abs() < 1e-9);
    }
}
