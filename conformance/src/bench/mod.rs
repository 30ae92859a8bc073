//! How fast traffic gets through, compared round by round on one machine.

mod envoy;
mod goals;
mod matter;
mod plot;
mod results;
mod stage;
mod statistics;
mod table;
mod tools;

use std::{
    fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use clap::Args;
use nix::{sys::utsname::uname, unistd::Uid};

use crate::{interrupt::Interrupt, lab::Binaries};
use matter::{Contender, LOADS, Load, Sidecar, left, rotated};
use results::{Measured, Results};
use stage::Stage;

const QUICK_ROUNDS: usize = 3;
const CONTENDERS: [&str; 6] = ["direct", "explicit", "iptables", "off", "proxies", "all"];
const SIDECARS: [&str; 3] = ["envoy-tcp", "envoy-http", "minimal"];

/// What to compare, and how long.
#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    binaries: Binaries,
    /// Less than three minutes: Envoy as TCP proxy, few loads, three rounds of a second.
    #[arg(long)]
    quick: bool,
    /// Rounds; each contender runs each load once in each. Five take about 25 minutes.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long a load runs, in seconds.
    #[arg(long, default_value_t = 2)]
    seconds: u64,
    /// Who takes part.
    #[arg(long = "contender", value_enum, value_delimiter = ',', default_values = CONTENDERS)]
    contenders: Vec<Contender>,
    /// Which proxies.
    #[arg(long = "sidecar", value_enum, value_delimiter = ',', default_values = SIDECARS)]
    sidecars: Vec<Sidecar>,
    /// Where samples, table and plots go.
    #[arg(long, default_value = "target/bench")]
    output: PathBuf,
}

/// Measures, and writes the report.
pub(crate) fn run(options: &Options) -> Result<bool> {
    ensure!(Uid::effective().is_root(), "needs root");
    let interrupt = Interrupt::install()?;
    let plan = Plan::of(options);
    let mut results = plan.header()?;
    let mut complaints = Vec::new();
    let pace = Pace::start(plan.runs());
    for sidecar in &plan.sidecars {
        complaints.extend(plan.compare(*sidecar, &mut results, (&pace, options), &interrupt)?);
    }
    eprintln!();
    fs::create_dir_all(&options.output)?;
    let write = |name: &str, text: &str| fs::write(options.output.join(name), text);
    write("samples.json", &serde_json::to_string_pretty(&results)?)?;
    let markdown = table::markdown(&results);
    write("report.md", &markdown)?;
    for sidecar in &plan.sidecars {
        let name = format!("{}.svg", sidecar.file());
        plot::draw(&results, *sidecar, &options.output.join(name))?;
    }
    println!("{markdown}");
    for complaint in &complaints {
        eprintln!("  {complaint}");
    }
    Ok(complaints.is_empty())
}

/// What is run.
struct Plan {
    rounds: usize,
    duration: Duration,
    contenders: Vec<Contender>,
    sidecars: Vec<Sidecar>,
    loads: Vec<Load>,
}

impl Plan {
    fn of(options: &Options) -> Self {
        let Options {
            quick,
            rounds,
            seconds,
            contenders,
            sidecars,
            ..
        } = options;
        if *quick {
            return Self {
                rounds: QUICK_ROUNDS,
                duration: Duration::from_secs(1),
                contenders: contenders.clone(),
                sidecars: vec![Sidecar::EnvoyTcp],
                loads: matter::QUICK.into(),
            };
        }
        Self {
            rounds: *rounds,
            duration: Duration::from_secs(*seconds),
            contenders: contenders.clone(),
            sidecars: sidecars.clone(),
            loads: LOADS.into(),
        }
    }

    /// Loads that a sidecar carries.
    fn carried(&self, sidecar: Sidecar) -> impl Iterator<Item = Load> {
        let loads = self.loads.iter().copied();
        loads.filter(move |load| sidecar.carries(*load))
    }

    fn runs(&self) -> usize {
        let loads: usize = self
            .sidecars
            .iter()
            .map(|sidecar| self.carried(*sidecar).count())
            .sum();
        loads * self.contenders.len() * self.rounds
    }

    fn header(&self) -> Result<Results> {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo")?;
        let model = cpuinfo.lines().find(|line| line.starts_with("model name"));
        let model = model.and_then(|line| line.split_once(": "));
        Ok(Results {
            kernel: uname()?.release().to_string_lossy().into_owned(),
            processor: model.map_or("unknown", |(_, name)| name).to_owned(),
            processors: thread::available_parallelism()?.get(),
            rounds: self.rounds,
            seconds: self.duration.as_secs_f64(),
            ..Results::default()
        })
    }

    /// Every contender with one kind of sidecar. Returns what the removal complains about.
    fn compare(
        &self,
        sidecar: Sidecar,
        results: &mut Results,
        (pace, options): (&Pace, &Options),
        interrupt: &Interrupt,
    ) -> Result<Vec<String>> {
        let mut stages = Vec::new();
        for contender in &self.contenders {
            match Stage::build(&options.binaries, *contender, sidecar, interrupt) {
                Ok(stage) => stages.push((*contender, stage)),
                // Without acceleration in the daemon, everything else is still worth a run.
                Err(error) if contender.acceleration().is_some() => {
                    results
                        .notes
                        .push(format!("{}: {error:#}", contender.name()));
                }
                Err(error) => return Err(error),
            }
        }
        let measured = self.measure(sidecar, &stages, pace, interrupt);
        let removed = stages.into_iter().flat_map(|(_, stage)| stage.remove());
        let complaints = removed.collect();
        results.samples.extend(measured?);
        Ok(complaints)
    }

    fn measure(
        &self,
        sidecar: Sidecar,
        stages: &[(Contender, Stage)],
        pace: &Pace,
        interrupt: &Interrupt,
    ) -> Result<Vec<Measured>> {
        let mut measured = Vec::new();
        let all: Vec<usize> = (0..stages.len()).collect();
        for round in 0..self.rounds {
            for load in self.carried(sidecar) {
                for index in rotated(&all, round) {
                    interrupt.check()?;
                    let (contender, stage) = &stages[index];
                    pace.show(&format!(
                        "{}: {}: {}",
                        sidecar.name(),
                        load.name(),
                        contender.name()
                    ));
                    let sample = stage.run(load, self.duration)?;
                    pace.step();
                    measured.push(Measured {
                        round,
                        contender: *contender,
                        sidecar,
                        load,
                        sample,
                    });
                }
            }
        }
        Ok(measured)
    }
}

/// How far a run is.
struct Pace {
    begin: Instant,
    done: std::cell::Cell<usize>,
    all: usize,
}

impl Pace {
    fn start(all: usize) -> Self {
        Self {
            begin: Instant::now(),
            done: 0.into(),
            all,
        }
    }

    fn step(&self) {
        self.done.set(self.done.get() + 1);
    }

    fn show(&self, what: &str) {
        let (done, all) = (self.done.get(), self.all);
        let left = left(self.begin.elapsed(), done, all);
        let left = left.map_or_else(String::new, |left| format!(", {} s left", left.as_secs()));
        eprint!("\r\x1b[K  {done}/{all}{left}  {what}");
    }
}
