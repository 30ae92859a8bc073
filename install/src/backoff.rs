//! The pause between repairs that another program keeps reverting.

use std::time::{Duration, Instant};

/// Number of consecutive repairs without a pause.
const FREE_RETRIES: u32 = 5;
/// A repair after this time without one starts a new streak.
const RESET_AFTER: Duration = Duration::from_secs(10);
/// The pauses double from the first to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(64);

/// Counts consecutive repairs.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    streak: u32,
    last: Option<Instant>,
}

impl Backoff {
    /// Records a repair.
    pub(crate) fn record(&mut self, now: Instant) {
        let continues = self
            .last
            .is_some_and(|last| now < last + self.pause() + RESET_AFTER);
        self.streak = if continues {
            self.streak.saturating_add(1)
        } else {
            1
        };
        self.last = Some(now);
    }

    /// The minimum time between the last repair and the next.
    pub(crate) fn pause(&self) -> Duration {
        match self.streak.checked_sub(FREE_RETRIES) {
            Some(doublings) => (FIRST_PAUSE * 2_u32.pow(doublings.min(6))).min(MAX_PAUSE),
            None => Duration::ZERO,
        }
    }

    /// The earliest time of the next repair.
    pub(crate) fn next(&self, now: Instant) -> Instant {
        self.last.map_or(now, |last| now.max(last + self.pause()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_grows_with_the_streak() {
        let mut backoff = Backoff::default();
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        for _ in 0..13 {
            backoff.record(now);
            pauses.push(backoff.pause().as_secs());
            assert_eq!(backoff.next(now), now + backoff.pause());
            now = backoff.next(now);
        }
        assert_eq!(pauses, [0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 64, 64, 64]);
        // A quiet period longer than the pause ends the streak.
        now += MAX_PAUSE + RESET_AFTER;
        backoff.record(now);
        assert_eq!(backoff.next(now), now);
    }
}
