//! The latest decisions of the programs, for those who watch: each asks for what came after what it
//! has seen, and waits for it.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use sluice_abi::Event;
use tokio::{sync::Notify, time::timeout};

/// Events that are kept for a watcher that is slow.
const KEPT: usize = 4096;

/// One journal, in as many hands as need it.
#[derive(Clone, Default)]
pub(crate) struct Journal(Arc<Shared>);

#[derive(Default)]
struct Shared {
    entries: Mutex<Entries>,
    more: Notify,
}

#[derive(Default)]
struct Entries {
    /// The number of the next event.
    next: u64,
    kept: VecDeque<(SystemTime, Event)>,
}

/// What came after an event.
pub(crate) struct Heard {
    /// The number of the event after these.
    pub(crate) next: u64,
    /// Events that were not kept.
    pub(crate) lost: u64,
    /// In their order, with the time at which the daemon heard of them.
    pub(crate) events: Vec<(SystemTime, Event)>,
}

impl Journal {
    /// Adds events.
    pub(crate) fn add(&self, events: Vec<Event>) {
        let now = SystemTime::now();
        let mut entries = self
            .0
            .entries
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        entries.next += events.len() as u64;
        entries
            .kept
            .extend(events.into_iter().map(|event| (now, event)));
        let surplus = entries.kept.len().saturating_sub(KEPT);
        entries.kept.drain(..surplus);
        self.0.more.notify_waiters();
    }

    /// The events from a number on; waits for some if there are none. From `None` on there are
    /// none, and nothing is waited for.
    pub(crate) async fn after(&self, number: Option<u64>, patience: Duration) -> Heard {
        let more = self.0.more.notified();
        let heard = self.since(number);
        if number.is_none() || !heard.events.is_empty() {
            return heard;
        }
        let _nothing = timeout(patience, more).await;
        self.since(number)
    }

    fn since(&self, number: Option<u64>) -> Heard {
        let entries = self
            .0
            .entries
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let Entries { next, kept } = &*entries;
        // A number of a daemon before this one is larger than any of its own.
        let wanted = next.saturating_sub(number.unwrap_or(*next));
        let there = wanted.min(kept.len() as u64);
        let skipped = kept.len() - usize::try_from(there).unwrap_or(kept.len());
        Heard {
            next: *next,
            lost: wanted - there,
            events: kept.iter().skip(skipped).copied().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(cookie: u64) -> Event {
        Event {
            cookie,
            ..Event::default()
        }
    }

    fn seen(journal: &Journal, number: Option<u64>) -> (u64, u64, Vec<u64>) {
        let Heard { next, lost, events } = journal.since(number);
        (
            next,
            lost,
            events.iter().map(|(_, one)| one.cookie).collect(),
        )
    }

    #[test]
    fn everybody_hears_what_came_after_what_he_has_seen() {
        let journal = Journal::default();
        journal.add(vec![event(0), event(1)]);
        assert_eq!(seen(&journal, None), (2, 0, vec![]));
        assert_eq!(seen(&journal, Some(0)), (2, 0, vec![0, 1]));
        assert_eq!(seen(&journal, Some(1)), (2, 0, vec![1]));
        assert_eq!(seen(&journal, Some(2)), (2, 0, vec![]));
        // Of a daemon before.
        assert_eq!(seen(&journal, Some(9)), (2, 0, vec![]));
    }

    #[test]
    fn who_is_too_slow_is_told_how_much_is_lost() {
        let journal = Journal::default();
        let count = KEPT as u64 + 10;
        journal.add((0..count).map(event).collect());
        let (next, lost, events) = seen(&journal, Some(3));
        assert_eq!((next, lost), (count, 7));
        assert_eq!((events.len(), events[0]), (KEPT, 10));
    }
}
