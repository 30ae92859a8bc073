//! The price of interception when a Pod starts and ends: the rules, or the plugin's call.

mod end;

use std::{
    collections::BTreeMap, fs::File, path::PathBuf, process::Command, sync::RwLock, thread,
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use nix::sched::{CloneFlags, setns};
use serde::Serialize;
use sluice_lab::{
    backend::{
        Backend as _, iptables,
        sluice::{MEMORY, Sluice},
    },
    pod_annotations::PodAnnotations,
};
use sluice_testbed::{
    bulk_netns::{BulkNetns, PluginCall},
    cgroup::Cgroup,
    interrupt::Interrupt,
    netns::Netns,
    process,
};
use tempfile::TempDir;

use crate::{
    Options,
    check::{Bound, Check},
    matrix::rotated,
    progress::Progress,
    statistics::{Estimate, Summary},
};
use end::Ends;

/// Pods that start at once.
const AT_ONCE: [u16; 3] = [1, 20, 100];
const ROUNDS: usize = 20;
const QUICK_ROUNDS: usize = 3;

/// The means of interception.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Variant {
    /// `iptables-restore` and `ip6tables-restore` in the Pod's namespace, as istio-cni runs them.
    Rules,
    /// The plugin, as the runtime runs it.
    Plugin,
}

/// One start of so many Pods at once.
#[derive(Serialize)]
struct Sample {
    round: usize,
    variant: Variant,
    pods: u16,
    /// Until the last of them is intercepted.
    start_millis: f64,
    /// Until the last of them is no longer; the rules end with the namespace.
    end_millis: Option<f64>,
    /// Until the last call of the plugin's `VERSION` is answered, which needs no daemon.
    process_millis: Option<f64>,
}

/// All that was measured.
#[derive(Serialize)]
pub(super) struct PodStart {
    rounds: usize,
    samples: Vec<Sample>,
    ends: Ends,
}

/// A daemon, and the rules.
struct Node {
    sluice: Sluice,
    cgroup: Cgroup,
    /// Of the Pods' processes.
    pods_cgroup: PathBuf,
    /// The namespace of the other ends of the Pods' links.
    host: Netns,
    rules: [(&'static str, String); 2],
    directory: TempDir,
}

/// Measures, and removes everything that it made.
pub(super) fn measure(options: &Options, interrupt: &Interrupt) -> Result<PodStart> {
    let node = Node::start(options, interrupt)?;
    let rounds = if options.quick { QUICK_ROUNDS } else { ROUNDS };
    let measured = node.samples(rounds, interrupt).and_then(|samples| {
        let ends = Ends::of(&node, options.quick, interrupt)?;
        Ok((samples, ends))
    });
    node.remove()?;
    let (samples, ends) = measured?;
    Ok(PodStart {
        rounds,
        samples,
        ends,
    })
}

impl Node {
    fn start(options: &Options, interrupt: &Interrupt) -> Result<Self> {
        let directory = TempDir::with_prefix_in("sluice-pod-start-", MEMORY)?;
        let name = directory.path().file_name().unwrap_or_default();
        let name = name.to_string_lossy().into_owned();
        let cgroup = Cgroup::create(&name)?;
        let binaries = options.binaries.resolve()?;
        Ok(Self {
            sluice: Sluice::start(&binaries, directory.path(), cgroup.path(), "", interrupt)?,
            pods_cgroup: cgroup.child("pods")?,
            cgroup,
            host: Netns::create(format!("{name}-node"))?,
            rules: iptables::rules(&PodAnnotations::default())?,
            directory,
        })
    }

    fn samples(&self, rounds: usize, interrupt: &Interrupt) -> Result<Vec<Sample>> {
        let variants = [Variant::Rules, Variant::Plugin];
        let progress = Progress::start(rounds * AT_ONCE.len() * variants.len());
        let mut samples = Vec::new();
        for round in 0..rounds {
            for pods in AT_ONCE {
                for variant in rotated(&variants, round) {
                    progress.show(&format!("Pods that start at once: {pods}"));
                    let [start_millis, end_millis, process_millis] =
                        self.run(variant, pods, interrupt)?;
                    progress.step();
                    samples.push(Sample {
                        round,
                        variant,
                        pods,
                        start_millis: start_millis.context("a start")?,
                        end_millis,
                        process_millis,
                    });
                }
            }
        }
        Ok(samples)
    }

    /// Milliseconds of the start, of the end, and of processes that do nothing else.
    fn run(&self, variant: Variant, pods: u16, interrupt: &Interrupt) -> Result<[Option<f64>; 3]> {
        let crowd = BulkNetns::make(self.name("pod"), pods, interrupt)?;
        let call = |verb| {
            at_once(pods, |number| {
                let call = self.plugin_call(&crowd, verb, number)?;
                Ok(|| call.run().map(drop))
            })
        };
        if variant == Variant::Rules {
            let start = at_once(pods, |number| self.rules_in(&crowd, number))?;
            return Ok([Some(start), None, None]);
        }
        let [start, end, process] = ["ADD", "DEL", "VERSION"].map(call);
        Ok([Some(start?), Some(end?), Some(process?)])
    }

    /// A name that no other node's part has.
    fn name(&self, part: &str) -> String {
        let name = self.directory.path().file_name().unwrap_or_default();
        format!("{}-{part}", name.display())
    }

    fn plugin_call(&self, crowd: &BulkNetns, verb: &str, number: u16) -> Result<PluginCall> {
        let plugin = Command::new(self.sluice.plugin().context("a plugin")?);
        let entry = self.sluice.entry().context("an entry")?;
        crowd.prepare(plugin, &entry, verb, number, &BTreeMap::new())
    }

    /// Runs the programs that write the rules, in the Pod's namespace.
    fn rules_in(
        &self,
        crowd: &BulkNetns,
        number: u16,
    ) -> Result<impl FnOnce() -> Result<()> + use<>> {
        let netns = File::open(crowd.path(number))?;
        let prepare = |(program, rules): &(&str, String)| {
            let mut command = Command::new(program);
            command.args(["--noflush", "--wait", "30"]);
            command.stdin(process::input(rules)?);
            Ok(command)
        };
        let commands: Result<Vec<_>> = self.rules.iter().map(prepare).collect();
        let commands = commands?;
        Ok(move || {
            // This thread ends with the call, and no other enters the namespace.
            setns(netns, CloneFlags::CLONE_NEWNET)?;
            for mut command in commands {
                let status = command.status()?;
                ensure!(status.success(), "{command:?}: {status}");
            }
            Ok(())
        })
    }

    fn remove(self) -> Result<()> {
        Box::new(self.sluice).stop()?;
        self.host.remove()?;
        self.cgroup.remove()?;
        Ok(self.directory.close()?)
    }
}

/// Prepares the work for each Pod, then does it for all at once, each in a thread of its own. Milliseconds from the
/// first start until the last has ended.
fn at_once<Work: FnOnce() -> Result<()> + Send>(
    pods: u16,
    prepare: impl Fn(u16) -> Result<Work>,
) -> Result<f64> {
    let prepared: Result<Vec<Work>> = (0..pods).map(prepare).collect();
    let prepared = prepared?;
    let gate = RwLock::new(());
    let times: Result<Vec<[Instant; 2]>> = thread::scope(|scope| {
        let closed = gate.write();
        let started = prepared.into_iter().map(|work| {
            let gate = &gate;
            scope.spawn(move || {
                // Poisoned if a thread could not be spawned.
                ensure!(gate.read().is_ok(), "not every thread was spawned");
                let begin = Instant::now();
                work()?;
                Ok([begin, Instant::now()])
            })
        });
        let started: Vec<_> = started.collect();
        drop(closed);
        let ended = started
            .into_iter()
            .map(|thread| thread.join().ok().context("a thread panicked")?);
        ended.collect()
    });
    let times = times?;
    let begin = times.iter().map(|[begin, _]| *begin).min();
    let end = times.iter().map(|[_, end]| *end).max();
    let took = begin.zip(end).map(|(begin, end)| end - begin);
    Ok(took.unwrap_or_default().as_secs_f64() * 1e3)
}

impl PodStart {
    fn series(
        &self,
        variant: Variant,
        pods: u16,
        figure: impl Fn(&Sample) -> Option<f64>,
    ) -> Vec<Option<f64>> {
        let wanted = |round| {
            let mut samples = self.samples.iter();
            samples.find(|one| (one.round, one.variant, one.pods) == (round, variant, pods))
        };
        (0..self.rounds)
            .map(|round| figure(wanted(round)?))
            .collect()
    }

    fn starts(&self, variant: Variant, pods: u16) -> Vec<Option<f64>> {
        self.series(variant, pods, |sample| Some(sample.start_millis))
    }

    /// How many times longer the rules take.
    fn ratio(&self, pods: u16) -> Option<Estimate> {
        let of = |variant| self.starts(variant, pods);
        Estimate::ratio(&of(Variant::Rules), &of(Variant::Plugin))
    }

    /// Its promised limits.
    pub(super) fn checks(&self) -> Vec<Check> {
        let alone = |figure| ["sluice-cni", "one Pod starts", figure];
        let own: Vec<_> = self
            .starts(Variant::Plugin, 1)
            .into_iter()
            .flatten()
            .collect();
        let own = Estimate::of(&own);
        let own = own.map(|own| Check::of(alone("ADD"), Bound::AtMost(0.8), " ms", own));
        let ratio = self.ratio(1).map(|ratio| {
            let promise = alone("time of the rules against ADD");
            Check::of(promise, Bound::AtLeast(30.0), "×", ratio)
        });
        own.into_iter().chain(ratio).collect()
    }

    /// Its part of the report.
    pub(super) fn section(&self) -> String {
        let mut lines = vec![
            format!(
                "\n## Start of Pods\n\n{} rounds, interleaved. The rules: `iptables-restore` and \
                 `ip6tables-restore` run in each Pod's namespace. ADD and DEL: the runtime calls \
                 sluice-cni alone. VERSION: its answer without the daemon, which is the time of a process. Milliseconds until the last Pod is done, median (quartiles); the \
                 ratio is paired within a round, with its 95 % bootstrap interval.\n",
                self.rounds
            ),
            "| Pods at once | rules | ADD | VERSION | rules against ADD | DEL |\n|---|---|---|---|---|---|"
                .to_owned(),
        ];
        let text = |series: Vec<Option<f64>>| {
            let series: Vec<_> = series.into_iter().flatten().collect();
            Summary::of(&series).map_or_else(|| "–".to_owned(), |of| of.text(1))
        };
        lines.extend(AT_ONCE.map(|pods| {
            let (rules, add) = (Variant::Rules, Variant::Plugin);
            let del = self.series(add, pods, |sample| sample.end_millis);
            let process = self.series(add, pods, |sample| sample.process_millis);
            let ratio = self.ratio(pods);
            format!(
                "| {pods} | {} | {} | {} | {} | {} |",
                text(self.starts(rules, pods)),
                text(self.starts(add, pods)),
                text(process),
                ratio.map_or_else(|| "–".to_owned(), |ratio| ratio.text(1, "×")),
                text(del),
            )
        }));
        lines.push(self.ends.section());
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_ratio_is_paired_within_a_round() {
        let sample = |round, variant, start_millis| Sample {
            round,
            variant,
            pods: 1,
            start_millis,
            end_millis: None,
            process_millis: None,
        };
        let start = PodStart {
            rounds: 2,
            samples: vec![
                sample(0, Variant::Rules, 30.0),
                sample(0, Variant::Plugin, 1.0),
                sample(1, Variant::Rules, 60.0),
                sample(1, Variant::Plugin, 2.0),
            ],
            ends: Ends::default(),
        };
        assert_eq!(start.ratio(1).map(|ratio| ratio.median), Some(30.0));
        assert!(start.ratio(20).is_none());
        let met: Vec<_> = start.checks().iter().map(|check| check.met).collect();
        assert_eq!(met, [false, true]);
    }

    #[test]
    fn slowest_pod_ends_the_start() {
        let sleep = |millis: u16| thread::sleep(Duration::from_millis(millis.into()));
        let slow = |number: u16| {
            sleep(400);
            Ok(move || {
                sleep(number * 20);
                Ok(())
            })
        };
        let took = at_once(3, slow).unwrap();
        assert!((40.0..1000.0).contains(&took), "{took} ms");
        let fails = |number| {
            ensure!(number == 0, "not prepared");
            Ok(|| Ok(()))
        };
        at_once(2, fails).unwrap_err();
        at_once(2, |_| Ok(|| anyhow::bail!("not done"))).unwrap_err();
    }
}
