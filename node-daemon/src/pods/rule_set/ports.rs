//! From ports and ranges to the prefixes of the kernel's LPM map.

use std::iter;

use sluice_abi::{PortList, PortPrefix};

use crate::pods::settings::Ports;

/// The minimal set of prefixes that cover a list, each port once.
pub(super) fn prefixes(
    cookie: u64,
    list: PortList,
    ports: &Ports,
) -> impl Iterator<Item = PortPrefix> + use<> {
    merge(ports).into_iter().flat_map(move |(low, high)| {
        let mut next = Some(low);
        iter::from_fn(move || {
            let (prefix, after) = PortPrefix::split_first(cookie, list, next?, high);
            next = after;
            Some(prefix)
        })
    })
}

/// The same ports as sorted ranges that neither overlap nor touch: `8000,8001,8002` is `8000-8002`.
fn merge(ports: &Ports) -> Vec<(u16, u16)> {
    let mut merged: Vec<(u16, u16)> = Vec::new();
    // A set of ranges is sorted by the lowest port.
    for &(low, high) in ports {
        match merged.last_mut() {
            Some((_, end)) if low <= end.saturating_add(1) => *end = high.max(*end),
            _ => merged.push((low, high)),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use sluice_abi::PortKey;

    use super::*;

    #[test]
    fn neighbours_become_one_range() {
        for (list, expected) in [
            (
                vec![(8000, 8000), (8001, 8001), (8002, 8002)],
                vec![(8000, 8002)],
            ),
            (
                vec![(1, 9), (2, 3), (10, 12), (14, 14)],
                vec![(1, 12), (14, 14)],
            ),
            (vec![(1, 65535), (65535, 65535)], vec![(1, 65535)]),
            (vec![(65534, 65534), (65535, 65535)], vec![(65534, 65535)]),
            (vec![], vec![]),
        ] {
            assert_eq!(merge(&list.into_iter().collect()), expected);
        }
        let all: Ports = (1..=u16::MAX).map(|port| (port, port)).collect();
        assert_eq!(merge(&all), [(1, u16::MAX)]);
    }

    /// Every port of some ranges.
    fn members<'a>(ranges: impl IntoIterator<Item = &'a (u16, u16)>) -> BTreeSet<u16> {
        let ranges = ranges.into_iter();
        ranges.flat_map(|&(low, high)| low..=high).collect()
    }

    fn range() -> impl Strategy<Value = (u16, u16)> {
        // Narrow, so that ranges overlap, and at both ends of the port space.
        let low = prop_oneof![0..200_u16, 65300..=65535_u16];
        (low, 0..40_u16).prop_map(|(low, more)| (low, low.saturating_add(more)))
    }

    proptest! {
        #[test]
        fn merged_ranges_hold_the_same_ports_apart(ports in prop::collection::btree_set(range(), 0..60)) {
            let merged = merge(&ports);
            prop_assert_eq!(members(&merged), members(&ports));
            prop_assert!(merged.len() <= ports.len());
            for pair in merged.windows(2) {
                prop_assert!(u32::from(pair[0].1) + 1 < u32::from(pair[1].0), "{:?}", pair);
            }
        }

        #[test]
        fn prefixes_cover_each_port_once(ports in prop::collection::btree_set(range(), 0..60)) {
            let mut covered = BTreeSet::new();
            let mut count = 0;
            for prefix in prefixes(7, PortList::OutboundExcluded, &ports) {
                let low = u32::from(prefix.key.port.get());
                let size = 1_u32 << (PortKey::BITS - prefix.bits);
                count += size as usize;
                covered.extend((low..low + size).map(|port| u16::try_from(port).unwrap()));
            }
            prop_assert_eq!(&covered, &members(&ports));
            prop_assert_eq!(covered.len(), count);
        }
    }
}
