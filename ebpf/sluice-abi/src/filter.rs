//! Keys of the maps of the Pod's lists (`ports`, `port_ranges`, `include_cidrs`, `exclude_cidrs`,
//! `bypass_cidrs`, `exclude_ifindex`), of its preferred source addresses (`prefsrc_by_dst`) and of its
//! own addresses (`own_addrs`).
//!
//! A port range is a few prefixes of the 16-bit number, as an address range is one of the 128-bit
//! number. A hash table holds single ports, a trie holds shorter prefixes. The programs look into the
//! trie only for Pods with ranges.

use crate::{Addr, Port};

/// A list of ports. Only the presence of an entry counts, not its value.
#[repr(u16)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PortList {
    /// Inbound connections to these ports are not redirected.
    InboundExcluded = 0,
    /// Outbound connections to these ports are not redirected.
    OutboundExcluded = 1,
    /// Only inbound connections to these ports are redirected.
    InboundIncluded = 2,
    /// Outbound connections to these ports are redirected regardless of the address.
    OutboundIncluded = 3,
}

/// A 32-bit bitmap of the listed ports (port mod 32). It avoids the map lookup for almost all ports
/// that are not listed.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortBitmap(u32);

impl PortBitmap {
    /// Contains no port.
    pub const EMPTY: Self = Self(0);
    /// May contain every port.
    pub const FULL: Self = Self(u32::MAX);

    /// Adds the ports from `low` to `high`, both included.
    #[must_use]
    pub const fn insert_range(self, low: u16, high: u16) -> Self {
        let (mut bits, mut port) = (self.0, low as u32);
        while port <= high as u32 && bits != u32::MAX {
            bits |= 1 << (port % u32::BITS);
            port += 1;
        }
        Self(bits)
    }

    /// `false` if the port is in none of the lists in the bitmap.
    #[must_use]
    pub const fn may_contain(self, port: Port) -> bool {
        self.0 & (1 << (port.get() as u32 % u32::BITS)) != 0
    }
}

/// Key of `ports`, and of `port_ranges` together with a prefix length.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortKey {
    /// Cookie of the Pod's network namespace.
    pub cookie: u64,
    /// A [`PortList`].
    pub list: u16,
    /// The port.
    pub port: Port,
    /// Always zero: keeps the size a multiple of the alignment.
    pub pad: u32,
}

impl PortKey {
    /// Bits before the port.
    const PREFIX_BITS: u32 = 80;
    /// Bits of the whole key, which is the trie's maximum prefix length.
    pub const BITS: u32 = Self::PREFIX_BITS + 16;

    /// The key of one port of one Pod.
    #[must_use]
    pub const fn new(cookie: u64, list: PortList, port: Port) -> Self {
        Self {
            cookie,
            list: list as u16,
            port,
            pad: 0,
        }
    }
}

/// Ports with a common prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortPrefix {
    /// The lowest port.
    pub key: PortKey,
    /// Prefix length, in bits of the key.
    pub bits: u32,
}

impl PortPrefix {
    /// The largest prefix that begins with the port `low` and does not exceed `high`, and the next port
    /// after it, if there is one.
    #[must_use]
    pub const fn split_first(
        cookie: u64,
        list: PortList,
        low: u16,
        high: u16,
    ) -> (Self, Option<u16>) {
        let mut free = if low == 0 { 16 } else { low.trailing_zeros() };
        while low as u32 + (1 << free) - 1 > high as u32 {
            free -= 1;
        }
        let prefix = Self {
            key: PortKey::new(cookie, list, Port::new(low)),
            bits: PortKey::BITS - free,
        };
        let next = low as u32 + (1 << free);
        #[expect(clippy::cast_possible_truncation, reason = "not beyond the high port")]
        let next = if next > high as u32 {
            None
        } else {
            Some(next as u16)
        };
        (prefix, next)
    }

    /// Whether this is a single port.
    #[must_use]
    pub const fn is_single(&self) -> bool {
        self.bits == PortKey::BITS
    }
}

/// Key of `include_cidrs`, `exclude_cidrs`, `bypass_cidrs` and `prefsrc_by_dst`, together with a prefix
/// length.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CidrKey {
    /// Cookie of the Pod's network namespace.
    pub cookie: u64,
    /// 4 or 6: `::/0` contains no IPv4 address, although IPv4 is v4-mapped here.
    pub family: u64,
    /// An address.
    pub addr: Addr,
}

impl CidrKey {
    /// Bits before the address.
    const PREFIX_BITS: u32 = 128;
    /// Bits of the whole key.
    pub const BITS: u32 = Self::PREFIX_BITS + 128;

    /// The key of one address of one Pod.
    #[must_use]
    pub const fn new(cookie: u64, addr: Addr) -> Self {
        Self {
            cookie,
            family: if addr.is_v4() { 4 } else { 6 },
            addr,
        }
    }

    /// Prefix length in the key of a CIDR with `length` bits: IPv4 is v4-mapped.
    #[must_use]
    pub const fn bits(addr: Addr, length: u8) -> u32 {
        let mapped = if addr.is_v4() { 96 } else { 0 };
        Self::PREFIX_BITS + mapped + length as u32
    }
}

/// Addresses with a common prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NetworkPrefix {
    /// The lowest address.
    pub key: CidrKey,
    /// Prefix length, in bits of the key.
    pub bits: u32,
}

impl NetworkPrefix {
    /// The CIDR `addr/length` of a Pod, with the length in its own family.
    #[must_use]
    pub const fn new(cookie: u64, addr: Addr, length: u8) -> Self {
        Self {
            key: CidrKey::new(cookie, addr),
            bits: CidrKey::bits(addr, length),
        }
    }
}

/// Key of `exclude_ifindex`: an interface that the Pod excludes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct InterfaceKey {
    /// Cookie of the Pod's network namespace.
    pub cookie: u64,
    /// The interface index in that namespace.
    pub index: u32,
    /// Always zero: keeps the size a multiple of the alignment.
    pub pad: u32,
}

impl InterfaceKey {
    /// The key of one interface of one Pod.
    #[must_use]
    pub const fn new(cookie: u64, index: u32) -> Self {
        Self {
            cookie,
            index,
            pad: 0,
        }
    }
}

/// Key of `owner_groups`: a group whose processes the Pod's rules name.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OwnerGroupKey {
    /// Cookie of the Pod's network namespace.
    pub cookie: u64,
    /// The GID in the initial user namespace.
    pub gid: u32,
    /// Always zero: keeps the size a multiple of the alignment.
    pub pad: u32,
}

impl OwnerGroupKey {
    /// The key of one group of one Pod.
    #[must_use]
    pub const fn new(cookie: u64, gid: u32) -> Self {
        Self {
            cookie,
            gid,
            pad: 0,
        }
    }
}

/// Key of `own_addrs`: an address of the Pod beside its main addresses.
///
/// The cookie makes the entry the Pod's own: another Pod may have the same address, and a process that
/// configures an address changes the decisions about its own Pod alone.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OwnAddrKey {
    /// Cookie of the Pod's network namespace.
    pub cookie: u64,
    /// The address.
    pub addr: Addr,
}

impl OwnAddrKey {
    /// The key of one address of one Pod.
    #[must_use]
    pub const fn new(cookie: u64, addr: Addr) -> Self {
        Self { cookie, addr }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec;

    use super::*;

    /// The ports that the prefixes of a range cover, and the number of prefixes.
    fn covered(low: u16, high: u16) -> (Vec<u16>, usize) {
        let (mut ports, mut count) = (Vec::new(), 0);
        let mut next = Some(low);
        while let Some(from) = next {
            let (prefix, after) = PortPrefix::split_first(7, PortList::InboundExcluded, from, high);
            let size = 1_u32 << (PortKey::BITS - prefix.bits);
            let first = u32::from(prefix.key.port.get());
            ports.extend((first..first + size).map(|port| u16::try_from(port).unwrap()));
            count += 1;
            next = after;
        }
        (ports, count)
    }

    #[test]
    fn a_range_is_covered_by_a_few_prefixes_and_by_nothing_else() {
        for (low, high) in [
            (0, 65535),
            (1, 65535),
            (1, 65534),
            (8000, 8999),
            (80, 80),
            (65535, 65535),
            (0, 0),
        ] {
            let (ports, count) = covered(low, high);
            assert_eq!(ports, (low..=high).collect::<Vec<_>>(), "{low}-{high}");
            assert!(count <= 30, "{low}-{high}: {count}");
        }
    }

    #[test]
    fn port_bitmap_has_no_false_negatives() {
        let none = PortBitmap::EMPTY;
        let few = none.insert_range(15020, 15020).insert_range(65535, 65535);
        for port in 0..=u16::MAX {
            assert!(!none.may_contain(Port::new(port)));
            assert!(none.insert_range(port, port).may_contain(Port::new(port)));
            let expected = [15020 % 32, 65535 % 32].contains(&(port % 32));
            assert_eq!(few.may_contain(Port::new(port)), expected);
        }
        assert_eq!(none.insert_range(9, 8), none);
        assert_eq!(none.insert_range(0, u16::MAX), PortBitmap::FULL);
    }

    #[test]
    fn trie_keys_end_with_the_prefix_bits() {
        assert_eq!(core::mem::offset_of!(PortKey, port) * 8, 80);
        assert_eq!(core::mem::offset_of!(CidrKey, addr) * 8, 128);
    }

    #[test]
    fn networks_of_ipv4_are_mapped() {
        assert_eq!(CidrKey::bits(Addr::v4(0), 8), 128 + 96 + 8);
        assert_eq!(CidrKey::bits(Addr::UNSPECIFIED, 8), 128 + 8);
    }
}
