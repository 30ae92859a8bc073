//! One form for every address. IPv4 is `::ffff:a.b.c.d`, so that v4, v6 and v4-mapped sockets
//! take the same path through every decision and every map.

/// An IP address: 16 bytes in network byte order, IPv4 as v4-mapped IPv6 (RFC 4291, 2.5.5.2).
///
/// It is kept as four 32-bit words because the kernel's contexts hand addresses out that way.
/// Each word is in network byte order.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Addr([u32; 4]);

/// The third word of a v4-mapped address, in network byte order.
const MAPPED: u32 = 0xffff_u32.to_be();

impl Addr {
    /// `::`, which also stands for "no address".
    pub const UNSPECIFIED: Self = Self([0; 4]);
    /// `::1`.
    pub const V6_LOOPBACK: Self = Self([0, 0, 0, 1_u32.to_be()]);
    /// `127.0.0.1`.
    pub const V4_LOOPBACK: Self = Self::v4(0x7f00_0001_u32.to_be());
    /// `127.0.0.6`, from which the proxy connects to the application it serves.
    pub const V4_PASSTHROUGH: Self = Self::v4(0x7f00_0006_u32.to_be());
    /// `::6`, the same for IPv6.
    pub const V6_PASSTHROUGH: Self = Self([0, 0, 0, 6_u32.to_be()]);

    /// From an IPv4 address in network byte order.
    #[must_use]
    pub const fn v4(network_order: u32) -> Self {
        Self([0, 0, MAPPED, network_order])
    }

    /// From the four words of an IPv6 (or v4-mapped) address, each in network byte order.
    #[must_use]
    pub const fn v6(network_order: [u32; 4]) -> Self {
        Self(network_order)
    }

    /// The words, each in network byte order.
    #[must_use]
    pub const fn words(self) -> [u32; 4] {
        self.0
    }

    /// The IPv4 address in network byte order, if this is one.
    #[must_use]
    pub const fn as_v4(self) -> Option<u32> {
        if self.is_v4() { Some(self.0[3]) } else { None }
    }

    /// An address of the same family that no host has: reserved (RFC 1112, section 4), or where
    /// packets are discarded (RFC 6666).
    #[must_use]
    pub const fn nobodys(self) -> Self {
        if self.is_v4() {
            Self::v4(0xf000_0000_u32.to_be())
        } else {
            Self([0x0100_0000_u32.to_be(), 0, 0, 0])
        }
    }

    /// Whether this is an IPv4 address.
    #[must_use]
    pub const fn is_v4(self) -> bool {
        self.0[0] | self.0[1] | (self.0[2] ^ MAPPED) == 0
    }

    /// Whether this is `::` or `0.0.0.0`, which `connect` takes for the loopback address.
    #[must_use]
    pub const fn is_unspecified(self) -> bool {
        let [a, b, c, d] = self.0;
        a | b | d == 0 && (c == 0 || c == MAPPED)
    }

    /// Whether packets for this address never leave the host: `127.0.0.0/8`, `::1`, and the
    /// unspecified address.
    #[must_use]
    pub const fn is_loopback(self) -> bool {
        if self.is_unspecified() {
            return true;
        }
        if self.is_v4() {
            return u32::from_be(self.0[3]) >> 24 == 127;
        }
        self.same(Self::V6_LOOPBACK)
    }

    /// Whether this is the one loopback address that the sidecar's rules leave alone even for
    /// the proxy: `127.0.0.1`, `::1`, and the unspecified address, which means the same.
    #[must_use]
    pub const fn is_canonical_loopback(self) -> bool {
        self.is_unspecified() || self.same(Self::V4_LOOPBACK) || self.same(Self::V6_LOOPBACK)
    }

    /// Whether the proxy uses this source address for connections to its own application.
    #[must_use]
    pub const fn is_passthrough_source(self) -> bool {
        self.same(Self::V4_PASSTHROUGH) || self.same(Self::V6_PASSTHROUGH)
    }

    /// Equality in `const` context (no call to `memcmp`, which BPF has not), with a single branch:
    /// the verifier follows every one of them.
    #[must_use]
    pub const fn same(self, other: Self) -> bool {
        let (one, two) = (self.0, other.0);
        (one[0] ^ two[0]) | (one[1] ^ two[1]) | (one[2] ^ two[2]) | (one[3] ^ two[3]) == 0
    }

    /// The loopback address at which a connection to `self` is handed to the proxy.
    ///
    /// A client port can be used once for each destination address and port. Were every
    /// connection sent to `127.0.0.1`, 28,000 client ports would have to serve all that the Pod
    /// talks to; so IPv4 destinations are spread over `127.0.0.0/8` by a hash. The first octet
    /// after 127 is at least 64, which keeps clear of the addresses that people give to
    /// services of their own. IPv6 has a single loopback address.
    #[must_use]
    pub const fn proxy_loopback(self, port: Port) -> Self {
        let Some(v4) = self.as_v4() else {
            return Self::V6_LOOPBACK;
        };
        // Fibonacci hashing (Knuth, TAOCP 6.4): the high bits of the product are well mixed.
        let key = u32::from_be(v4).wrapping_mul(0x85eb_ca6b) ^ port.get() as u32;
        let mixed = (key ^ (key >> 16)).wrapping_mul(0x9e37_79b1);
        let host = 0x7f40_0001 | ((mixed >> 10) & 0x003f_fffe);
        Self::v4(host.to_be())
    }
}

/// A TCP or UDP port, held in network byte order.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Port(u16);

impl Port {
    /// From a number in host byte order, as people write it.
    #[must_use]
    pub const fn new(host_order: u16) -> Self {
        Self(host_order.to_be())
    }

    /// From the network byte order of packets and socket addresses.
    #[must_use]
    pub const fn from_be(network_order: u16) -> Self {
        Self(network_order)
    }

    /// As people write it.
    #[must_use]
    pub const fn get(self) -> u16 {
        u16::from_be(self.0)
    }

    /// In network byte order.
    #[must_use]
    pub const fn to_be(self) -> u16 {
        self.0
    }

    /// Equality in `const` context.
    #[must_use]
    pub const fn same(self, other: Self) -> bool {
        self.0 == other.0
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;

    fn v4(a: u8, b: u8, c: u8, d: u8) -> Addr {
        Addr::v4(u32::from_be_bytes([a, b, c, d]).to_be())
    }

    #[test]
    fn the_spread_of_proxy_addresses_stays_inside_loopback_and_is_wide() {
        let mut seen = std::collections::HashSet::new();
        for last in 0..=255 {
            for port in [80, 443, 8080] {
                let at = v4(10, 1, 2, last).proxy_loopback(Port::new(port));
                assert!(at.is_loopback() && !at.is_canonical_loopback());
                assert!(!at.is_passthrough_source());
                seen.insert(at);
            }
        }
        assert!(
            seen.len() > 700,
            "only {} addresses for 768 destinations",
            seen.len()
        );
    }

    #[test]
    fn ipv6_destinations_meet_the_proxy_at_the_only_loopback_address() {
        let dst = Addr::v6([0xfd00_0000_u32.to_be(), 0, 0, 5_u32.to_be()]);
        assert_eq!(dst.proxy_loopback(Port::new(80)), Addr::V6_LOOPBACK);
    }

    #[test]
    fn loopback_is_recognised_in_both_families() {
        assert!(v4(127, 0, 0, 2).is_loopback());
        assert!(!v4(127, 0, 0, 2).is_canonical_loopback());
        assert!(v4(0, 0, 0, 0).is_canonical_loopback());
        assert!(Addr::UNSPECIFIED.is_canonical_loopback());
        assert!(!v4(128, 0, 0, 1).is_loopback());
        assert!(!Addr::V6_PASSTHROUGH.is_loopback());
    }

    #[test]
    fn ports_keep_network_order_inside() {
        assert_eq!(Port::new(0x1234).to_be().to_ne_bytes(), [0x12, 0x34]);
        assert_eq!(Port::from_be(Port::new(15006).to_be()).get(), 15006);
    }
}
