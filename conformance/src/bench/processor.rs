//! Which processor does what.

use std::fs;

use anyhow::{Context as _, Result};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

/// Does something, and starts processes, on one processor alone.
pub(super) fn on_processor<T>(wanted: usize, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let own = Pid::from_raw(0);
    let before = sched_getaffinity(own)?;
    sched_setaffinity(own, &only(wanted)?)?;
    let done = work();
    sched_setaffinity(own, &before)?;
    done
}

/// Puts a process that runs, with all its threads, on one processor alone.
pub(super) fn bring_to(wanted: usize, process: u32) -> Result<()> {
    let only = only(wanted)?;
    for thread in fs::read_dir(format!("/proc/{process}/task"))? {
        let thread: i32 = thread?.file_name().to_string_lossy().parse()?;
        sched_setaffinity(Pid::from_raw(thread), &only)?;
    }
    Ok(())
}

/// Of those that this process may use; there may be fewer than wanted.
fn only(wanted: usize) -> Result<CpuSet> {
    let usable = sched_getaffinity(Pid::from_raw(0))?;
    let usable: Vec<usize> = (0..CpuSet::count())
        .filter(|cpu| usable.is_set(*cpu).unwrap_or(false))
        .collect();
    let cpu = usable.get(wanted % usable.len().max(1));
    let mut only = CpuSet::new();
    only.set(*cpu.context("no processor")?)?;
    Ok(only)
}
