//! The rate limit of log lines that unprivileged users can cause.

use std::time::{Duration, Instant};

/// The length of the window.
const WINDOW: Duration = Duration::from_mins(1);
/// The number of lines in a window.
const LINES: u32 = 20;

/// Passes a bounded number of lines in each minute, and counts the others.
#[derive(Debug)]
pub(crate) struct LogLimit {
    begin: Instant,
    written: u32,
    dropped: u64,
}

impl Default for LogLimit {
    fn default() -> Self {
        Self {
            begin: Instant::now(),
            written: 0,
            dropped: 0,
        }
    }
}

impl LogLimit {
    /// Whether a line may be logged now: `Some` with the number of lines dropped before it.
    pub(crate) fn pass(&mut self) -> Option<u64> {
        self.pass_at(Instant::now())
    }

    fn pass_at(&mut self, now: Instant) -> Option<u64> {
        if now.saturating_duration_since(self.begin) >= WINDOW {
            self.begin = now;
            self.written = 0;
        }
        if self.written == LINES {
            self.dropped += 1;
            return None;
        }
        self.written += 1;
        Some(std::mem::take(&mut self.dropped))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn limit_passes_lines_and_reports_dropped_ones_in_the_next_window() {
        let mut limit = LogLimit::default();
        let begin = limit.begin;
        for _ in 0..LINES {
            assert_eq!(limit.pass_at(begin), Some(0));
        }
        for _ in 0..7 {
            assert_eq!(limit.pass_at(begin + WINDOW / 2), None);
        }
        assert_eq!(limit.pass_at(begin + WINDOW), Some(7));
        assert_eq!(limit.pass_at(begin + WINDOW), Some(0));
    }

    proptest! {
        #[test]
        fn every_line_is_written_or_counted(steps in prop::collection::vec(0_u64..30, 0..300)) {
            let mut limit = LogLimit::default();
            let mut now = limit.begin;
            let (mut written, mut counted) = (0, 0);
            for step in &steps {
                now += Duration::from_secs(*step);
                if let Some(dropped) = limit.pass_at(now) {
                    written += 1;
                    counted += dropped;
                }
            }
            prop_assert_eq!(written + counted + limit.dropped, steps.len() as u64);
            let minutes = now.duration_since(limit.begin).as_secs() / 60 + steps.iter().sum::<u64>() / 60 + 1;
            prop_assert!(written <= minutes * u64::from(LINES));
        }
    }
}
