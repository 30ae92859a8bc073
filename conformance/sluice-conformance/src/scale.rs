//! Many Pods on one node: the cost of the last ADD, and the resources of the daemon.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Args;
use nix::{sys::signal::Signal, unistd::Uid};
use serde::Serialize;
use sluice_lab::{
    Binaries,
    backend::{
        Backend,
        sluice::{MEMORY, Sluice},
    },
};
use sluice_testbed::{
    bulk_netns::BulkNetns, cgroup::Cgroup, interrupt::Interrupt, process::footprint, terminal::step,
};

/// Restarts, whose median is reported. Odd.
const RESTARTS: u32 = 5;
/// Pods at either end whose medians are compared.
const ENDS: usize = 50;

/// How many.
#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    binaries: Binaries,
    /// Pods on the node.
    #[arg(long, default_value_t = 500)]
    pods: u16,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

/// The measurements. Times are in milliseconds.
#[derive(Serialize)]
struct Report {
    pods: u16,
    /// Median ADD of the first Pods, of the last ones, and their ratio.
    add_first: f64,
    add_last: f64,
    add_ratio: f64,
    /// Median DEL.
    del: f64,
    /// From the start of a daemon until it serves, with every Pod taken over: median.
    takeover: f64,
    /// Resident memory of the daemon in KiB, without Pods and with all.
    rss_empty_kib: u64,
    rss_kib: u64,
    /// Descriptors that the daemon has open, without Pods and with all.
    descriptors_empty: usize,
    descriptors: usize,
}

/// Measures, and prints.
pub(crate) fn run(options: &Options) -> Result<bool> {
    ensure!(Uid::effective().is_root(), "needs root");
    let interrupt = Interrupt::install()?;
    let binaries = options.binaries.resolve()?;
    let name = format!("sluice-scale-{}", std::process::id());
    let directory = tempfile::TempDir::with_prefix_in(format!("{name}-"), MEMORY)?;
    let cgroup = Cgroup::create(&name)?;
    let pods = step("making the namespaces", || {
        BulkNetns::make(name, options.pods, &interrupt)
    })?;
    let mut sluice = Sluice::start(&binaries, directory.path(), cgroup.path(), "", &interrupt)?;
    let report = measure(&mut sluice, &pods, &interrupt)?;
    Box::new(sluice).stop()?;
    drop(pods);
    cgroup.remove()?;
    show(&report, options.json)?;
    Ok(true)
}

fn measure(sluice: &mut Sluice, pods: &BulkNetns, interrupt: &Interrupt) -> Result<Report> {
    let (rss_empty_kib, descriptors_empty) = footprint(sluice.pid()?)?;
    let entry = sluice.entry().context("an entry")?;
    let plugin = sluice.plugin().context("a plugin")?;
    let call = |verb| pods.all(&plugin, &entry, verb, interrupt);
    let adds = step("adding the Pods", || call("ADD"))?;
    let (rss_kib, descriptors) = footprint(sluice.pid()?)?;
    let takeovers = step("restarting the daemon", || {
        let restart = |_| {
            let begin = Instant::now();
            sluice.restart(Signal::SIGKILL, interrupt)?;
            Ok(begin.elapsed().as_secs_f64() * 1e3)
        };
        (0..RESTARTS).map(restart).collect::<Result<Vec<_>>>()
    })?;
    let dels = step("deleting the Pods", || call("DEL"))?;
    let ends = ENDS.min(adds.len());
    let (add_first, add_last) = (median(&adds[..ends]), median(&adds[adds.len() - ends..]));
    Ok(Report {
        pods: pods.count(),
        add_first,
        add_last,
        add_ratio: add_last / add_first,
        del: median(&dels),
        takeover: median(&takeovers),
        rss_empty_kib,
        rss_kib,
        descriptors_empty,
        descriptors,
    })
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

fn show(report: &Report, json: bool) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(report)?);
        return Ok(());
    }
    let Report {
        pods,
        add_first,
        add_last,
        add_ratio,
        del,
        takeover,
        rss_empty_kib,
        rss_kib,
        descriptors_empty,
        descriptors,
    } = report;
    println!("  {pods} Pods");
    println!(
        "  ADD {add_first:.2} ms for the first, {add_last:.2} ms for the last: {add_ratio:.2}×"
    );
    println!("  DEL {del:.2} ms");
    println!("  takeover of all Pods by the next daemon {takeover:.0} ms");
    println!("  daemon's memory {rss_empty_kib} KiB without Pods, {rss_kib} KiB with all");
    println!("  descriptors {descriptors_empty} without Pods, {descriptors} with all");
    Ok(())
}
