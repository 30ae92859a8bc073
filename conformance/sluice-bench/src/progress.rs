//! The progress of a run, and the time that is left.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

/// How far a part of the benchmark is.
pub(super) struct Progress {
    begin: Instant,
    done: Cell<usize>,
    all: usize,
}

impl Progress {
    /// Of so many steps.
    pub(super) fn start(all: usize) -> Self {
        Self {
            begin: Instant::now(),
            done: 0.into(),
            all,
        }
    }

    /// One is done.
    pub(super) fn step(&self) {
        self.done.set(self.done.get() + 1);
    }

    /// The next step.
    pub(super) fn show(&self, what: &str) {
        let (done, all) = (self.done.get(), self.all);
        let left = left(self.begin.elapsed(), done, all);
        let left = left.map_or_else(String::new, |left| format!(", {} s left", left.as_secs()));
        eprint!("\r\x1b[K  {done}/{all}{left}  {what}");
    }
}

impl Drop for Progress {
    /// Leaves the line.
    fn drop(&mut self) {
        eprintln!();
    }
}

/// The time that is left, at the pace so far.
fn left(elapsed: Duration, done: usize, all: usize) -> Option<Duration> {
    let progress = elapsed.checked_div(u32::try_from(done).ok()?)?;
    Some(progress * u32::try_from(all.saturating_sub(done)).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_left_follows_the_pace() {
        let second = Duration::from_secs(1);
        assert_eq!(left(4 * second, 2, 5), Some(6 * second));
        assert_eq!(left(second, 0, 5), None);
    }
}
