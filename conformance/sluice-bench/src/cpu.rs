//! Processors: affinity, weights, and no idle states during a measurement.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};
use sluice_testbed::agent::ExecContext;

/// The file that limits the wake-up time of processors.
const LATENCY: &str = "/dev/cpu_dma_latency";
/// The driver that puts idle processors to sleep; without one, requests have no effect.
const DRIVER: &str = "/sys/devices/system/cpu/cpuidle/current_driver";

const NICE: &str = "/usr/bin/nice";

/// As long as it lives, idle processors poll for work.
///
/// A virtual machine's processor that sleeps is left to the host, and comes back after longer than
/// most of what is measured takes; how long, and how often, is the host's affair.
pub(super) struct NoIdle {
    _request: File,
}

impl NoIdle {
    /// Asks for a latency of 0 µs (`Documentation/power/pm_qos_interface.rst`). The kernel forgets it
    /// when the file is closed. `None` if processors sleep whatever is asked.
    pub(super) fn keep() -> Result<Option<Self>> {
        let driver = fs::read_to_string(DRIVER).unwrap_or_default();
        if matches!(driver.trim(), "" | "none") {
            return Ok(None);
        }
        let request = || {
            let mut request = OpenOptions::new().write(true).open(LATENCY)?;
            request.write_all(&0_i32.to_ne_bytes())?;
            Ok(Self { _request: request })
        };
        let asked: io::Result<_> = request();
        asked.map(Some).context(LATENCY)
    }
}

/// Does something, and starts processes, on one processor alone.
pub(super) fn on_cpu<T>(wanted: usize, work: impl FnOnce() -> Result<T>) -> Result<T> {
    on_cpu_or_any(Some(wanted), work)
}

/// Does something, and starts processes, on one processor alone, or on any.
pub(super) fn on_cpu_or_any<T>(
    wanted: Option<usize>,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let own = Pid::from_raw(0);
    let before = sched_getaffinity(own)?;
    sched_setaffinity(own, &cpus(wanted)?)?;
    let done = work();
    sched_setaffinity(own, &before)?;
    done
}

/// A command that has a tenth of the weight of others where they want the same processor: what a sidecar
/// that requests 100 millicores, Istio's default, has on a Kubernetes node beside an application that
/// requests a processor.
///
/// With equal weights the scheduler lets the sidecar serve its whole queue before the application runs,
/// or not, as it comes; two processors then wait for each other in turns, and what is measured is that.
pub(super) fn niced(place: ExecContext<'_>, program: &Path) -> Result<Command> {
    let mut command = place.command(Path::new(NICE))?;
    command.arg("--adjustment=10").arg(program);
    Ok(command)
}

/// Puts a process that runs, with all its threads, on one processor alone, or on any.
pub(super) fn pin(wanted: Option<usize>, process: u32) -> Result<()> {
    let cpus = cpus(wanted)?;
    for thread in fs::read_dir(format!("/proc/{process}/task"))? {
        let thread: i32 = thread?.file_name().to_string_lossy().parse()?;
        sched_setaffinity(Pid::from_raw(thread), &cpus)?;
    }
    Ok(())
}

/// The wanted one of the processors that this process may use, or all of them. The number wraps if there are fewer.
fn cpus(wanted: Option<usize>) -> Result<CpuSet> {
    let usable = sched_getaffinity(Pid::from_raw(0))?;
    let Some(wanted) = wanted else {
        return Ok(usable);
    };
    let usable: Vec<usize> = (0..CpuSet::count())
        .filter(|cpu| usable.is_set(*cpu).unwrap_or(false))
        .collect();
    let cpu = usable.get(wanted % usable.len().max(1));
    let mut only = CpuSet::new();
    only.set(*cpu.context("no processor")?)?;
    Ok(only)
}
