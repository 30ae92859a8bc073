//! Standard error as the destination of the log: a reader that stalls must not stop the daemon.
//!
//! A pipe holds 64 KiB. A write to a full pipe blocks, and with it the thread that owns the Pods. So a
//! line is written only if the descriptor accepts it at once; other lines are dropped and counted.

use std::{
    io::{self, Write, stderr},
    os::fd::AsFd as _,
    sync::atomic::{AtomicU64, Ordering},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing::warn;

/// The number of bytes that a pipe accepts without blocking when poll(2) reports it as writable
/// (`PIPE_BUF`, pipe(7)).
const ATOMIC: usize = 4096;

/// Lines, or rests of lines, that were dropped.
static DROPPED: AtomicU64 = AtomicU64::new(0);
/// The number of them that the log has reported.
static REPORTED: AtomicU64 = AtomicU64::new(0);

/// The number of dropped lines since the start.
pub(crate) fn dropped_lines() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// Logs how many lines were dropped since the last report.
pub(crate) fn report_dropped_lines() {
    let now = dropped_lines();
    let lines = now - REPORTED.swap(now, Ordering::Relaxed);
    if lines > 0 {
        warn!(
            lines,
            "log lines dropped: the reader of standard error stalled"
        );
    }
}

/// Standard error. Lines that would block are dropped.
pub(super) struct LossyStderr;

impl Write for LossyStderr {
    fn write(&mut self, rest: &[u8]) -> io::Result<usize> {
        // Another thread must not fill the pipe between the question and the write.
        let mut stderr = stderr().lock();
        let mut polled = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
        if poll(&mut polled, PollTimeout::ZERO) == Ok(0) {
            DROPPED.fetch_add(1, Ordering::Relaxed);
            return Ok(rest.len());
        }
        stderr.write(&rest[..rest.len().min(ATOMIC)])
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
