//! The common form of addresses and ports. IPv4 is `::ffff:a.b.c.d`, so IPv4, IPv6 and v4-mapped
//! sockets use the same rules and the same maps.

/// An IP address: 16 bytes in network byte order, IPv4 as v4-mapped IPv6 (RFC 4291, 2.5.5.2).
///
/// The four 32-bit words are those of the kernel's contexts. Each word is in network byte order.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Addr([u32; 4]);

/// The third word of a v4-mapped address, in network byte order.
const MAPPED: u32 = 0xffff_u32.to_be();
/// The last word of [`Addr::V4_ALIAS_NET`] and of [`Addr::V6_ALIAS_NET`], in host byte order.
const ALIAS_NET_WORD: u32 = 0x7f40_0000;
/// 2⁶⁴ divided by the golden ratio.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

impl Addr {
    /// `::`, also for "no address".
    pub const UNSPECIFIED: Self = Self([0; 4]);
    /// `::1`.
    pub const V6_LOOPBACK: Self = Self([0, 0, 0, 1_u32.to_be()]);
    /// `127.0.0.1`.
    pub const V4_LOOPBACK: Self = Self::v4(0x7f00_0001_u32.to_be());
    /// `127.0.0.6`, the source of the proxy's connections to its application.
    pub const V4_PASSTHROUGH: Self = Self::v4(0x7f00_0006_u32.to_be());
    /// `::6`, the same for IPv6.
    pub const V6_PASSTHROUGH: Self = Self([0, 0, 0, 6_u32.to_be()]);
    /// The IPv4 alias network: `127.64.0.0/10`.
    pub const V4_ALIAS_NET: Self = Self::v4(ALIAS_NET_WORD.to_be());
    /// The IPv6 alias network: `100::7f40:0/106`.
    pub const V6_ALIAS_NET: Self = Self([0x0100_0000_u32.to_be(), 0, 0, ALIAS_NET_WORD.to_be()]);
    /// The number of host bits of the alias networks.
    pub const ALIAS_BITS: u32 = 22;
    /// The number of alias probes for a destination.
    pub const ALIAS_PROBES: u32 = 4;

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

    /// The IPv4 address in network byte order, if the family is IPv4.
    #[must_use]
    pub const fn as_v4(self) -> Option<u32> {
        if self.is_v4() { Some(self.0[3]) } else { None }
    }

    /// An address of the same family that no host has: reserved (RFC 1112, section 4), or discard-only
    /// (RFC 6666).
    #[must_use]
    pub const fn unassigned(self) -> Self {
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

    /// Whether this is `::` or `0.0.0.0`, which `connect` replaces by the loopback address.
    #[must_use]
    pub const fn is_unspecified(self) -> bool {
        let [a, b, c, d] = self.0;
        a | b | d == 0 && (c == 0 || c == MAPPED)
    }

    /// The address to which `connect(2)` connects: the loopback address of the family in place of the
    /// unspecified address.
    #[must_use]
    pub const fn connected(self) -> Self {
        if !self.is_unspecified() {
            self
        } else if self.is_v4() {
            Self::V4_LOOPBACK
        } else {
            Self::V6_LOOPBACK
        }
    }

    /// The address to which a socket that is bound to `source` connects: the kernel replaces
    /// `0.0.0.0` by the source (`ip_route_output_key_hash_rcu`), which `IP_TRANSPARENT` permits to be one
    /// of another host. It replaces `::` by `::1`, whatever the source is.
    #[must_use]
    pub const fn reached_from(self, source: Self) -> Self {
        if self.is_v4() && self.is_unspecified() && source.is_v4() && !source.is_unspecified() {
            source
        } else {
            self
        }
    }

    /// Whether this is a loopback address: in `127.0.0.0/8`, or `::1`.
    ///
    /// The kernel drops a packet from another host with such a source. The unspecified address is not
    /// included: Linux completes a handshake with the IPv6 source `::`.
    #[must_use]
    pub const fn is_loopback(self) -> bool {
        if self.is_v4() {
            return u32::from_be(self.0[3]) >> 24 == 127;
        }
        self.const_eq(Self::V6_LOOPBACK)
    }

    /// Whether `connect(2)` to this address stays on the host: a loopback address, or the unspecified
    /// address, which the kernel replaces by one.
    #[must_use]
    pub const fn connects_to_loopback(self) -> bool {
        self.is_loopback() || self.is_unspecified()
    }

    /// Whether the sidecar's rules exclude this loopback address even for the proxy: `127.0.0.1`,
    /// `::1`, and the equivalent unspecified address.
    #[must_use]
    pub const fn is_canonical_loopback(self) -> bool {
        self.is_unspecified()
            || self.const_eq(Self::V4_LOOPBACK)
            || self.const_eq(Self::V6_LOOPBACK)
    }

    /// Whether the proxy uses this source address for connections to its own application.
    #[must_use]
    pub const fn is_passthrough_source(self) -> bool {
        self.const_eq(Self::V4_PASSTHROUGH) || self.const_eq(Self::V6_PASSTHROUGH)
    }

    /// Equality in `const` context without `memcmp`, which BPF lacks, and with a single branch: the
    /// verifier follows every branch.
    #[must_use]
    pub const fn const_eq(self, other: Self) -> bool {
        let (one, two) = (self.0, other.0);
        (one[0] ^ two[0]) | (one[1] ^ two[1]) | (one[2] ^ two[2]) | (one[3] ^ two[3]) == 0
    }

    /// Whether this is an alias address. The daemon and [`Addr::alias`] use the same networks.
    #[must_use]
    pub const fn is_alias(self) -> bool {
        let ([a, b, c, d], first) = (self.0, Self::V6_ALIAS_NET.0);
        let v6 = (a ^ first[0]) | (b ^ first[1]) | (c ^ first[2]) == 0;
        let last = u32::from_be(d) >> Self::ALIAS_BITS;
        (v6 || self.is_v4()) && last == ALIAS_NET_WORD >> Self::ALIAS_BITS
    }

    /// The alias address of the destination `self` at one probe, in the same family. It is a
    /// deterministic hash.
    ///
    /// A client port can be used once for each destination address and port. If every connection went
    /// to `127.0.0.1`, 28,000 client ports would have to serve all connections of the Pod; so a hash
    /// spreads the destinations over many addresses, and each address belongs to one destination.
    /// `127.64.0.0/10` does not collide with the usual loopback addresses of services. Every router
    /// discards the IPv6 network (RFC 6666), should such a packet leave the Pod.
    #[must_use]
    pub const fn alias(self, port: Port, probe: u32) -> Self {
        let last = (ALIAS_NET_WORD | self.hash22(port, probe)).to_be();
        if self.is_v4() {
            return Self::v4(last);
        }
        let [a, b, c, _] = Self::V6_ALIAS_NET.0;
        Self([a, b, c, last])
    }

    /// The loopback address at which the proxy receives a connection to `self` whose destination is in
    /// socket storage. IPv6 has only one.
    #[must_use]
    pub const fn proxy_loopback(self, port: Port) -> Self {
        if !self.is_v4() {
            return Self::V6_LOOPBACK;
        }
        Self::v4((0x7f80_0000 | self.hash22(port, 0)).to_be())
    }

    /// An odd hash of [`Addr::ALIAS_BITS`] bits: it is never a network address.
    ///
    /// Fibonacci hashing (Knuth, TAOCP 6.4): the high bits of the product are well mixed.
    const fn hash22(self, port: Port, probe: u32) -> u32 {
        let [a, b, c, d] = self.0;
        let (high, low) = ((a as u64) << 32 | b as u64, (c as u64) << 32 | d as u64);
        let key = high.wrapping_mul(0xc2b2_ae3d_27d4_eb4f) ^ low ^ ((port.get() as u64) << 32);
        let key = key.wrapping_mul(0x85eb_ca6b_c2b2_ae35);
        let mixed = ((key ^ (key >> 32)).wrapping_add(probe as u64)).wrapping_mul(GOLDEN);
        let place = (mixed >> (64 - Self::ALIAS_BITS)) as u32;
        place | 1
    }
}

/// A TCP or UDP port, held in network byte order.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Port(u16);

impl Port {
    /// From host byte order.
    #[must_use]
    pub const fn new(host_order: u16) -> Self {
        Self(host_order.to_be())
    }

    /// From network byte order, as in packets and socket addresses.
    #[must_use]
    pub const fn from_be(network_order: u16) -> Self {
        Self(network_order)
    }

    /// In host byte order.
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
    pub const fn const_eq(self, other: Self) -> bool {
        self.0 == other.0
    }
}

#[cfg(test)]
mod tests;
