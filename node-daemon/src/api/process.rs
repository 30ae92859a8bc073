//! Metrics of the daemon's own process, with the names that every Prometheus client library uses.

use std::sync::atomic::AtomicU64;

use procfs::{
    ProcResult, WithCurrentSystemInfo as _,
    process::{LimitValue, Process},
};
use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};

/// The values of one moment.
struct Usage {
    cpu_seconds: f64,
    resident_bytes: u64,
    virtual_bytes: u64,
    threads: i64,
    open_fds: usize,
    max_fds: u64,
    start_seconds: f64,
}

impl Usage {
    fn read() -> ProcResult<Self> {
        let process = Process::myself()?;
        let stat = process.stat()?;
        let seconds = |ticks: u64| float(ticks) / float(procfs::ticks_per_second());
        let max_fds = match process.limits()?.max_open_files.soft_limit {
            LimitValue::Value(value) => value,
            LimitValue::Unlimited => u64::MAX,
        };
        Ok(Self {
            cpu_seconds: seconds(stat.utime + stat.stime),
            resident_bytes: stat.rss_bytes().get(),
            virtual_bytes: stat.vsize,
            threads: stat.num_threads,
            open_fds: process.fd_count()?,
            max_fds,
            start_seconds: float(procfs::boot_time_secs()?) + seconds(stat.starttime),
        })
    }
}

/// Registers the values, unless procfs cannot be read.
pub(super) fn register(registry: &mut Registry) {
    let Ok(usage) = Usage::read() else { return };
    let cpu = Counter::<f64, AtomicU64>::default();
    cpu.inc_by(usage.cpu_seconds);
    registry.register("process_cpu_seconds", "User and system CPU time", cpu);
    for (name, help, value) in [
        (
            "process_resident_memory_bytes",
            "Resident memory size",
            float(usage.resident_bytes),
        ),
        (
            "process_virtual_memory_bytes",
            "Virtual memory size",
            float(usage.virtual_bytes),
        ),
        (
            "process_threads",
            "Number of threads",
            float(usage.threads.unsigned_abs()),
        ),
        (
            "process_open_fds",
            "Number of open file descriptors",
            float(usage.open_fds as u64),
        ),
        (
            "process_max_fds",
            "Limit of open file descriptors",
            float(usage.max_fds),
        ),
        (
            "process_start_time_seconds",
            "Start time of the process since 1970",
            usage.start_seconds,
        ),
    ] {
        let gauge = Gauge::<f64, AtomicU64>::default();
        gauge.set(value);
        registry.register(name, help, gauge);
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "metrics are floating-point numbers"
)]
fn float(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn usage_of_this_process_is_plausible() {
        let usage = Usage::read().unwrap();
        assert!(usage.resident_bytes > 1 << 20 && usage.virtual_bytes > usage.resident_bytes);
        assert!(usage.open_fds > 2 && usage.max_fds >= 64 && usage.threads > 0);
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs_f64(usage.start_seconds);
        let age = SystemTime::now().duration_since(start).unwrap_or_default();
        assert!(age < Duration::from_hours(2), "{age:?}");
    }
}
