//! The rate limit of accelerated connections.

use crate::{Endpoint, RateWindow};

/// Key of `conn_rate`: the network namespace of a client, and its destination.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ConnRateKey {
    /// Cookie of the network namespace of the connecting socket.
    pub cookie: u64,
    /// The destination.
    pub to: Endpoint,
    /// Always zero: keeps the size a multiple of the alignment.
    pub pad: u32,
}

/// The most connections to one destination that are accelerated in one second.
pub const MAX_NEW_CONNS_PER_SEC: u64 = 256;
/// The limit in the second after an exceeded one. It detects the end of the burst.
const PROBE_CONNS_PER_SEC: u64 = 8;
/// A connection that ends sooner is short-lived, in nanoseconds.
const SHORT_NANOS: u64 = 1_000_000_000;
/// The number that the end of a short-lived connection adds: after 16 of them the limit is reached. Fewer, such
/// as a probe before the connections of a pool, leave most of it.
const SHORT_CONN_COUNT: u64 = MAX_NEW_CONNS_PER_SEC / 16;

impl ConnRateKey {
    /// Counts one more connection in a second, if the limit permits it.
    #[must_use]
    pub const fn try_acquire(window: RateWindow, second: u64) -> Option<RateWindow> {
        let too_many = window.count >= MAX_NEW_CONNS_PER_SEC && second == window.second + 1;
        let begun = if too_many {
            RateWindow {
                second,
                count: MAX_NEW_CONNS_PER_SEC - PROBE_CONNS_PER_SEC,
            }
        } else {
            window
        };
        begun.try_acquire(second, MAX_NEW_CONNS_PER_SEC)
    }

    /// Whether an accelerated connection that ends was short-lived. Both times are nanoseconds of the
    /// monotonic clock.
    #[must_use]
    pub const fn is_short(begin: u64, end: u64) -> bool {
        end.saturating_sub(begin) < SHORT_NANOS
    }

    /// Counts the end of a short-lived connection, in the second of the last connection.
    #[must_use]
    pub const fn with_short(window: RateWindow) -> RateWindow {
        let count = window.count.saturating_add(SHORT_CONN_COUNT);
        let count = if count > MAX_NEW_CONNS_PER_SEC {
            MAX_NEW_CONNS_PER_SEC
        } else {
            count
        };
        RateWindow { count, ..window }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number of accelerated connections out of `made` in one second.
    fn accelerated(window: &mut RateWindow, second: u64, made: u64) -> usize {
        let one = |_: &u64| {
            let more = ConnRateKey::try_acquire(*window, second);
            *window = more.unwrap_or(*window);
            more.is_some()
        };
        (0..made).filter(one).count()
    }

    /// So many accelerated connections in one second, each of which ends at once.
    fn end_at_once(window: &mut RateWindow, second: u64, made: usize) {
        assert_eq!(accelerated(window, second, made as u64), made);
        for _ in 0..made {
            *window = ConnRateKey::with_short(*window);
        }
    }

    #[test]
    fn conn_rate_limit_persists_across_seconds() {
        let mut window = RateWindow::default();
        let seconds = [(10, 1000), (11, 1000), (12, 1000), (13, 3), (14, 100)];
        let counts = seconds.map(|(second, made)| accelerated(&mut window, second, made));
        assert_eq!(counts, [256, 8, 8, 3, 100]);
        assert_eq!(accelerated(&mut window, 14, 200), 156);
        // A second without connections also ends the burst.
        assert_eq!(accelerated(&mut window, 16, 100), 100);
    }

    #[test]
    fn short_lived_connections_reach_the_limit_early() {
        let mut window = RateWindow::default();
        end_at_once(&mut window, 10, 16);
        assert_eq!(accelerated(&mut window, 10, 4), 0);
        // One of the next second's is short-lived again.
        end_at_once(&mut window, 11, 1);
        assert_eq!(accelerated(&mut window, 11, 4), 0);
        // A second without connections ends it.
        assert_eq!(accelerated(&mut window, 13, 100), 100);
    }

    #[test]
    fn some_short_lived_connections_leave_room_for_a_pool() {
        let mut window = RateWindow::default();
        end_at_once(&mut window, 10, 4);
        assert_eq!(accelerated(&mut window, 10, 128), 128);
    }

    #[test]
    fn connections_of_less_than_a_second_are_short_lived() {
        assert!(ConnRateKey::is_short(5, 1_000_000_004));
        assert!(!ConnRateKey::is_short(5, 1_000_000_005));
        assert!(ConnRateKey::is_short(7, 5));
    }
}
