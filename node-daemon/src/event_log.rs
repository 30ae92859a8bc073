//! The log of the programs' latest decisions, for watchers: each requests the events after the last
//! one it has seen, and waits for them.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use sluice_abi::Event;
use tokio::{sync::Notify, time::timeout};

/// The number of events that are kept for slow watchers.
const CAPACITY: usize = 4096;

/// A shared handle of one log.
#[derive(Clone, Default)]
pub(crate) struct EventLog(Arc<Shared>);

#[derive(Default)]
struct Shared {
    entries: Mutex<Entries>,
    more: Notify,
}

#[derive(Default)]
struct Entries {
    /// The number of the next event.
    next: u64,
    buffered: VecDeque<(SystemTime, Event)>,
}

/// The events after a number.
pub(crate) struct EventBatch {
    /// The number of the event after these.
    pub(crate) next: u64,
    /// The number of events that were not kept.
    pub(crate) dropped: u64,
    /// The events in order, with the time at which the daemon received them.
    pub(crate) events: Vec<(SystemTime, Event)>,
}

impl EventLog {
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
            .buffered
            .extend(events.into_iter().map(|event| (now, event)));
        let surplus = entries.buffered.len().saturating_sub(CAPACITY);
        entries.buffered.drain(..surplus);
        self.0.more.notify_waiters();
    }

    /// The events from a number on; waits if there are none yet. `None` returns no events at once.
    pub(crate) async fn wait_after(&self, number: Option<u64>, patience: Duration) -> EventBatch {
        let more = self.0.more.notified();
        let batch = self.since(number);
        if number.is_none() || !batch.events.is_empty() {
            return batch;
        }
        let _nothing = timeout(patience, more).await;
        self.since(number)
    }

    fn since(&self, number: Option<u64>) -> EventBatch {
        let entries = self
            .0
            .entries
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let Entries { next, buffered } = &*entries;
        // A number from a previous daemon may be larger than any of this log.
        let wanted = next.saturating_sub(number.unwrap_or(*next));
        let there = wanted.min(buffered.len() as u64);
        let skipped = buffered.len() - usize::try_from(there).unwrap_or(buffered.len());
        EventBatch {
            next: *next,
            dropped: wanted - there,
            events: buffered.iter().skip(skipped).copied().collect(),
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

    fn seen(event_log: &EventLog, number: Option<u64>) -> (u64, u64, Vec<u64>) {
        let EventBatch {
            next,
            dropped,
            events,
        } = event_log.since(number);
        (
            next,
            dropped,
            events.iter().map(|(_, one)| one.cookie).collect(),
        )
    }

    #[test]
    fn readers_get_events_after_their_cursor() {
        let event_log = EventLog::default();
        event_log.add(vec![event(0), event(1)]);
        assert_eq!(seen(&event_log, None), (2, 0, vec![]));
        assert_eq!(seen(&event_log, Some(0)), (2, 0, vec![0, 1]));
        assert_eq!(seen(&event_log, Some(1)), (2, 0, vec![1]));
        assert_eq!(seen(&event_log, Some(2)), (2, 0, vec![]));
        // A number from a previous daemon.
        assert_eq!(seen(&event_log, Some(9)), (2, 0, vec![]));
    }

    #[test]
    fn slow_readers_get_the_dropped_count() {
        let event_log = EventLog::default();
        let count = CAPACITY as u64 + 10;
        event_log.add((0..count).map(event).collect());
        let (next, dropped, events) = seen(&event_log, Some(3));
        assert_eq!((next, dropped), (count, 7));
        assert_eq!((events.len(), events[0]), (CAPACITY, 10));
    }
}
