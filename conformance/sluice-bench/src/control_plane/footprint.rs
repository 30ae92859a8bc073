//! What plugin and daemon need: size, memory, instructions, time to start.

use std::{collections::BTreeMap, fs, process::Command, time::Instant};

use anyhow::{Context as _, Result};
use serde::Serialize;
use sluice_lab::{
    Binaries,
    backend::{Backend as _, sluice::Sluice},
};
use sluice_testbed::{cgroup::Cgroup, interrupt::Interrupt};
use tempfile::TempDir;

use crate::{
    check::{Bound, Check},
    control_plane::{Verb, node::Node},
    statistics::median,
};

/// How often each is tried. Odd.
const TRIES: usize = 5;
/// A small parent: at exec the kernel counts the memory of the program before.
const TIME: &str = "/usr/bin/time";
const PERF: &str = "/usr/bin/perf";

/// All of it.
#[derive(Debug, Default, Serialize)]
pub(super) struct Footprint {
    plugin_bytes: u32,
    /// The most that was resident during an ADD.
    plugin_kib: f64,
    /// In user mode, of an ADD, where the processor lets itself be asked.
    plugin_instructions: Option<f64>,
    /// From the start of the daemon until it serves.
    start_millis: f64,
    /// Resident memory, by Pods on the node.
    daemon_kib: BTreeMap<u16, u64>,
}

impl Footprint {
    /// Measures.
    pub(super) fn of(node: &Node, binaries: &Binaries, interrupt: &Interrupt) -> Result<Self> {
        Ok(Self {
            plugin_bytes: fs::metadata(&binaries.sluice_cni)?.len().try_into()?,
            plugin_kib: tried(|| resident(node))?.context("no peak memory reported")?,
            plugin_instructions: tried(|| instructions(node))?,
            start_millis: tried(|| start(binaries, interrupt).map(Some))?.context("no start")?,
            daemon_kib: node.daemons()?,
        })
    }

    /// Its promised limits.
    pub(super) fn checks(&self) -> [Check; 2] {
        let bytes = f64::from(self.plugin_bytes);
        let judge = |figure, limit, bytes: f64| {
            let promise = ["sluice-cni", "one ADD", figure];
            Check::exact(promise, Bound::AtMost(limit), " MB", bytes / 1e6)
        };
        [
            judge("size of the binary", 2.0, bytes),
            judge("resident memory", 4.0, self.plugin_kib * 1024.0),
        ]
    }

    /// In words.
    pub(super) fn text(&self) -> String {
        let Self {
            plugin_bytes,
            plugin_kib,
            plugin_instructions,
            start_millis,
            daemon_kib,
        } = self;
        let instructions = plugin_instructions.map_or_else(
            || "no instructions counted, for lack of a hardware counter".to_owned(),
            |count| format!("{count} instructions in user mode"),
        );
        let daemon: Vec<_> = daemon_kib
            .iter()
            .map(|(pods, kib)| format!("{kib} KiB with {pods} Pods"))
            .collect();
        format!(
            "\nsluice-cni: {plugin_bytes} bytes; an ADD: at most {plugin_kib} KiB resident, \
             {instructions}. sluiced: serves {start_millis:.0} ms after its start (looked at every \
             10 ms); resident {}. Medians of {TRIES}.",
            daemon.join(", ")
        )
    }
}

/// The median of some tries; nothing if one gave nothing.
fn tried(mut once: impl FnMut() -> Result<Option<f64>>) -> Result<Option<f64>> {
    let tries: Option<Vec<_>> = (0..TRIES).map(|_| once()).collect::<Result<_>>()?;
    Ok(tries.and_then(|tries| median(&tries)))
}

/// The peak of resident memory from wait4(2), in KiB.
fn resident(node: &Node) -> Result<Option<f64>> {
    let said = launched(node, TIME, &["-f", "%M"])?;
    Ok(said.trim().parse().ok())
}

fn instructions(node: &Node) -> Result<Option<f64>> {
    let said = launched(node, PERF, &["stat", "-x,", "-e", "instructions:u"])?;
    Ok(counted(&said))
}

/// perf-stat(1), CSV: the first field of a line is the count, or why there is none.
fn counted(said: &str) -> Option<f64> {
    let line = said.lines().find(|line| line.contains("instructions"))?;
    line.split(',').next()?.parse().ok()
}

/// The report about an ADD, in the file of `-o`, by the program that starts the plugin.
fn launched(node: &Node, program: &str, arguments: &[&str]) -> Result<String> {
    let said = node.file("said");
    let mut launcher = Command::new(program);
    launcher.args(arguments).arg("-o").arg(&said);
    node.plugin(0, Some(launcher), Verb::Add)
        .with_context(|| format!("ADD by {program}"))?;
    node.plugin(0, None, Verb::Del)?;
    Ok(fs::read_to_string(said)?)
}

/// Starts a daemon on a node without Pods. Milliseconds until it is ready.
fn start(binaries: &Binaries, interrupt: &Interrupt) -> Result<f64> {
    let directory = TempDir::with_prefix("sluice-start-")?;
    let name = directory.path().file_name().unwrap_or_default();
    let cgroup = Cgroup::create(&name.to_string_lossy())?;
    let begin = Instant::now();
    let sluice = Sluice::start(binaries, directory.path(), cgroup.path(), "", interrupt)?;
    let took = begin.elapsed();
    Box::new(sluice).stop()?;
    cgroup.remove()?;
    Ok(took.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_that_is_missing_counts_nothing() {
        let line = "# started on Mon\n\n1234567,,instructions:u,900000,100.00,,\n";
        assert_eq!(counted(line), Some(1_234_567.0));
        let line = "<not supported>,,instructions:u,0,100.00,,\n";
        assert_eq!(counted(line), None);
    }

    #[test]
    fn footprint_limits_are_in_megabytes() {
        let footprint = Footprint {
            plugin_bytes: 2_000_001,
            plugin_kib: 3_900.0,
            ..Footprint::default()
        };
        assert_eq!(footprint.checks().map(|check| check.met), [false, true]);
    }
}
