//! Accelerated connections: who the ends are, and how far each direction may go.

use crate::{ConnKey, Endpoint, RateWindow, SockRole};

/// Bytes of a direction that may be redirected and not read. Calls renew it: an answer came, and the
/// reader's queue was found empty since. What only flows one way, and what is not read, takes the
/// connection back to TCP.
pub const REDIRECT_WINDOW_BYTES: u32 = 256 * 1024;
/// From so many bytes on the reader's queue is looked at: a message costs nothing more before.
const LOOK_AT: u32 = REDIRECT_WINDOW_BYTES / 2;

/// One end of an accelerated connection. Key of `sock_pair_map`, value of the socket storage
/// `accel_sock`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SockKey {
    /// The connection. Its cookie is that of the network namespace that both ends share, or zero
    /// for a connection between two Pods, whose addresses are unique on a node.
    pub conn: ConnKey,
    /// Which end.
    pub role: SockRole,
    /// Always zero: keeps the size a multiple of the alignment.
    pub pad: u32,
}

impl SockKey {
    /// An end of a connection.
    #[must_use]
    pub const fn new(conn: ConnKey, role: SockRole) -> Self {
        Self { conn, role, pad: 0 }
    }

    /// The connecting end of a connection whose addresses are not known yet.
    #[must_use]
    pub const fn pending(cookie: u64) -> Self {
        Self::new(ConnKey::placeholder(cookie), SockRole::CLIENT)
    }

    /// The other end.
    #[must_use]
    pub const fn peer(self) -> Self {
        let role = if self.role.const_eq(SockRole::CLIENT) {
            SockRole::SERVER
        } else {
            SockRole::CLIENT
        };
        Self::new(self.conn, role)
    }

    /// Whether an application is at one end, and not a proxy at both.
    #[must_use]
    pub const fn is_intra_pod(&self) -> bool {
        self.conn.cookie != 0
    }
}

/// How far a direction is, and where its sender is.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Direction {
    /// The kernel's address of the socket at which the direction begins; zero if it is not known.
    /// It may be that of a socket that is gone.
    socket: u64,
    /// Bytes since the reader's queue was seen empty: at least as many as are in it.
    in_window: u32,
    /// What its messages do.
    path: Path,
    /// One if the other direction had a message since then, or else zero.
    answered: u16,
}

/// What the messages of a direction do.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Path(u16);

impl Path {
    /// Go through TCP, so far.
    const TCP: Self = Self(0);
    /// Are redirected, since one of them.
    const REDIRECTED: Self = Self(1);
    /// Go through TCP again, since one of them: the call that sent the one before has ended.
    const TCP_AFTER_REDIRECT: Self = Self(2);
}

/// Both directions of an accelerated connection. Value of `accel_flows`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    from_client: Direction,
    from_server: Direction,
    state: FlowState,
    /// One if bytes wait where their reader does not look, or else zero: whatever came after them would
    /// be read before them. Apart from the stage, which others write at the same time.
    aborted: u32,
}

/// How a connection as a whole is.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct FlowState(u32);

impl FlowState {
    /// Messages may be redirected.
    const ACTIVE: Self = Self(0);
    /// TCP carries everything from here on.
    const DRAINING: Self = Self(1);
    /// It does, and every program that runs has seen so.
    const DRAINED: Self = Self(2);
}

/// What a message may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendVerdict {
    /// Go to the other end's queue, as the one before.
    Redirect,
    /// Go there as the first one, once it is known that nothing before it is on its way by TCP.
    StartRedirect,
    /// Go through TCP, as every message after it in either direction: the budget is spent.
    WindowExceeded,
    /// Go through TCP, as the one before.
    Pass,
    /// Nowhere.
    Drop,
}

impl Flow {
    /// A connection of which one end is known, by the kernel's address of its socket.
    #[must_use]
    pub const fn new(socket: u64) -> Self {
        const IDLE: Direction = Direction {
            socket: 0,
            in_window: 0,
            path: Path::TCP,
            answered: 0,
        };
        Self {
            from_client: Direction { socket, ..IDLE },
            from_server: IDLE,
            state: FlowState::ACTIVE,
            aborted: 0,
        }
    }

    /// Notes where the accepting end is.
    pub const fn set_server_sock(&mut self, socket: u64) {
        self.from_server.socket = socket;
    }

    /// The kernel's addresses of the socket at `role` and of the other one.
    #[must_use]
    pub const fn sockets(&mut self, role: SockRole) -> (u64, u64) {
        let (own, other) = self.directions(role);
        (own.socket, other.socket)
    }

    /// Whether the next message of `size` bytes from `role` may renew its budget, if nothing redirected
    /// waits at the other end: so the queue is asked for at the latest moments only.
    #[must_use]
    pub const fn may_renew(&mut self, role: SockRole, size: u32) -> bool {
        let (own, _) = self.directions(role);
        own.answered != 0 && own.in_window.saturating_add(size) > LOOK_AT
    }

    /// Notes that nothing redirected waits for the reader of what comes from `role`.
    pub const fn renew(&mut self, role: SockRole) {
        let (own, _) = self.directions(role);
        own.in_window = 0;
        own.answered = 0;
    }

    /// Accounts for a message of `size` bytes from `role`, and tells which way it goes.
    ///
    /// A message is an answer to what the other direction sent, and no proof that its sender read it:
    /// see [`Flow::renew`].
    #[must_use]
    pub const fn account(&mut self, role: SockRole, size: u32) -> SendVerdict {
        if self.aborted != 0 {
            return SendVerdict::Drop;
        }
        let is_draining = self.is_draining();
        let (own, other) = self.directions(role);
        if is_draining {
            if own.path.0 == Path::REDIRECTED.0 {
                own.path = Path::TCP_AFTER_REDIRECT;
            }
            return SendVerdict::Pass;
        }
        other.answered = 1;
        let in_window = own.in_window.saturating_add(size);
        if in_window > REDIRECT_WINDOW_BYTES {
            self.start_drain();
            return SendVerdict::WindowExceeded;
        }
        own.in_window = in_window;
        if own.path.0 == Path::TCP.0 {
            SendVerdict::StartRedirect
        } else {
            SendVerdict::Redirect
        }
    }

    /// Notes that what comes from `role` is redirected from here on.
    pub const fn mark_redirected(&mut self, role: SockRole) {
        self.directions(role).0.path = Path::REDIRECTED;
    }

    /// From here on TCP carries what comes from either end. Going from redirected bytes to TCP keeps
    /// the order, because a reader comes to TCP's when there are no others.
    pub const fn start_drain(&mut self) {
        if !self.is_draining() {
            self.state = FlowState::DRAINING;
        }
    }

    /// Whether TCP carries everything.
    #[must_use]
    pub const fn is_draining(&self) -> bool {
        self.state.0 != FlowState::ACTIVE.0
    }

    /// From here on nothing is carried.
    pub const fn abort(&mut self) {
        self.aborted = 1;
    }

    /// Whether it left, and was asked this before: a program that began before the connection left has
    /// ended since.
    #[must_use]
    pub const fn poll_drained(&mut self) -> bool {
        let left = self.state.0 == FlowState::DRAINED.0;
        if self.state.0 == FlowState::DRAINING.0 {
            self.state = FlowState::DRAINED;
        }
        left
    }

    /// Whether a call that sends from `role` may be about to redirect a message.
    #[must_use]
    pub const fn was_redirected(&mut self, role: SockRole) -> bool {
        self.directions(role).0.path.0 == Path::REDIRECTED.0
    }

    /// The direction that begins at `role`, and the other one.
    const fn directions(&mut self, role: SockRole) -> (&mut Direction, &mut Direction) {
        let Self {
            from_client,
            from_server,
            ..
        } = self;
        if role.const_eq(SockRole::CLIENT) {
            (from_client, from_server)
        } else {
            (from_server, from_client)
        }
    }
}

/// Who connects where: key of `conn_rate`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ConnRateKey {
    /// The network namespace of the socket that connects.
    pub cookie: u64,
    /// Where to.
    pub to: Endpoint,
    /// Always zero: keeps the size a multiple of the alignment.
    pub pad: u32,
}

/// Connections of one kind that are accelerated in a second. Whoever makes more of them does not
/// keep them, and a connection must carry some messages before it has earned its place in a map.
pub const MAX_NEW_CONNS_PER_SEC: u64 = 128;
/// As many of them in the second after one in which there were more: so it is seen when that ends.
const PROBE_CONNS_PER_SEC: u64 = 8;

impl ConnRateKey {
    /// One more connection in a second, if it may be accelerated.
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

    const HALF: u32 = REDIRECT_WINDOW_BYTES / 2;

    #[test]
    fn redirection_starts_once_per_direction() {
        let mut flow = Flow::new(1);
        assert_eq!(
            flow.account(SockRole::CLIENT, 1),
            SendVerdict::StartRedirect
        );
        assert_eq!(
            flow.account(SockRole::CLIENT, 1),
            SendVerdict::StartRedirect
        );
        assert!(!flow.was_redirected(SockRole::CLIENT));
        flow.mark_redirected(SockRole::CLIENT);
        assert_eq!(flow.account(SockRole::CLIENT, 1), SendVerdict::Redirect);
        assert_eq!(
            flow.account(SockRole::SERVER, 1),
            SendVerdict::StartRedirect
        );
        assert!(flow.was_redirected(SockRole::CLIENT));
        assert!(!flow.was_redirected(SockRole::SERVER));
    }

    #[test]
    fn drained_flows_are_never_redirected_again() {
        let mut flow = Flow::new(1);
        flow.mark_redirected(SockRole::CLIENT);
        flow.start_drain();
        assert!(flow.was_redirected(SockRole::CLIENT));
        assert_eq!(flow.account(SockRole::CLIENT, 1), SendVerdict::Pass);
        assert_eq!(flow.account(SockRole::SERVER, 1), SendVerdict::Pass);
        assert_eq!(flow.account(SockRole::CLIENT, 1), SendVerdict::Pass);
        assert!(!flow.was_redirected(SockRole::CLIENT));
    }

    #[test]
    fn window_overflow_stops_both_directions() {
        let mut flow = Flow::new(1);
        flow.mark_redirected(SockRole::CLIENT);
        assert_eq!(flow.account(SockRole::CLIENT, HALF), SendVerdict::Redirect);
        assert_eq!(flow.account(SockRole::CLIENT, HALF), SendVerdict::Redirect);
        assert_eq!(
            flow.account(SockRole::CLIENT, 1),
            SendVerdict::WindowExceeded
        );
        assert_eq!(flow.account(SockRole::CLIENT, 1), SendVerdict::Pass);
        assert_eq!(flow.account(SockRole::SERVER, 1), SendVerdict::Pass);
    }

    /// A message as the program sends it on, whose reader has an empty queue or not.
    fn message(flow: &mut Flow, role: SockRole, size: u32, is_read: bool) -> SendVerdict {
        if flow.may_renew(role, size) && is_read {
            flow.renew(role);
        }
        flow.account(role, size)
    }

    #[test]
    fn budget_is_renewed_by_an_answer_once_all_is_read() {
        let mut flow = Flow::new(1);
        flow.mark_redirected(SockRole::CLIENT);
        flow.mark_redirected(SockRole::SERVER);
        for _ in 0..10 {
            let client = message(&mut flow, SockRole::CLIENT, REDIRECT_WINDOW_BYTES, true);
            assert_eq!(client, SendVerdict::Redirect);
            assert_eq!(
                message(&mut flow, SockRole::SERVER, 1, true),
                SendVerdict::Redirect
            );
        }
        let client = message(&mut flow, SockRole::CLIENT, u32::MAX, true);
        assert_eq!(client, SendVerdict::WindowExceeded);
    }

    #[test]
    fn budget_bounds_unread_bytes_despite_answers() {
        let mut flow = Flow::new(1);
        flow.mark_redirected(SockRole::CLIENT);
        flow.mark_redirected(SockRole::SERVER);
        let mut unread = 0;
        while message(&mut flow, SockRole::CLIENT, 1000, false) == SendVerdict::Redirect {
            unread += 1000;
            assert_eq!(
                message(&mut flow, SockRole::SERVER, 1, true),
                SendVerdict::Redirect
            );
        }
        assert!(
            unread <= REDIRECT_WINDOW_BYTES && unread > REDIRECT_WINDOW_BYTES - 1000,
            "{unread}"
        );
    }

    #[test]
    fn budget_is_not_renewed_by_reading_alone() {
        let mut flow = Flow::new(1);
        flow.mark_redirected(SockRole::CLIENT);
        for _ in 0..4 {
            let client = message(&mut flow, SockRole::CLIENT, REDIRECT_WINDOW_BYTES / 4, true);
            assert_eq!(client, SendVerdict::Redirect);
        }
        assert_eq!(
            message(&mut flow, SockRole::CLIENT, 1, true),
            SendVerdict::WindowExceeded
        );
    }

    #[test]
    fn reader_is_looked_at_late_and_after_an_answer_only() {
        let mut flow = Flow::new(1);
        flow.mark_redirected(SockRole::CLIENT);
        assert!(!flow.may_renew(SockRole::CLIENT, REDIRECT_WINDOW_BYTES));
        assert_eq!(
            flow.account(SockRole::SERVER, 1),
            SendVerdict::StartRedirect
        );
        assert!(!flow.may_renew(SockRole::CLIENT, LOOK_AT));
        assert!(flow.may_renew(SockRole::CLIENT, LOOK_AT + 1));
        flow.renew(SockRole::CLIENT);
        assert!(!flow.may_renew(SockRole::CLIENT, REDIRECT_WINDOW_BYTES));
    }

    #[test]
    fn drained_after_one_quiescent_period() {
        let mut flow = Flow::new(1);
        assert!(!flow.poll_drained() && !flow.poll_drained());
        flow.start_drain();
        assert!(!flow.poll_drained());
        flow.start_drain();
        assert!(flow.poll_drained() && flow.poll_drained());
    }

    #[test]
    fn aborted_flows_drop_every_message() {
        let mut flow = Flow::new(1);
        flow.abort();
        assert_eq!(flow.account(SockRole::SERVER, 1), SendVerdict::Drop);
        flow.start_drain();
        assert_eq!(flow.account(SockRole::CLIENT, 1), SendVerdict::Drop);
    }

    #[test]
    fn flow_returns_own_and_peer_socket() {
        let mut flow = Flow::new(7);
        flow.set_server_sock(8);
        assert_eq!(flow.sockets(SockRole::CLIENT), (7, 8));
        assert_eq!(flow.sockets(SockRole::SERVER), (8, 7));
    }

    /// How many connections are accelerated of so many in a second.
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
        // A second without any ends it, too.
        assert_eq!(accelerated(&mut window, 16, 100), 100);
    }

    #[test]
    fn sock_key_peer_is_symmetric() {
        let client = SockKey::pending(7);
        assert_eq!(client.peer().role, SockRole::SERVER);
        assert_eq!(client.peer().peer(), client);
    }
}
