//! Keys and values of the maps for connections.

use crate::{Addr, Port};

/// An address and a port. Value of `pair_original_dst` and of `alias_to_dst`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// The address.
    pub addr: Addr,
    /// The port.
    pub port: Port,
    /// Always zero: keeps the size a multiple of the alignment.
    pub pad: u16,
}

impl Endpoint {
    /// An address and a port.
    #[must_use]
    pub const fn new(addr: Addr, port: Port) -> Self {
        Self { addr, port, pad: 0 }
    }

    /// Equality in `const` context.
    #[must_use]
    pub const fn const_eq(self, other: Self) -> bool {
        self.addr.const_eq(other.addr) && self.port.const_eq(other.port)
    }
}

/// Key of `alias_to_dst`: the alias address of one destination of one Pod.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AliasKey {
    /// Cookie of the network namespace of both ends.
    pub cookie: u64,
    /// The last word of the alias address, in network byte order; the other words are constant.
    pub suffix: u32,
    /// The proxy's port: other sockets may listen at the same address.
    pub port: Port,
    /// 4 or 6.
    pub family: u16,
}

impl AliasKey {
    /// The key of an endpoint, if its address is an alias address.
    #[must_use]
    pub const fn from_addr(cookie: u64, slot: Endpoint) -> Option<Self> {
        if !slot.addr.is_alias() {
            return None;
        }
        let [_, _, _, suffix] = slot.addr.words();
        Some(Self {
            cookie,
            suffix,
            port: slot.port,
            family: if slot.addr.is_v4() { 4 } else { 6 },
        })
    }
}

/// Value of `original_dst` (socket storage): the original destination of a connection.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OrigDst {
    /// The original address and port.
    pub dst: Endpoint,
    /// The end that the socket is: `getpeername` shows `dst` to the client, and not to the proxy.
    pub role: SockRole,
}

/// An end of a redirected or accelerated connection.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SockRole(u32);

impl SockRole {
    /// The socket that connected.
    pub const CLIENT: Self = Self(1);
    /// The socket that was accepted, by the proxy unless stated otherwise.
    pub const SERVER: Self = Self(2);

    /// A UDP socket that sent a DNS query.
    pub const DNS_CLIENT: Self = Self(3);

    /// Equality in `const` context.
    #[must_use]
    pub const fn const_eq(self, other: Self) -> bool {
        self.0 == other.0
    }
}

/// Key of `pair_original_dst`, `node_conns` and `accel_conns`: a connection, from the client's side.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ConnKey {
    /// Cookie of the client's network namespace. In `pair_original_dst` both ends are there. In
    /// `accel_conns` as well, or it is zero.
    pub cookie: u64,
    /// The connecting end.
    pub client: Endpoint,
    /// The accepting end: a listener of the proxy.
    pub server: Endpoint,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alias_keys_differ_by_netns_address_port_family() {
        let at =
            |cookie, addr, port| AliasKey::from_addr(cookie, Endpoint::new(addr, Port::new(port)));
        let one = at(7, Addr::V4_ALIAS_NET, 15001);
        assert!(one.is_some());
        for other in [
            at(8, Addr::V4_ALIAS_NET, 15001),
            at(7, Addr::V4_ALIAS_NET, 80),
            at(7, Addr::V6_ALIAS_NET, 15001),
            at(7, Addr::V4_LOOPBACK, 15001),
        ] {
            assert_ne!(one, other);
        }
        assert_eq!(at(7, Addr::V6_LOOPBACK, 15001), None);
    }
}
