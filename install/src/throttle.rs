//! How soon to mend again what somebody else keeps undoing.

use std::time::{Duration, Instant};

/// Mends in a row that are made at once.
const FREE: u32 = 5;
/// After such a time without one, a mend begins a new row.
const QUIET: Duration = Duration::from_secs(10);
/// The pauses double from the first to the longest.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(64);

/// Counts the mends.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    row: u32,
    last: Option<Instant>,
}

impl Throttle {
    /// Notes a mend.
    pub(crate) fn mended(&mut self, now: Instant) {
        let goes_on = self
            .last
            .is_some_and(|last| now < last + self.pause() + QUIET);
        self.row = if goes_on {
            self.row.saturating_add(1)
        } else {
            1
        };
        self.last = Some(now);
    }

    /// How long after the last mend the next may come.
    pub(crate) fn pause(&self) -> Duration {
        match self.row.checked_sub(FREE) {
            Some(doublings) => (FIRST * 2_u32.pow(doublings.min(6))).min(LONGEST),
            None => Duration::ZERO,
        }
    }

    /// When the next mend may come.
    pub(crate) fn next(&self, now: Instant) -> Instant {
        self.last.map_or(now, |last| now.max(last + self.pause()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_mends_come_at_once_and_a_row_of_them_slower_and_slower() {
        let mut throttle = Throttle::default();
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        for _ in 0..13 {
            throttle.mended(now);
            pauses.push(throttle.pause().as_secs());
            assert_eq!(throttle.next(now), now + throttle.pause());
            now = throttle.next(now);
        }
        assert_eq!(pauses, [0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 64, 64, 64]);
        // It is over when nobody has undone anything for longer than the pause.
        now += LONGEST + QUIET;
        throttle.mended(now);
        assert_eq!(throttle.next(now), now);
    }
}
