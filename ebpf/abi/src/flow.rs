//! Accelerated connections: who the ends are, and how far each direction may go.

use crate::{End, Pair};

/// Bytes that a direction may be ahead of the other one's last message. An answer renews it, so
/// that calls stay fast; what only flows one way moves to TCP.
pub const BUDGET: u32 = 256 * 1024;

/// One end of an accelerated connection. Key of `sock_pair_map`, value of the socket storage
/// `lanes`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Lane {
    /// The connection. Its cookie is that of the network namespace that both ends share, or zero
    /// for a connection between two Pods, whose addresses are unique on a node.
    pub pair: Pair,
    /// Which end.
    pub end: End,
    /// Always zero: keeps the size a multiple of the alignment.
    pub zero: u32,
}

impl Lane {
    /// An end of a connection.
    #[must_use]
    pub const fn new(pair: Pair, end: End) -> Self {
        Self { pair, end, zero: 0 }
    }

    /// The connecting end of a connection whose addresses are not known yet.
    #[must_use]
    pub const fn candidate(cookie: u64) -> Self {
        Self::new(Pair::unknown(cookie), End::CLIENT)
    }

    /// The other end.
    #[must_use]
    pub const fn other(self) -> Self {
        let end = if self.end.same(End::CLIENT) {
            End::PROXY
        } else {
            End::CLIENT
        };
        Self::new(self.pair, end)
    }
}

/// How far a direction is.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Way {
    /// One of the constants below.
    state: u32,
    /// Bytes since the last message of the other direction.
    spent: u32,
}

/// Nothing was sent.
const FRESH: u32 = 0;
/// Every byte was redirected.
const REDIRECTED: u32 = 1;
/// TCP carries the rest.
const TCP: u32 = 2;

/// Both directions of an accelerated connection. Value of `flows`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    from_client: Way,
    from_server: Way,
}

/// What a message may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passage {
    /// Go to the other end's queue.
    Redirect,
    /// Go through TCP, as every message after it: the budget is spent.
    Spent,
    /// Go through TCP, as the one before.
    Tcp,
}

impl Flow {
    /// Accounts for a message of `size` bytes from `end`, and tells which way it goes.
    #[must_use]
    pub const fn take(&mut self, end: End, size: u32) -> Passage {
        let (own, other) = self.ways(end);
        other.spent = 0;
        if own.state == TCP {
            return Passage::Tcp;
        }
        let spent = own.spent.saturating_add(size);
        if spent > BUDGET {
            own.state = TCP;
            return Passage::Spent;
        }
        own.spent = spent;
        Passage::Redirect
    }

    /// Notes that a message from `end` was redirected. `true` for the first one.
    #[must_use]
    pub const fn redirected(&mut self, end: End) -> bool {
        let (own, _) = self.ways(end);
        let first = own.state == FRESH;
        own.state = REDIRECTED;
        first
    }

    /// From here on TCP carries what comes from `end`.
    pub const fn leave(&mut self, end: End) {
        self.ways(end).0.state = TCP;
    }

    /// The direction that begins at `end`, and the other one.
    const fn ways(&mut self, end: End) -> (&mut Way, &mut Way) {
        let Self {
            from_client,
            from_server,
        } = self;
        if end.same(End::CLIENT) {
            (from_client, from_server)
        } else {
            (from_server, from_client)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF: u32 = BUDGET / 2;

    #[test]
    fn a_direction_that_left_for_tcp_never_comes_back() {
        let mut flow = Flow::default();
        flow.leave(End::CLIENT);
        assert_eq!(flow.take(End::CLIENT, 1), Passage::Tcp);
        assert_eq!(flow.take(End::PROXY, 1), Passage::Redirect);
        assert_eq!(flow.take(End::CLIENT, 1), Passage::Tcp);
    }

    #[test]
    fn a_direction_without_answers_spends_its_budget() {
        let mut flow = Flow::default();
        assert_eq!(flow.take(End::CLIENT, HALF), Passage::Redirect);
        assert_eq!(flow.take(End::CLIENT, HALF), Passage::Redirect);
        assert_eq!(flow.take(End::CLIENT, 1), Passage::Spent);
        assert_eq!(flow.take(End::CLIENT, 1), Passage::Tcp);
    }

    #[test]
    fn an_answer_renews_the_budget() {
        let mut flow = Flow::default();
        for _ in 0..10 {
            assert_eq!(flow.take(End::CLIENT, BUDGET), Passage::Redirect);
            assert_eq!(flow.take(End::PROXY, 1), Passage::Redirect);
        }
        assert_eq!(flow.take(End::CLIENT, u32::MAX), Passage::Spent);
    }

    #[test]
    fn the_first_redirected_message_is_told_apart() {
        let mut flow = Flow::default();
        assert!(flow.redirected(End::PROXY));
        assert!(!flow.redirected(End::PROXY));
        assert!(flow.redirected(End::CLIENT));
    }

    #[test]
    fn the_ends_of_a_connection_find_each_other() {
        let client = Lane::candidate(7);
        assert_eq!(client.other().end, End::PROXY);
        assert_eq!(client.other().other(), client);
    }
}
