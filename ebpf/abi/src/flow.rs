//! Accelerated connections: who the ends are, and how far each direction may go.

use crate::{End, Endpoint, Pair, Told};

/// Bytes of a direction that may be redirected and not read. Calls renew it: an answer came, and the
/// reader's queue was found empty since. What only flows one way, and what is not read, takes the
/// connection back to TCP.
pub const BUDGET: u32 = 256 * 1024;
/// From so many bytes on the reader's queue is looked at: a message costs nothing more before.
const LOOK_AT: u32 = BUDGET / 2;

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

    /// Whether an application is at one end, and not a proxy at both.
    #[must_use]
    pub const fn is_within_a_pod(&self) -> bool {
        self.pair.cookie != 0
    }
}

/// How far a direction is, and where its sender is.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Way {
    /// The kernel's address of the socket at which the direction begins; zero if it is not known.
    /// It may be that of a socket that is gone.
    socket: u64,
    /// Bytes since the reader's queue was seen empty: at least as many as are in it.
    spent: u32,
    /// What its messages do.
    course: Course,
    /// One if the other direction had a message since then, or else zero.
    answered: u16,
}

/// What the messages of a direction do.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Course(u16);

impl Course {
    /// Go through TCP, so far.
    const TCP: Self = Self(0);
    /// Are redirected, since one of them.
    const REDIRECTED: Self = Self(1);
    /// Go through TCP again, since one of them: the call that sent the one before has ended.
    const TCP_AGAIN: Self = Self(2);
}

/// Both directions of an accelerated connection. Value of `flows`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    from_client: Way,
    from_server: Way,
    stage: Stage,
    /// One if bytes wait where their reader does not look, or else zero: whatever came after them would
    /// be read before them. Apart from the stage, which others write at the same time.
    broken: u32,
}

/// How a connection as a whole is.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Stage(u32);

impl Stage {
    /// Messages may be redirected.
    const OPEN: Self = Self(0);
    /// TCP carries everything from here on.
    const LEAVING: Self = Self(1);
    /// It does, and every program that runs has seen so.
    const LEFT: Self = Self(2);
}

/// What a message may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passage {
    /// Go to the other end's queue, as the one before.
    Redirect,
    /// Go there as the first one, once it is known that nothing before it is on its way by TCP.
    Begin,
    /// Go through TCP, as every message after it in either direction: the budget is spent.
    Spent,
    /// Go through TCP, as the one before.
    Tcp,
    /// Nowhere.
    Nowhere,
}

impl Flow {
    /// A connection of which one end is known, by the kernel's address of its socket.
    #[must_use]
    pub const fn of_client(socket: u64) -> Self {
        const NOTHING: Way = Way {
            socket: 0,
            spent: 0,
            course: Course::TCP,
            answered: 0,
        };
        Self {
            from_client: Way { socket, ..NOTHING },
            from_server: NOTHING,
            stage: Stage::OPEN,
            broken: 0,
        }
    }

    /// Notes where the accepting end is.
    pub const fn meet_server(&mut self, socket: u64) {
        self.from_server.socket = socket;
    }

    /// The kernel's addresses of the socket at `end` and of the other one.
    #[must_use]
    pub const fn sockets(&mut self, end: End) -> (u64, u64) {
        let (own, other) = self.ways(end);
        (own.socket, other.socket)
    }

    /// Whether the next message of `size` bytes from `end` may renew its budget, if nothing redirected
    /// waits at the other end: so the queue is asked for at the latest moments only.
    #[must_use]
    pub const fn may_renew(&mut self, end: End, size: u32) -> bool {
        let (own, _) = self.ways(end);
        own.answered != 0 && own.spent.saturating_add(size) > LOOK_AT
    }

    /// Notes that nothing redirected waits for the reader of what comes from `end`.
    pub const fn renew(&mut self, end: End) {
        let (own, _) = self.ways(end);
        own.spent = 0;
        own.answered = 0;
    }

    /// Accounts for a message of `size` bytes from `end`, and tells which way it goes.
    ///
    /// A message is an answer to what the other direction sent, and no proof that its sender read it:
    /// see [`Flow::renew`].
    #[must_use]
    pub const fn take(&mut self, end: End, size: u32) -> Passage {
        if self.broken != 0 {
            return Passage::Nowhere;
        }
        let is_leaving = self.is_leaving();
        let (own, other) = self.ways(end);
        if is_leaving {
            if own.course.0 == Course::REDIRECTED.0 {
                own.course = Course::TCP_AGAIN;
            }
            return Passage::Tcp;
        }
        other.answered = 1;
        let spent = own.spent.saturating_add(size);
        if spent > BUDGET {
            self.leave();
            return Passage::Spent;
        }
        own.spent = spent;
        if own.course.0 == Course::TCP.0 {
            Passage::Begin
        } else {
            Passage::Redirect
        }
    }

    /// Notes that what comes from `end` is redirected from here on.
    pub const fn begin(&mut self, end: End) {
        self.ways(end).0.course = Course::REDIRECTED;
    }

    /// From here on TCP carries what comes from either end. Going from redirected bytes to TCP keeps
    /// the order, because a reader comes to TCP's when there are no others.
    pub const fn leave(&mut self) {
        if !self.is_leaving() {
            self.stage = Stage::LEAVING;
        }
    }

    /// Whether TCP carries everything.
    #[must_use]
    pub const fn is_leaving(&self) -> bool {
        self.stage.0 != Stage::OPEN.0
    }

    /// From here on nothing is carried.
    pub const fn break_off(&mut self) {
        self.broken = 1;
    }

    /// Whether it left, and was asked this before: a program that began before the connection left has
    /// ended since.
    #[must_use]
    pub const fn has_left(&mut self) -> bool {
        let left = self.stage.0 == Stage::LEFT.0;
        if self.stage.0 == Stage::LEAVING.0 {
            self.stage = Stage::LEFT;
        }
        left
    }

    /// Whether a call that sends from `end` may be about to redirect a message.
    #[must_use]
    pub const fn may_be_redirecting(&mut self, end: End) -> bool {
        self.ways(end).0.course.0 == Course::REDIRECTED.0
    }

    /// The direction that begins at `end`, and the other one.
    const fn ways(&mut self, end: End) -> (&mut Way, &mut Way) {
        let Self {
            from_client,
            from_server,
            ..
        } = self;
        if end.same(End::CLIENT) {
            (from_client, from_server)
        } else {
            (from_server, from_client)
        }
    }
}

/// Who connects where: key of `habits`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Habit {
    /// The network namespace of the socket that connects.
    pub cookie: u64,
    /// Where to.
    pub to: Endpoint,
    /// Always zero: keeps the size a multiple of the alignment.
    pub zero: u32,
}

/// Connections of one kind that are accelerated in a second. Whoever makes more of them does not
/// keep them, and a connection must carry some messages before it has earned its place in a map.
pub const NEW_IN_A_SECOND: u64 = 128;
/// As many of them in the second after one in which there were more: so it is seen when that ends.
const TRIED_AGAIN: u64 = 8;

impl Habit {
    /// One more connection in a second, if it may be accelerated.
    #[must_use]
    pub const fn one_more(so_far: Told, second: u64) -> Option<Told> {
        let too_many = so_far.events >= NEW_IN_A_SECOND && second == so_far.second + 1;
        let begin = if too_many {
            Told {
                second,
                events: NEW_IN_A_SECOND - TRIED_AGAIN,
            }
        } else {
            so_far
        };
        begin.one_more(second, NEW_IN_A_SECOND)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF: u32 = BUDGET / 2;

    #[test]
    fn a_direction_begins_once_and_goes_on() {
        let mut flow = Flow::of_client(1);
        assert_eq!(flow.take(End::CLIENT, 1), Passage::Begin);
        assert_eq!(flow.take(End::CLIENT, 1), Passage::Begin);
        assert!(!flow.may_be_redirecting(End::CLIENT));
        flow.begin(End::CLIENT);
        assert_eq!(flow.take(End::CLIENT, 1), Passage::Redirect);
        assert_eq!(flow.take(End::PROXY, 1), Passage::Begin);
        assert!(flow.may_be_redirecting(End::CLIENT));
        assert!(!flow.may_be_redirecting(End::PROXY));
    }

    #[test]
    fn a_connection_that_left_for_tcp_never_comes_back() {
        let mut flow = Flow::of_client(1);
        flow.begin(End::CLIENT);
        flow.leave();
        assert!(flow.may_be_redirecting(End::CLIENT));
        assert_eq!(flow.take(End::CLIENT, 1), Passage::Tcp);
        assert_eq!(flow.take(End::PROXY, 1), Passage::Tcp);
        assert_eq!(flow.take(End::CLIENT, 1), Passage::Tcp);
        assert!(!flow.may_be_redirecting(End::CLIENT));
    }

    #[test]
    fn a_direction_without_answers_spends_its_budget_for_both() {
        let mut flow = Flow::of_client(1);
        flow.begin(End::CLIENT);
        assert_eq!(flow.take(End::CLIENT, HALF), Passage::Redirect);
        assert_eq!(flow.take(End::CLIENT, HALF), Passage::Redirect);
        assert_eq!(flow.take(End::CLIENT, 1), Passage::Spent);
        assert_eq!(flow.take(End::CLIENT, 1), Passage::Tcp);
        assert_eq!(flow.take(End::PROXY, 1), Passage::Tcp);
    }

    /// A message as the program sends it on, whose reader has an empty queue or not.
    fn message(flow: &mut Flow, end: End, size: u32, is_read: bool) -> Passage {
        if flow.may_renew(end, size) && is_read {
            flow.renew(end);
        }
        flow.take(end, size)
    }

    #[test]
    fn budget_is_renewed_by_an_answer_once_all_is_read() {
        let mut flow = Flow::of_client(1);
        flow.begin(End::CLIENT);
        flow.begin(End::PROXY);
        for _ in 0..10 {
            let client = message(&mut flow, End::CLIENT, BUDGET, true);
            assert_eq!(client, Passage::Redirect);
            assert_eq!(message(&mut flow, End::PROXY, 1, true), Passage::Redirect);
        }
        let client = message(&mut flow, End::CLIENT, u32::MAX, true);
        assert_eq!(client, Passage::Spent);
    }

    #[test]
    fn budget_bounds_unread_bytes_despite_answers() {
        let mut flow = Flow::of_client(1);
        flow.begin(End::CLIENT);
        flow.begin(End::PROXY);
        let mut unread = 0;
        while message(&mut flow, End::CLIENT, 1000, false) == Passage::Redirect {
            unread += 1000;
            assert_eq!(message(&mut flow, End::PROXY, 1, true), Passage::Redirect);
        }
        assert!(unread <= BUDGET && unread > BUDGET - 1000, "{unread}");
    }

    #[test]
    fn budget_is_not_renewed_by_reading_alone() {
        let mut flow = Flow::of_client(1);
        flow.begin(End::CLIENT);
        for _ in 0..4 {
            let client = message(&mut flow, End::CLIENT, BUDGET / 4, true);
            assert_eq!(client, Passage::Redirect);
        }
        assert_eq!(message(&mut flow, End::CLIENT, 1, true), Passage::Spent);
    }

    #[test]
    fn reader_is_looked_at_late_and_after_an_answer_only() {
        let mut flow = Flow::of_client(1);
        flow.begin(End::CLIENT);
        assert!(!flow.may_renew(End::CLIENT, BUDGET));
        assert_eq!(flow.take(End::PROXY, 1), Passage::Begin);
        assert!(!flow.may_renew(End::CLIENT, LOOK_AT));
        assert!(flow.may_renew(End::CLIENT, LOOK_AT + 1));
        flow.renew(End::CLIENT);
        assert!(!flow.may_renew(End::CLIENT, BUDGET));
    }

    #[test]
    fn it_has_left_when_it_is_asked_for_the_second_time() {
        let mut flow = Flow::of_client(1);
        assert!(!flow.has_left() && !flow.has_left());
        flow.leave();
        assert!(!flow.has_left());
        flow.leave();
        assert!(flow.has_left() && flow.has_left());
    }

    #[test]
    fn what_is_broken_carries_nothing_whatever_else_becomes_of_it() {
        let mut flow = Flow::of_client(1);
        flow.break_off();
        assert_eq!(flow.take(End::PROXY, 1), Passage::Nowhere);
        flow.leave();
        assert_eq!(flow.take(End::CLIENT, 1), Passage::Nowhere);
    }

    #[test]
    fn each_end_finds_its_own_socket_and_the_others() {
        let mut flow = Flow::of_client(7);
        flow.meet_server(8);
        assert_eq!(flow.sockets(End::CLIENT), (7, 8));
        assert_eq!(flow.sockets(End::PROXY), (8, 7));
    }

    /// How many connections are accelerated of so many in a second.
    fn accelerated(told: &mut Told, second: u64, made: u64) -> usize {
        let one = |_: &u64| {
            let more = Habit::one_more(*told, second);
            *told = more.unwrap_or(*told);
            more.is_some()
        };
        (0..made).filter(one).count()
    }

    #[test]
    fn who_makes_too_many_connections_is_known_for_it_until_that_ends() {
        let mut told = Told::default();
        let seconds = [(10, 1000), (11, 1000), (12, 1000), (13, 3), (14, 100)];
        let counts = seconds.map(|(second, made)| accelerated(&mut told, second, made));
        assert_eq!(counts, [128, 8, 8, 3, 100]);
        assert_eq!(accelerated(&mut told, 14, 100), 28);
        // A second without any ends it, too.
        assert_eq!(accelerated(&mut told, 16, 100), 100);
    }

    #[test]
    fn the_ends_of_a_connection_find_each_other() {
        let client = Lane::candidate(7);
        assert_eq!(client.other().end, End::PROXY);
        assert_eq!(client.other().other(), client);
    }
}
