//! One end of an accelerated connection: its name, and what only its own socket writes.

use crate::SockRole;

/// The name of one end of an accelerated connection. Key of `sock_pair_map`, and value of `accel_conns`.
///
/// Bit 0 is the end. The other bits are the number of the connection: the nanoseconds of the monotonic
/// clock at which it was enrolled, so that no later connection has it, also if a socket connects again.
/// Every message hashes this key, so it is as short as it can be.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SockKey(u64);

impl SockKey {
    /// No end.
    pub const NONE: Self = Self(0);

    /// The client end of the connection with this number.
    #[must_use]
    pub const fn client(number: u64) -> Self {
        Self(number << 1)
    }

    /// The other end.
    #[must_use]
    pub const fn peer(self) -> Self {
        Self(self.0 ^ 1)
    }

    /// The end.
    #[must_use]
    pub const fn role(self) -> SockRole {
        if self.0 & 1 == 0 {
            SockRole::CLIENT
        } else {
            SockRole::SERVER
        }
    }

    /// The number of the connection. Key of `accel_flows`.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0 >> 1
    }
}

/// One end of an accelerated connection, or a candidate. Value of the socket storage `accel_sock`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AccelSock {
    /// The end; [`SockKey::NONE`] for a candidate.
    pub key: SockKey,
    /// Cookie of the network namespace of both ends, or zero for a connection between two Pods.
    pub netns_cookie: u64,
    /// The kernel address of the flags of the peer's file; zero if it is not known yet. When the peer
    /// is closed, the memory may be another file's.
    pub peer_f_flags: u64,
    /// The window of the messages from this end. The socket is locked whenever it is used.
    pub window: Window,
    /// Always zero: keeps the size a multiple of the alignment.
    pub pad: u32,
}

impl AccelSock {
    /// A client that is not established: its end has no name yet.
    #[must_use]
    pub const fn candidate(netns_cookie: u64) -> Self {
        Self::new(SockKey::NONE, netns_cookie)
    }

    /// An established end.
    #[must_use]
    pub const fn new(key: SockKey, netns_cookie: u64) -> Self {
        Self {
            key,
            netns_cookie,
            peer_f_flags: 0,
            window: Window(0),
            pad: 0,
        }
    }

    /// Whether the socket was added to `sock_pair_map`.
    #[must_use]
    pub const fn is_enrolled(&self) -> bool {
        self.key.0 != SockKey::NONE.0
    }

    /// Whether one end is an application. Otherwise both ends are proxies.
    #[must_use]
    pub const fn is_intra_pod(&self) -> bool {
        self.netns_cookie != 0
    }
}

/// The bytes that an end has redirected since its peer's queue was last seen empty: an upper bound of
/// what that queue holds.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window(pub(crate) u32);

impl Window {
    /// The bytes after a message of `size` bytes.
    pub(crate) const fn with(self, size: u32) -> u32 {
        self.0.saturating_add(size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sock_keys_name_both_ends_of_one_connection() {
        let client = SockKey::client(7);
        assert_eq!(
            (client.role(), client.peer().role()),
            (SockRole::CLIENT, SockRole::SERVER)
        );
        assert_eq!((client.number(), client.peer().number()), (7, 7));
        assert_eq!(client.peer().peer(), client);
        assert_ne!(client.peer(), SockKey::client(8));
    }

    #[test]
    fn candidates_are_not_enrolled() {
        assert!(!AccelSock::candidate(7).is_enrolled());
        assert!(AccelSock::new(SockKey::client(7), 0).is_enrolled());
        assert!(AccelSock::candidate(7).is_intra_pod());
        assert!(!AccelSock::candidate(0).is_intra_pod());
    }
}
