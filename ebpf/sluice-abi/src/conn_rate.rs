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

/// Connections to one destination that are accelerated in one second. Higher rates imply short-lived
/// connections, which do not recover the cost of their map entries.
pub const MAX_NEW_CONNS_PER_SEC: u64 = 128;
/// The limit in the second after an exceeded one. It detects the end of the burst.
const PROBE_CONNS_PER_SEC: u64 = 8;

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

    #[test]
    fn conn_rate_limit_persists_across_seconds() {
        let mut window = RateWindow::default();
        let seconds = [(10, 1000), (11, 1000), (12, 1000), (13, 3), (14, 100)];
        let counts = seconds.map(|(second, made)| accelerated(&mut window, second, made));
        assert_eq!(counts, [128, 8, 8, 3, 100]);
        assert_eq!(accelerated(&mut window, 14, 100), 28);
        // A second without connections also ends the burst.
        assert_eq!(accelerated(&mut window, 16, 100), 100);
    }
}
