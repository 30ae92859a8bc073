//! Keys and values of the maps for the ports of proxies.

use crate::Port;

/// Key of `proxy_listeners`: one listening socket of a Pod's proxy.
///
/// Envoy opens one listener for each worker (`SO_REUSEPORT`), and any of them may close first: each has
/// its own slot. The kernel distributes connections over the whole group whichever member is assigned
/// (`inet_lookup_run_sk_lookup`), so the first used slot is sufficient.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenerKey {
    /// Cookie of the Pod's network namespace.
    pub cookie: u64,
    /// `AF_INET` (2) or `AF_INET6` (10): an IPv4 listener cannot accept an IPv6 connection.
    pub family: u16,
    /// `0..SLOTS`.
    pub slot: u16,
    /// Always zero: keeps the size a multiple of the alignment.
    pub pad: u32,
}

impl ListenerKey {
    /// Registered listeners for each Pod and family. Further listeners receive connections as members
    /// of the same `SO_REUSEPORT` group.
    pub const SLOTS: u16 = 16;

    /// The key of one slot.
    #[must_use]
    pub const fn new(cookie: u64, family: u16, slot: u16) -> Self {
        Self {
            cookie,
            family,
            slot,
            pad: 0,
        }
    }
}

/// Key of `foreign_binds`: a port of the proxy that another process in the Pod requested.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ForeignKey {
    /// Cookie of the Pod's network namespace.
    pub cookie: u64,
    /// The port.
    pub port: Port,
    /// `IPPROTO_TCP` (6) or `IPPROTO_UDP` (17).
    pub protocol: u16,
    /// Always zero: keeps the size a multiple of the alignment.
    pub pad: u32,
}

/// Value of `foreign_binds`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ForeignUse {
    /// The process's UID in the initial user namespace; [`Event::NO_UID`](crate::Event::NO_UID) if the
    /// program does not know it.
    pub uid: u32,
    /// Always zero: keeps the size a multiple of the alignment.
    pub pad: u32,
    /// How often the port was denied. Concurrent CPUs can lose a count.
    pub count: u64,
}
