//! Restarts and crashes of the daemon while real proxies carry real traffic: nothing may fail, and
//! no connection may bypass the proxies.

use std::{
    io::IsTerminal as _,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use nix::{sys::signal::Signal, unistd::Uid};
use serde::Serialize;
use serde_json::Value;
use sluice_lab::{Binaries, CLIENT, Lab, backend::BackendKind, bpf_objects::BpfObjects};
use sluice_testbed::{
    agent::load_gen::LoadResult, interrupt::Interrupt, process::Process, terminal::step,
};

use crate::demo::{PODS, row::APP};

/// For connections to be opened before the first event.
const CALM: Duration = Duration::from_secs(2);
/// Between two events.
const PAUSE: Duration = Duration::from_millis(900);

/// How much of it.
#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    binaries: Binaries,
    /// Restarts of the daemon by SIGTERM.
    #[arg(long, default_value_t = 20)]
    restarts: u32,
    /// How often the daemon is killed, and started again.
    #[arg(long, default_value_t = 10)]
    kills: u32,
    /// Connections that stay open all the time.
    #[arg(long, default_value_t = 200)]
    open: u32,
    /// New connections a second.
    #[arg(long, default_value_t = 500)]
    rate: u32,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

/// The outcome.
#[derive(Serialize)]
struct Report {
    passed: bool,
    restarts: u32,
    kills: u32,
    /// Restarts after which the kernel had other programs at its hooks than before: every second time the daemon
    /// does not recognize them, as after an upgrade.
    programs_replaced: Absences,
    /// Restarts after which the next daemon had adopted the programs.
    programs_adopted: Absences,
    /// Open connections that the daemon's audit found past a proxy.
    bypassing: Vec<Value>,
    traffic: LoadResult,
    left_behind: Vec<String>,
}

/// The times without a daemon, from the signal until the next one was ready.
#[derive(Serialize)]
struct Absences {
    count: usize,
    median_millis: f64,
    longest_millis: f64,
}

impl Absences {
    fn of(mut millis: Vec<f64>) -> Self {
        millis.sort_unstable_by(f64::total_cmp);
        Self {
            count: millis.len(),
            median_millis: millis.get(millis.len() / 2).copied().unwrap_or_default(),
            longest_millis: millis.last().copied().unwrap_or_default(),
        }
    }
}

/// Whether nothing failed.
pub(crate) fn run(options: &Options) -> Result<bool> {
    ensure!(Uid::effective().is_root(), "needs root");
    let interrupt = Interrupt::install()?;
    let binaries = options.binaries.resolve()?;
    let mut lab = step("making the node", || {
        Lab::create(binaries, BackendKind::Sluice, &interrupt)
    })?;
    let outcome = disturb(&mut lab, options, &interrupt);
    let left_behind = step("removing everything", || lab.remove());
    let mut report = outcome?;
    report.left_behind = left_behind;
    let LoadResult {
        kept,
        opened,
        bypassed,
        failed,
        seconds,
        ..
    } = report.traffic;
    // Half of the rate at least: a machine that cannot keep up shows nothing.
    let due = seconds * f64::from(options.rate) / 2.0;
    let busy = u32::try_from(opened).is_ok_and(|opened| f64::from(opened) >= due);
    let daemons = (report.restarts + report.kills) as usize;
    report.passed = failed == 0
        && bypassed == 0
        && report.bypassing.is_empty()
        && kept == u64::from(options.open)
        && busy
        && report.programs_replaced.count == daemons.div_ceil(2)
        && report.programs_adopted.count == daemons / 2
        && report.left_behind.is_empty();
    show(&report, options.json)?;
    Ok(report.passed)
}

fn disturb(lab: &mut Lab, options: &Options, interrupt: &Interrupt) -> Result<Report> {
    step("adding the Pods", || {
        PODS[..2].iter().try_for_each(|plan| lab.add(*plan))
    })?;
    step("starting proxies and applications", || {
        lab.pods.iter_mut().try_for_each(|pod| pod.wait(interrupt))
    })?;
    let mut load = start_load(lab, options)?;
    pause(CALM, interrupt)?;
    let mut signals = vec![Signal::SIGTERM; options.restarts as usize];
    for kill in 0..options.kills as usize {
        // Among the restarts, not after them.
        signals.insert((kill * 3 + 1).min(signals.len()), Signal::SIGKILL);
    }
    let (mut replaced, mut adopted) = (Vec::new(), Vec::new());
    for (number, signal) in signals.iter().enumerate() {
        progress(number + 1, signals.len(), *signal);
        let before = lab.backend.bpf_objects()?;
        if number % 2 == 0 {
            lab.backend.forget_programs()?;
        }
        let begin = Instant::now();
        lab.backend.restart(*signal, interrupt)?;
        let away = begin.elapsed().as_secs_f64() * 1e3;
        let after = lab.backend.bpf_objects()?;
        if programs_differ(&before, &after) {
            replaced.push(away);
        } else if before.programs() == after.programs() {
            adopted.push(away);
        }
        load.check()?;
        pause(PAUSE, interrupt)?;
    }
    // The connections are open, and some are older than the daemon.
    let bypassing = lab.backend.audit()?;
    load.end(Signal::SIGTERM)?;
    let log = load.log();
    let last = log.lines().last().context("the load said nothing")?;
    Ok(Report {
        passed: false,
        restarts: options.restarts,
        kills: options.kills,
        programs_replaced: Absences::of(replaced),
        programs_adopted: Absences::of(adopted),
        bypassing,
        traffic: serde_json::from_str(last)?,
        left_behind: Vec::new(),
    })
}

/// Clients in the first Pod that call the second one, over IPv4 and IPv6.
fn start_load(lab: &Lab, options: &Options) -> Result<Process> {
    let [from, to] = &lab.pods[..] else {
        anyhow::bail!("two Pods are needed");
    };
    let place = lab.place(from, CLIENT);
    let mut command = place.own()?;
    command.args(["load-gen", "--open", &options.open.to_string()]);
    command.args(["--rate", &options.rate.to_string(), "--seconds", "180"]);
    for v4 in [true, false] {
        let at = SocketAddr::new(to.address(v4)?, APP);
        command.args(["--to", &at.to_string()]);
    }
    Process::start("the load", &mut command, &lab.file("load.log"))
}

fn programs_differ(before: &BpfObjects, after: &BpfObjects) -> bool {
    let (before, after) = (before.programs(), after.programs());
    !after.is_empty() && before.is_disjoint(&after)
}

fn pause(time: Duration, interrupt: &Interrupt) -> Result<()> {
    let end = Instant::now() + time;
    while Instant::now() < end {
        interrupt.check()?;
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn progress(number: usize, of: usize, signal: Signal) {
    if std::io::stderr().is_terminal() {
        eprint!("\r{number} of {of}: {signal}   ");
    }
}

fn show(report: &Report, json: bool) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(report)?);
        return Ok(());
    }
    let Report {
        passed,
        restarts,
        kills,
        programs_replaced,
        programs_adopted,
        bypassing,
        traffic,
        left_behind,
    } = report;
    println!(
        "\n  {restarts} restarts and {kills} kills of the daemon in {:.0} s",
        traffic.seconds
    );
    for (done, absences) in [
        ("adopted", programs_adopted),
        ("replaced", programs_replaced),
    ] {
        let Absences {
            count,
            median_millis: median,
            longest_millis: longest,
        } = absences;
        println!(
            "  {count} times the programs were {done}: {median:.0} ms without a daemon (median; {longest:.0} ms at most)"
        );
    }
    println!(
        "  {} connections kept, with {} requests",
        traffic.kept, traffic.requests
    );
    println!("  {} connections opened", traffic.opened);
    println!(
        "  {} failed or reset, {} bypassed a proxy",
        traffic.failed, traffic.bypassed
    );
    println!("  {} findings of the daemon's audit", bypassing.len());
    for failure in traffic.failures.iter().chain(left_behind) {
        println!("    {failure}");
    }
    println!("{}", if *passed { "passed" } else { "FAILED" });
    Ok(())
}
