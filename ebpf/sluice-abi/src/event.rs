//! The events that the programs send to a monitor, and the rate limits.

use crate::Endpoint;

/// Element of `events`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// Cookie of the Pod's network namespace.
    pub cookie: u64,
    /// The connecting end, as far as its address and port are known.
    pub from: Endpoint,
    /// The original destination.
    pub to: Endpoint,
    /// The number of the [`Reason`](crate::Reason).
    pub reason: u32,
    /// The caller's UID in the initial user namespace; [`Event::NO_UID`] for a remote peer.
    pub uid: u32,
    /// The caller's GID in the initial user namespace.
    pub gid: u32,
    /// Always zero: keeps the size a multiple of the alignment.
    pub pad: u32,
}

impl Event {
    /// The invalid UID (`INVALID_UID`, `linux/uidgid.h`).
    pub const NO_UID: u32 = u32::MAX;
}

/// A count per second. Value of `event_rate` (events of one CPU) and of `conn_rate`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateWindow {
    /// The second since boot.
    pub second: u64,
    /// The count in this second.
    pub count: u64,
}

impl RateWindow {
    /// Event rate limit per CPU, so that monitoring cannot slow down connects.
    pub const MAX_EVENTS_PER_SEC: u64 = 1000;

    /// Counts one more in `second`, unless `max` is reached.
    #[must_use]
    pub const fn try_acquire(self, second: u64, max: u64) -> Option<Self> {
        let count = if second == self.second { self.count } else { 0 };
        if count >= max {
            return None;
        }
        Some(Self {
            second,
            count: count + 1,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_window_resets_every_second() {
        let mut window = RateWindow::default();
        for _ in 0..3 {
            window = window.try_acquire(7, 3).unwrap();
        }
        assert_eq!(window.try_acquire(7, 3), None);
        assert_eq!(window.try_acquire(8, 3).unwrap().count, 1);
    }
}
