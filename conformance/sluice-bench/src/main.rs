//! Compares the speed of Sluice round by round with iptables on one machine.
#![forbid(unsafe_code)]

mod agent;
mod check;
mod churn;
mod conntrack;
mod control_plane;
mod cpu;
mod envoy;
mod growth;
mod growth_plot;
mod idle;
mod limit;
mod matrix;
mod mtls;
mod noop_program;
mod plot;
mod pod_start;
mod programs;
mod progress;
mod results;
mod statistics;
mod table;
mod tail_plot;
mod thresholds;
mod tools;
mod topology;
mod traffic;

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Result, ensure};
use clap::{Args, Parser, ValueEnum};
use nix::unistd::Uid;
use sluice_lab::Binaries;
use sluice_testbed::interrupt::Interrupt;

use cpu::NoIdle;
use growth::Sizes;
use matrix::{Sidecar, Variant};
use results::Results;

const PARTS: [&str; 7] = [
    "traffic",
    "control",
    "pod-start",
    "programs",
    "churn",
    "idle",
    "growth",
];

/// The file of the samples, in the directory of a run.
const SAMPLES: &str = "samples.json";

#[derive(Parser)]
#[command(name = "sluice-bench", version, about)]
#[command(args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
struct Arguments {
    #[command(flatten)]
    options: Options,
    /// An agent, which runs inside a namespace.
    #[command(subcommand)]
    agent: Option<agent::Job>,
}

/// The comparisons, and their duration.
#[derive(Args)]
struct Options {
    #[command(flatten)]
    binaries: Binaries,
    /// The parts to measure, separated by commas or repeated.
    #[arg(long = "part", value_enum, value_delimiter = ',', default_values = PARTS)]
    parts: Vec<Part>,
    /// Fewer loads, rounds and connections; Envoy as TCP proxy unless `--sidecar` names another.
    #[arg(long)]
    quick: bool,
    /// Rounds of the traffic; each variant runs each load once in each. Five take half an hour.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long a load of the traffic runs, in seconds.
    #[arg(long, default_value_t = 1)]
    seconds: u64,
    /// The variants, separated by commas or repeated. By default all; `direct` only with `mesh-http1` and `envoy-tcp`,
    /// `limit` only with `envoy-tcp` and `minimal`.
    #[arg(long = "variant", value_enum, value_delimiter = ',')]
    chosen_variants: Vec<Variant>,
    /// The object of the variant `limit`, which is built with the daemon.
    #[arg(
        long,
        value_name = "FILE",
        default_value = "target/bpf/bpfel-unknown-none/release/limit"
    )]
    limit_object: PathBuf,
    /// The proxies, separated by commas or repeated. By default all, of a quick run Envoy as TCP proxy.
    #[arg(long = "sidecar", value_enum, value_delimiter = ',')]
    chosen_sidecars: Vec<Sidecar>,
    /// Only loads of the traffic whose names contain one of these, as in 'bulk,64 connections', with every proxy that can
    /// carry them.
    #[arg(long = "load", value_delimiter = ',')]
    loads: Vec<String>,
    /// Worker threads of each Envoy of the traffic. Two is the default of the sidecars of Istio and Kuma.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..))]
    workers: u16,
    #[command(flatten)]
    sizes: Sizes,
    /// Measure nothing: report the traffic of earlier runs, their `samples.json`, as the rounds of one run. Separated by
    /// commas or repeated; needs `--output`, a directory that holds none of them.
    #[arg(
        long = "pool",
        value_name = "FILE",
        value_delimiter = ',',
        requires = "output",
        conflicts_with_all = ["parts", "quick", "rounds", "seconds", "chosen_variants", "loads", "workers"]
    )]
    pooled: Vec<PathBuf>,
    /// Where samples, tables and pictures go. Without `iptables` there is no picture of rates.
    #[arg(long, default_value = "target/bench")]
    output: PathBuf,
}

impl Options {
    /// Which variants with a kind of proxy.
    fn variants(&self, sidecar: Sidecar) -> Vec<Variant> {
        let all = || Variant::value_variants().iter().copied();
        match &*self.chosen_variants {
            [] => all().filter(|variant| sidecar.compares(*variant)).collect(),
            chosen => chosen.to_vec(),
        }
    }

    /// Which proxies.
    fn sidecars(&self) -> Vec<Sidecar> {
        match &*self.chosen_sidecars {
            [] if self.quick => vec![Sidecar::EnvoyTcp],
            [] => Sidecar::value_variants().to_vec(),
            chosen => chosen.to_vec(),
        }
    }
}

/// A part of the benchmark.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Rates and times of the path of the data.
    Traffic,
    /// The plugin's part of ADD and DEL, and the resources of plugin and daemon.
    #[value(name = "control")]
    ControlPlane,
    /// The price of interception when Pods start, and when they end: the rules, or the plugin's call.
    PodStart,
    /// The time of each program, as the kernel counts it.
    Programs,
    /// Short connections with client ports used again.
    Churn,
    /// Memory of connections that are left open.
    Idle,
    /// The cost of many Pods, open connections, destinations and networks, step by step.
    Growth,
}

impl Part {
    /// Measures it. Returns failures of the removal.
    fn run(
        self,
        options: &Options,
        results: &mut Results,
        interrupt: &Interrupt,
    ) -> Result<Vec<String>> {
        match self {
            Self::Traffic => traffic::measure(options, results, interrupt),
            Self::ControlPlane => {
                results.control = Some(control_plane::measure(options, interrupt)?);
                Ok(Vec::new())
            }
            Self::PodStart => {
                results.pod_start = Some(pod_start::measure(options, interrupt)?);
                Ok(Vec::new())
            }
            Self::Programs => {
                let (programs, complaints) = programs::measure(options, interrupt)?;
                results.programs = Some(programs);
                Ok(complaints)
            }
            Self::Churn => {
                let (churn, complaints) = churn::measure(options, interrupt)?;
                results.churn = churn;
                Ok(complaints)
            }
            Self::Idle => {
                let (idle, complaints) = idle::measure(options, interrupt)?;
                results.idle = Some(idle);
                Ok(complaints)
            }
            Self::Growth => {
                results.growth = Some(growth::measure(options, interrupt)?);
                Ok(Vec::new())
            }
        }
    }
}

fn main() -> ExitCode {
    let Arguments { options, agent } = Arguments::parse();
    let outcome = match agent {
        Some(job) => job.run().map(|()| true),
        None => run(&options),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("sluice-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Measures, or reads what was measured, and writes the report.
fn run(options: &Options) -> Result<bool> {
    let (results, complaints) = if options.pooled.is_empty() {
        measure(options)?
    } else {
        let written = options.output.join(SAMPLES);
        for file in &options.pooled {
            let overwrites = (written.canonicalize())
                .is_ok_and(|written| file.canonicalize().is_ok_and(|file| file == written));
            ensure!(!overwrites, "--output would overwrite {}", file.display());
        }
        (Results::pooled(&options.pooled)?, Vec::new())
    };
    report(options, results)?;
    for complaint in &complaints {
        eprintln!("  {complaint}");
    }
    Ok(complaints.is_empty())
}

/// Measures. The other result are failures of the removal.
fn measure(options: &Options) -> Result<(Results, Vec<String>)> {
    ensure!(Uid::effective().is_root(), "needs root");
    let interrupt = Interrupt::install()?;
    let awake = NoIdle::keep()?;
    let mut results = Results::of_this_machine()?;
    results.setting.awake = awake.is_some();
    let mut complaints = Vec::new();
    for part in &options.parts {
        complaints.extend(part.run(options, &mut results, &interrupt)?);
    }
    Ok((results, complaints))
}

/// Writes the report, and prints it.
fn report(options: &Options, mut results: Results) -> Result<()> {
    thresholds::judge(&mut results);
    fs::create_dir_all(&options.output)?;
    let write = |name: &str, text: &str| fs::write(options.output.join(name), text);
    write(SAMPLES, &serde_json::to_string_pretty(&results)?)?;
    let markdown = table::markdown(&results);
    write("report.md", &markdown)?;
    for sidecar in options.sidecars() {
        let name = format!("{}.svg", sidecar.file());
        plot::draw(&results, sidecar, &options.output.join(name))?;
    }
    plot::draw_overview(&results, &options.output.join("overview.svg"))?;
    tail_plot::draw(&results.churn, &options.output.join("tail.svg"))?;
    if let Some(growth) = &results.growth {
        growth_plot::draw(growth, &options.output.join("growth.svg"))?;
    }
    println!("{markdown}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::iter::once;

    use sluice_testbed::workspace;

    use super::*;

    #[test]
    fn default_arguments_are_valid() {
        assert!(Arguments::try_parse_from(["sluice-bench"]).is_ok());
        assert!(Arguments::try_parse_from(["sluice-bench", "exec", "--", "true"]).is_ok());
    }

    #[test]
    fn pooled_runs_are_not_measured_and_never_overwritten() {
        let parse = |words: &str| {
            let words = once("sluice-bench").chain(words.split_whitespace());
            Arguments::try_parse_from(words).is_ok()
        };
        assert!(parse("--pool a,b --output c"));
        assert!(!parse("--pool a,b") && !parse("--pool a,b --output c --rounds 3"));
    }

    #[test]
    fn arguments_in_pages_and_makefile_are_valid() {
        let mut count = 0;
        for file in ["Makefile", "docs/benchmarks.md", "docs/development.md"] {
            let text = fs::read_to_string(workspace::root().join(file)).unwrap();
            for rest in text.split("BENCH='").skip(1) {
                let words = rest
                    .split('\'')
                    .next()
                    .unwrap_or_default()
                    .split_whitespace();
                let parsed = Arguments::try_parse_from(once("sluice-bench").chain(words));
                assert_eq!(parsed.err().map(|error| error.to_string()), None, "{file}");
                count += 1;
            }
        }
        assert!(count >= 3, "{count} lists of arguments");
    }
}
