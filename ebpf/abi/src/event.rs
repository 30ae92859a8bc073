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
    /// The caller's user, as the initial user namespace numbers it; [`Event::NOBODY`] for a peer.
    pub uid: u32,
    /// The caller's group, likewise.
    pub gid: u32,
    /// Always zero: keeps the size a multiple of the alignment.
    pub zero: u32,
}

impl Event {
    /// A user that nobody has (`INVALID_UID`, `linux/uidgid.h`).
    pub const NOBODY: u32 = u32::MAX;
}

/// How often something was done in a second. Value of `told`, of what a CPU tells, and of `habits`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// The second, since the machine was started.
    pub second: u64,
    /// How often.
    pub events: u64,
}

impl Told {
    /// So many decisions are told of, and no more: whoever watches shall not slow down who connects.
    pub const MOST: u64 = 1000;

    /// Once more in a second, if that is not more than `most` times.
    #[must_use]
    pub const fn one_more(self, second: u64, most: u64) -> Option<Self> {
        let events = if second == self.second {
            self.events
        } else {
            0
        };
        if events >= most {
            return None;
        }
        Some(Self {
            second,
            events: events + 1,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_second_begins_anew() {
        let mut told = Told::default();
        for _ in 0..3 {
            told = told.one_more(7, 3).unwrap();
        }
        assert_eq!(told.one_more(7, 3), None);
        assert_eq!(told.one_more(8, 3).unwrap().events, 1);
    }
}
