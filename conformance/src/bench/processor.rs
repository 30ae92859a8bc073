//! Which processor does what.

use anyhow::{Context as _, Result};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

/// Does something, and starts processes, on one processor alone.
pub(super) fn on_processor<T>(wanted: usize, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let own = Pid::from_raw(0);
    let before = sched_getaffinity(own)?;
    let usable: Vec<usize> = (0..CpuSet::count())
        .filter(|cpu| before.is_set(*cpu).unwrap_or(false))
        .collect();
    let cpu = usable.get(wanted % usable.len().max(1));
    let mut only = CpuSet::new();
    only.set(*cpu.context("no processor")?)?;
    sched_setaffinity(own, &only)?;
    let done = work();
    sched_setaffinity(own, &before)?;
    done
}
