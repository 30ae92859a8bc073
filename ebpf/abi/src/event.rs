//! What somebody who watches is told of one decision.

use crate::Endpoint;

/// Element of `events`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// Cookie of the Pod's network namespace.
    pub cookie: u64,
    /// The connecting end: its address and port, as far as they are known.
    pub from: Endpoint,
    /// Where it wanted to go.
    pub to: Endpoint,
    /// The number of the [`Reason`](crate::Reason).
    pub reason: u32,
    /// The caller's user, as the initial user namespace numbers it; [`Event::NO_UID`] for a peer.
    pub uid: u32,
    /// The caller's group, likewise.
    pub gid: u32,
    /// Always zero: keeps the size a multiple of the alignment.
    pub pad: u32,
}

impl Event {
    /// A user that nobody has (`INVALID_UID`, `linux/uidgid.h`).
    pub const NO_UID: u32 = u32::MAX;
}

/// How often something was done in a second. Value of `event_rate`, of what a CPU tells, and of `conn_rate`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateWindow {
    /// The second, since the machine was started.
    pub second: u64,
    /// How often.
    pub count: u64,
}

impl RateWindow {
    /// So many decisions are told of, and no more: whoever watches shall not slow down who connects.
    pub const MAX_EVENTS_PER_SEC: u64 = 1000;

    /// Once more in a second, if that is not more than `max` times.
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
