//! Which ports, addresses and interfaces of a Pod are included or excluded, and from where it reaches
//! which networks: keys of the maps `ports`, `port_ranges`, `include_cidrs`, `exclude_cidrs`, `bypass_cidrs`,
//! `prefsrc_by_dst` and `exclude_ifindex`.
//!
//! A range of ports is a few prefixes of the 16-bit number, as a range of addresses is one of the
//! 128-bit one. Whole numbers are in a hash table, shorter prefixes in a trie, which is asked only
//! for Pods that have some.

use crate::{Addr, Port};

/// A list of ports. It matters whether a number is in it, not what is stored there.
#[repr(u16)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PortList {
    /// Connections that enter the Pod at these ports are left alone.
    InboundExcluded = 0,
    /// Connections to these ports are left alone.
    OutboundExcluded = 1,
    /// Only connections that enter the Pod at these ports are the proxy's.
    InboundIncluded = 2,
    /// Connections to these ports are the proxy's, whatever their address.
    OutboundIncluded = 3,
}

/// What may be in a list of ports: a bit for each, by its number modulo 32. It spares nearly every
/// port that is not listed the look-up.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortBitmap(u32);

impl PortBitmap {
    /// Lets no port through.
    pub const EMPTY: Self = Self(0);
    /// Lets every port through.
    pub const FULL: Self = Self(u32::MAX);

    /// Together with the ports from `low` to `high`, both included.
    #[must_use]
    pub const fn insert_range(self, low: u16, high: u16) -> Self {
        let (mut bits, mut port) = (self.0, low as u32);
        while port <= high as u32 && bits != u32::MAX {
            bits |= 1 << (port % u32::BITS);
            port += 1;
        }
        Self(bits)
    }

    /// `false` if a port is in no list of which this knows.
    #[must_use]
    pub const fn may_contain(self, port: Port) -> bool {
        self.0 & (1 << (port.get() as u32 % u32::BITS)) != 0
    }
}

/// Key of `ports`, and what a prefix in `port_ranges` is compared with.
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
    /// Bits of the whole number, as a trie counts them.
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

/// Ports that have their first bits in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortPrefix {
    /// The lowest of them.
    pub key: PortKey,
    /// How many bits of the key count.
    pub bits: u32,
}

impl PortPrefix {
    /// The largest prefix that begins with the port `low` and does not go beyond `high`, and the
    /// port that comes after it, if there is one.
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

/// What a prefix in `include_cidrs`, `exclude_cidrs`, `bypass_cidrs` and `prefsrc_by_dst` is compared with.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CidrKey {
    /// Cookie of the Pod's network namespace.
    pub cookie: u64,
    /// 4 or 6: `::/0` holds no IPv4 address, although these are v4-mapped here.
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

    /// Bits that count for a network with `length` bits: IPv4 is v4-mapped.
    #[must_use]
    pub const fn bits(addr: Addr, length: u8) -> u32 {
        let mapped = if addr.is_v4() { 96 } else { 0 };
        Self::PREFIX_BITS + mapped + length as u32
    }
}

/// Addresses that have their first bits in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NetworkPrefix {
    /// The lowest of them.
    pub key: CidrKey,
    /// How many bits of the key count.
    pub bits: u32,
}

impl NetworkPrefix {
    /// The network of a Pod that begins at `addr`, with `length` bits of its own family.
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
    /// The interface's index there.
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

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec;

    use super::*;

    /// Every port that some prefix covers, each once.
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
