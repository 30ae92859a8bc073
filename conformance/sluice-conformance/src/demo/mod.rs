//! The demonstration: build the lab, make every call, remove the lab, judge.

mod report;
pub(crate) mod row;
mod table;

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;
use nix::unistd::Uid;
use sluice_lab::{Binaries, Lab, backend::BackendKind, bpf_objects::BpfObjects};
use sluice_testbed::{interrupt::Interrupt, terminal::step};

use report::{Report, Sink};
pub(crate) use table::{CASES, PODS};

/// Odd, so that the median is one of them.
const TIMED: u32 = 21;
/// The Pod whose address is there for timing the plugin.
const TIMED_POD: &str = "plain";
const CONNTRACK: &str = "/proc/sys/net/netfilter/nf_conntrack_count";

/// The rows of the demo, and the backend.
#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    binaries: Binaries,
    /// The backend that redirects the traffic.
    #[arg(long, value_enum, default_value = "sluice")]
    backend: BackendKind,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

/// Whether everything was as it should be.
pub(crate) fn run(options: &Options) -> Result<bool> {
    ensure!(
        Uid::effective().is_root(),
        "needs root, to make namespaces and load BPF programs"
    );
    let interrupt = Interrupt::install()?;
    let binaries = options.binaries.resolve()?;
    let sink = Sink::new(options.json);
    let mut report = Report::new()?;

    let mut bpf_objects = BpfObjects::default();
    match step("making the node", || {
        Lab::create(binaries, options.backend, &interrupt)
    }) {
        Ok(mut lab) => {
            let outcome = fill(&mut lab, &mut report, &sink, &interrupt);
            report.failure = outcome.err().map(|error| format!("{error:#}"));
            bpf_objects = lab.backend.bpf_objects()?;
            report.left_behind = step("removing everything", || lab.remove());
        }
        Err(error) => report.failure = Some(format!("{error:#}")),
    }
    report.bpf_objects = bpf_objects.count();
    // A wait of its own: an interrupt must not keep the removal from being checked.
    let left = bpf_objects.wait_gone(&Interrupt::never())?;
    report.left_behind.extend(left);
    report.judge();
    sink.end(&report)?;
    Ok(report.passed)
}

fn fill(lab: &mut Lab, report: &mut Report, sink: &Sink, interrupt: &Interrupt) -> Result<()> {
    add_pods(lab, interrupt)?;
    sink.picture(lab);
    for case in CASES {
        interrupt.check()?;
        let row = step(case.name, || case.run(lab, interrupt))?;
        sink.row(&row);
        report.rows.push(row);
    }
    let untracked = lab
        .pods
        .iter()
        .filter(|_| !lab.backend.tracks_connections());
    for pod in untracked {
        let count = pod.netns.read(CONNTRACK)?;
        report
            .conntrack
            .insert(pod.spec.name.to_owned(), count.trim().parse().unwrap_or(0));
    }
    let mut took = step("timing the plugin", || lab.time_add(TIMED_POD, TIMED))?;
    took.sort();
    report.add_millis = took
        .get(took.len() / 2)
        .map(Duration::as_secs_f64)
        .map(|s| s * 1e3);
    Ok(())
}

/// The Pods of the demonstration, with their processes.
pub(crate) fn add_pods(lab: &mut Lab, interrupt: &Interrupt) -> Result<()> {
    step("adding the Pods", || {
        for spec in PODS {
            interrupt.check()?;
            lab.add(*spec)?;
        }
        Ok::<_, anyhow::Error>(())
    })?;
    step("starting proxies and applications", || {
        lab.pods.iter_mut().try_for_each(|pod| pod.wait(interrupt))
    })
}
