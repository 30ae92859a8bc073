//! The state machine of an accelerated connection: its directions, their windows and its drain.

use crate::{SockRole, Window};

/// The number of bytes that a direction may redirect before its window is reset. A reset needs a reply
/// and an empty receive queue afterwards. One-way traffic, and unread data, move the connection back to
/// TCP.
pub const REDIRECT_WINDOW_BYTES: u32 = 256 * 1024;
/// The program inspects the receive queue only above this number of bytes.
const LOOK_AT: u32 = REDIRECT_WINDOW_BYTES / 2;

/// The state of one direction, and its sender.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Direction {
    /// The kernel address of the sending socket; zero if it is not known. The socket may already be
    /// freed.
    socket: u64,
    /// The path of the messages.
    path: Path,
    /// One if the other direction has sent a message since the window was reset, otherwise zero.
    answered: u32,
}

/// The path that the messages of a direction use.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Path(u32);

impl Path {
    /// TCP, since the start.
    const TCP: Self = Self(0);
    /// Redirection.
    const REDIRECTED: Self = Self(1);
    /// TCP again: the call that sent the last redirected message has ended.
    const TCP_AFTER_REDIRECT: Self = Self(2);
}

/// Both directions of an accelerated connection. Value of `accel_flows`.
///
/// Both ends read it for each message, on two processors. So a message writes to it only if something
/// changes: what changes with each message is in [`AccelSock`](crate::AccelSock).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    from_client: Direction,
    from_server: Direction,
    state: FlowState,
    /// One if unread redirected bytes cannot be read in order; otherwise zero. Separate from `state`,
    /// which other CPUs write at the same time.
    aborted: u32,
}

/// The state of the whole connection.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct FlowState(u32);

impl FlowState {
    /// Messages may be redirected.
    const ACTIVE: Self = Self(0);
    /// TCP carries every later message.
    const DRAINING: Self = Self(1);
    /// TCP carries every message, and every running program has seen `DRAINING`.
    const DRAINED: Self = Self(2);
}

/// The verdict for a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendVerdict {
    /// Redirect, as the message before.
    Redirect,
    /// Redirect as the first message, if no earlier data is in flight on TCP.
    StartRedirect,
    /// Send by TCP, as every later message in either direction: the window is exceeded.
    WindowExceeded,
    /// Send by TCP, as the message before.
    Pass,
    /// Drop the message.
    Drop,
}

impl Flow {
    /// Whether messages of the connection are redirected now, in one direction or both.
    #[must_use]
    pub fn is_redirected(&self) -> bool {
        let is_redirected = |one: &Direction| one.path == Path::REDIRECTED;
        self.state == FlowState::ACTIVE
            && (is_redirected(&self.from_client) || is_redirected(&self.from_server))
    }

    /// A connection with a known client end: the kernel address of its socket.
    #[must_use]
    pub const fn new(socket: u64) -> Self {
        const IDLE: Direction = Direction {
            socket: 0,
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

    /// Sets the kernel address of the server socket. `false` if the connection has had one: the flow is
    /// that of an earlier connection with the same addresses.
    #[must_use]
    pub const fn set_server_sock(&mut self, socket: u64) -> bool {
        let is_first = self.from_server.socket == 0;
        if is_first {
            self.from_server.socket = socket;
        }
        is_first
    }

    /// The kernel addresses of the socket at `role` and of its peer.
    #[must_use]
    pub const fn sockets(&mut self, role: SockRole) -> (u64, u64) {
        let (own, other) = self.directions(role);
        (own.socket, other.socket)
    }

    /// Whether the window of `role` may be reset before its next message of `size` bytes, if the peer's
    /// queue is empty. The program inspects the queue only if this is `true`.
    #[must_use]
    pub const fn may_renew(&mut self, role: SockRole, window: Window, size: u32) -> bool {
        window.with(size) > LOOK_AT && self.directions(role).0.answered != 0
    }

    /// Resets the window of `role`: its reader has no redirected data left.
    pub const fn renew(&mut self, role: SockRole, window: &mut Window) {
        *window = Window(0);
        self.directions(role).0.answered = 0;
    }

    /// Accounts for a message of `size` bytes from `role`, and returns its verdict.
    ///
    /// A message is a reply to the other direction, but no proof that its sender has read the data: see
    /// [`Flow::renew`].
    #[must_use]
    pub const fn account(&mut self, role: SockRole, window: &mut Window, size: u32) -> SendVerdict {
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
        if other.answered == 0 {
            other.answered = 1;
        }
        let after = window.with(size);
        if after > REDIRECT_WINDOW_BYTES {
            self.start_drain();
            return SendVerdict::WindowExceeded;
        }
        *window = Window(after);
        if own.path.0 == Path::TCP.0 {
            SendVerdict::StartRedirect
        } else {
            SendVerdict::Redirect
        }
    }

    /// Marks the direction from `role` as redirected from now on.
    pub const fn mark_redirected(&mut self, role: SockRole) {
        self.directions(role).0.path = Path::REDIRECTED;
    }

    /// Starts the drain: TCP carries every later message of both ends. The change from redirection to
    /// TCP keeps the order, because a receiver reads redirected bytes before those of TCP.
    pub const fn start_drain(&mut self) {
        if !self.is_draining() {
            self.state = FlowState::DRAINING;
        }
    }

    /// Whether TCP carries every later message.
    #[must_use]
    pub const fn is_draining(&self) -> bool {
        self.state.0 != FlowState::ACTIVE.0
    }

    /// Aborts the connection: every later message is dropped.
    pub const fn abort(&mut self) {
        self.aborted = 1;
    }

    /// Two-step drain: the first call marks the flow, a later call returns `true`. By then, programs
    /// that started before the drain have ended.
    #[must_use]
    pub const fn poll_drained(&mut self) -> bool {
        let left = self.state.0 == FlowState::DRAINED.0;
        if self.state.0 == FlowState::DRAINING.0 {
            self.state = FlowState::DRAINED;
        }
        left
    }

    /// Whether a call that sends from `role` may still redirect a message.
    #[must_use]
    pub const fn was_redirected(&mut self, role: SockRole) -> bool {
        self.directions(role).0.path.0 == Path::REDIRECTED.0
    }

    /// The direction that begins at `role`, and the opposite one.
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

#[cfg(test)]
mod tests {
    use super::*;

    const HALF: u32 = REDIRECT_WINDOW_BYTES / 2;

    /// A connection with the windows of both its ends.
    struct Conn {
        flow: Flow,
        windows: [Window; 2],
    }

    impl Conn {
        fn new() -> Self {
            Self {
                flow: Flow::new(1),
                windows: [Window::default(); 2],
            }
        }

        fn redirected(roles: &[SockRole]) -> Self {
            let mut conn = Self::new();
            for role in roles {
                conn.flow.mark_redirected(*role);
            }
            conn
        }

        fn window(&mut self, role: SockRole) -> &mut Window {
            let [client, server] = &mut self.windows;
            if role == SockRole::CLIENT {
                client
            } else {
                server
            }
        }

        /// A message of which nothing is known about its reader.
        fn send(&mut self, role: SockRole, size: u32) -> SendVerdict {
            let mut window = *self.window(role);
            let verdict = self.flow.account(role, &mut window, size);
            *self.window(role) = window;
            verdict
        }

        fn may_renew(&mut self, role: SockRole, size: u32) -> bool {
            let window = *self.window(role);
            self.flow.may_renew(role, window, size)
        }

        fn renew(&mut self, role: SockRole) {
            let mut window = *self.window(role);
            self.flow.renew(role, &mut window);
            *self.window(role) = window;
        }

        /// A message as the program accounts for it; `is_read` says that the peer's queue is empty.
        fn message(&mut self, role: SockRole, size: u32, is_read: bool) -> SendVerdict {
            if self.may_renew(role, size) && is_read {
                self.renew(role);
            }
            self.send(role, size)
        }
    }

    #[test]
    fn redirection_starts_once_per_direction() {
        let mut conn = Conn::new();
        assert_eq!(conn.send(SockRole::CLIENT, 1), SendVerdict::StartRedirect);
        assert_eq!(conn.send(SockRole::CLIENT, 1), SendVerdict::StartRedirect);
        assert!(!conn.flow.was_redirected(SockRole::CLIENT));
        conn.flow.mark_redirected(SockRole::CLIENT);
        assert_eq!(conn.send(SockRole::CLIENT, 1), SendVerdict::Redirect);
        assert_eq!(conn.send(SockRole::SERVER, 1), SendVerdict::StartRedirect);
        assert!(conn.flow.was_redirected(SockRole::CLIENT));
        assert!(!conn.flow.was_redirected(SockRole::SERVER));
    }

    #[test]
    fn drained_flows_are_never_redirected_again() {
        let mut conn = Conn::redirected(&[SockRole::CLIENT]);
        conn.flow.start_drain();
        assert!(conn.flow.was_redirected(SockRole::CLIENT));
        assert_eq!(conn.send(SockRole::CLIENT, 1), SendVerdict::Pass);
        assert_eq!(conn.send(SockRole::SERVER, 1), SendVerdict::Pass);
        assert_eq!(conn.send(SockRole::CLIENT, 1), SendVerdict::Pass);
        assert!(!conn.flow.was_redirected(SockRole::CLIENT));
    }

    #[test]
    fn window_overflow_stops_both_directions() {
        let mut conn = Conn::redirected(&[SockRole::CLIENT]);
        assert_eq!(conn.send(SockRole::CLIENT, HALF), SendVerdict::Redirect);
        assert_eq!(conn.send(SockRole::CLIENT, HALF), SendVerdict::Redirect);
        assert_eq!(conn.send(SockRole::CLIENT, 1), SendVerdict::WindowExceeded);
        assert_eq!(conn.send(SockRole::CLIENT, 1), SendVerdict::Pass);
        assert_eq!(conn.send(SockRole::SERVER, 1), SendVerdict::Pass);
    }

    #[test]
    fn budget_is_renewed_by_an_answer_once_all_is_read() {
        let mut conn = Conn::redirected(&[SockRole::CLIENT, SockRole::SERVER]);
        for _ in 0..10 {
            let client = conn.message(SockRole::CLIENT, REDIRECT_WINDOW_BYTES, true);
            assert_eq!(client, SendVerdict::Redirect);
            assert_eq!(
                conn.message(SockRole::SERVER, 1, true),
                SendVerdict::Redirect
            );
        }
        let client = conn.message(SockRole::CLIENT, u32::MAX, true);
        assert_eq!(client, SendVerdict::WindowExceeded);
    }

    #[test]
    fn budget_bounds_unread_bytes_despite_answers() {
        let mut conn = Conn::redirected(&[SockRole::CLIENT, SockRole::SERVER]);
        let mut unread = 0;
        while conn.message(SockRole::CLIENT, 1000, false) == SendVerdict::Redirect {
            unread += 1000;
            assert_eq!(
                conn.message(SockRole::SERVER, 1, true),
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
        let mut conn = Conn::redirected(&[SockRole::CLIENT]);
        for _ in 0..4 {
            let client = conn.message(SockRole::CLIENT, REDIRECT_WINDOW_BYTES / 4, true);
            assert_eq!(client, SendVerdict::Redirect);
        }
        assert_eq!(
            conn.message(SockRole::CLIENT, 1, true),
            SendVerdict::WindowExceeded
        );
    }

    #[test]
    fn reader_is_checked_late_and_after_an_answer() {
        let mut conn = Conn::redirected(&[SockRole::CLIENT]);
        assert!(!conn.may_renew(SockRole::CLIENT, REDIRECT_WINDOW_BYTES));
        assert_eq!(conn.send(SockRole::SERVER, 1), SendVerdict::StartRedirect);
        assert!(!conn.may_renew(SockRole::CLIENT, LOOK_AT));
        assert!(conn.may_renew(SockRole::CLIENT, LOOK_AT + 1));
        conn.renew(SockRole::CLIENT);
        assert!(!conn.may_renew(SockRole::CLIENT, REDIRECT_WINDOW_BYTES));
    }

    #[test]
    fn drained_after_one_quiescent_period() {
        let mut conn = Conn::new();
        assert!(!conn.flow.poll_drained() && !conn.flow.poll_drained());
        conn.flow.start_drain();
        assert!(!conn.flow.poll_drained());
        conn.flow.start_drain();
        assert!(conn.flow.poll_drained() && conn.flow.poll_drained());
    }

    #[test]
    fn aborted_flows_drop_every_message() {
        let mut conn = Conn::new();
        conn.flow.abort();
        assert_eq!(conn.send(SockRole::SERVER, 1), SendVerdict::Drop);
        conn.flow.start_drain();
        assert_eq!(conn.send(SockRole::CLIENT, 1), SendVerdict::Drop);
    }

    #[test]
    fn flow_returns_own_and_peer_socket() {
        let mut flow = Flow::new(7);
        assert!(flow.set_server_sock(8) && !flow.set_server_sock(9));
        assert_eq!(flow.sockets(SockRole::CLIENT), (7, 8));
        assert_eq!(flow.sockets(SockRole::SERVER), (8, 7));
    }
}
