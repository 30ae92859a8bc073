//! The lobby: a bounded set of connections whose request has not arrived yet. Beyond the limit, the
//! oldest connection is closed, so slow or silent peers do not block others.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::oneshot;

/// The connections, in the order of their arrival.
#[derive(Clone, Debug)]
pub(super) struct Lobby {
    limit: usize,
    waiting: Arc<Mutex<Waiting>>,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    connections: BTreeMap<u64, oneshot::Sender<()>>,
}

/// A connection's place, until its request has arrived or the connection ends.
#[derive(Debug)]
pub(super) struct Seat {
    lobby: Lobby,
    number: u64,
}

/// Resolves to `Ok` when the connection must be closed, and to an error if eviction is no longer
/// possible.
pub(super) type Eviction = oneshot::Receiver<()>;

impl Lobby {
    /// A lobby for at most `limit` connections.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            waiting: Arc::default(),
        }
    }

    /// Adds a connection, and evicts the oldest one if the lobby is full.
    pub(super) fn enter(&self) -> (Seat, Eviction) {
        let (evict, eviction) = oneshot::channel();
        let number = self.with(|waiting| {
            let number = waiting.next;
            waiting.next += 1;
            waiting.connections.insert(number, evict);
            if waiting.connections.len() > self.limit
                && let Some((_, oldest)) = waiting.connections.pop_first()
            {
                // The connection may have ended concurrently.
                let _ = oldest.send(());
            }
            number
        });
        let lobby = self.clone();
        (Seat { lobby, number }, eviction)
    }

    fn with<T>(&self, work: impl FnOnce(&mut Waiting) -> T) -> T {
        // Nothing panics under this lock.
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        work(&mut waiting)
    }
}

impl Seat {
    /// Removes the connection when its request has arrived: it is not evicted any more.
    pub(super) fn leave(&self) {
        self.lobby
            .with(|waiting| drop(waiting.connections.remove(&self.number)));
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oldest_silent_connection_is_evicted() {
        let lobby = Lobby::new(2);
        let (_first, mut oldest) = lobby.enter();
        let (second, mut arrived) = lobby.enter();
        second.leave();
        let (third, mut next) = lobby.enter();
        assert!(oldest.try_recv().is_err(), "two wait, and two may");
        let (_fourth, mut last) = lobby.enter();
        assert_eq!(oldest.try_recv(), Ok(()));
        for eviction in [&mut arrived, &mut next, &mut last] {
            assert!(eviction.try_recv().is_err());
        }
        drop(third);
        let (_fifth, _) = lobby.enter();
        assert!(last.try_recv().is_err(), "one has gone by itself");
    }
}
