//! Tests of the address predicates at the edges of their ranges, and of the alias addresses.

extern crate std;
use super::*;

fn v4(a: u8, b: u8, c: u8, d: u8) -> Addr {
    Addr::v4(u32::from_be_bytes([a, b, c, d]).to_be())
}

fn v6(last: u32) -> Addr {
    Addr::v6([0xfd00_0000_u32.to_be(), 7, 0, last.to_be()])
}

/// 256 adjacent destinations of each family.
fn destinations() -> impl Iterator<Item = Addr> {
    let of = |last: u8| [v4(10, 1, 2, last), v6(last.into())];
    (0..=255).flat_map(of)
}

#[test]
fn alias_addresses_are_recognised() {
    for at in [
        v4(127, 64, 0, 0),
        v4(127, 127, 255, 255),
        Addr::V6_ALIAS_NET,
    ] {
        assert!(at.is_alias());
    }
    let [a, b, c, _] = Addr::V6_ALIAS_NET.words();
    let outside = |last: u32| Addr::v6([a, b, c, last.to_be()]);
    assert!(outside(0x7f7f_ffff).is_alias());
    for at in [
        v4(127, 63, 255, 255),
        v4(127, 128, 0, 0),
        outside(0x7f3f_ffff),
        outside(0x7f80_0000),
        v6(0x7f40_0001),
        Addr::V4_LOOPBACK,
        Addr::V6_LOOPBACK,
        Addr::UNSPECIFIED,
        Addr::v4(0).unassigned(),
        Addr::V6_LOOPBACK.unassigned(),
    ] {
        assert!(!at.is_alias());
    }
}

#[test]
fn alias_probes_keep_the_family_and_differ() {
    for to in destinations() {
        let mut seen = std::collections::HashSet::new();
        for choice in 0..Addr::ALIAS_PROBES {
            let at = to.alias(Port::new(443), choice);
            assert!(at.is_alias() && at.is_v4() == to.is_v4());
            assert!(!at.is_canonical_loopback() && !at.is_passthrough_source());
            assert!(seen.insert(at));
        }
    }
}

#[test]
fn destinations_are_spread_widely_in_both_families() {
    for choice in 0..Addr::ALIAS_PROBES {
        let mut seen = std::collections::HashSet::new();
        for to in destinations() {
            for port in [80, 443, 8080] {
                seen.insert(to.alias(Port::new(port), choice));
            }
        }
        assert!(
            seen.len() > 1500,
            "only {} addresses for 1,536 destinations",
            seen.len()
        );
    }
}

#[test]
fn fallback_loopback_is_not_an_alias() {
    for to in destinations() {
        let at = to.proxy_loopback(Port::new(80));
        assert!(at.is_loopback() && !at.is_alias());
        assert!(!to.is_v4() || !at.is_canonical_loopback());
        assert!(to.is_v4() || at == Addr::V6_LOOPBACK);
    }
}

/// The predicates of one address.
#[derive(Debug, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one predicate's answer"
)]
struct Edge {
    unspecified: bool,
    loopback: bool,
    connects_to_loopback: bool,
    canonical_loopback: bool,
    passthrough_source: bool,
    alias: bool,
}

impl Edge {
    const NONE: Self = Self {
        unspecified: false,
        loopback: false,
        connects_to_loopback: false,
        canonical_loopback: false,
        passthrough_source: false,
        alias: false,
    };
    const UNSPECIFIED: Self = Self {
        unspecified: true,
        connects_to_loopback: true,
        canonical_loopback: true,
        ..Self::NONE
    };
    const LOOPBACK: Self = Self {
        loopback: true,
        connects_to_loopback: true,
        ..Self::NONE
    };
    const CANONICAL: Self = Self {
        canonical_loopback: true,
        ..Self::LOOPBACK
    };

    fn of(addr: Addr) -> Self {
        Self {
            unspecified: addr.is_unspecified(),
            loopback: addr.is_loopback(),
            connects_to_loopback: addr.connects_to_loopback(),
            canonical_loopback: addr.is_canonical_loopback(),
            passthrough_source: addr.is_passthrough_source(),
            alias: addr.is_alias(),
        }
    }
}

fn parsed(text: &str) -> Addr {
    let Ok(ip) = text.parse::<std::net::Ipv6Addr>() else {
        let ip: std::net::Ipv4Addr = text.parse().unwrap();
        let [a, b, c, d] = ip.octets();
        return v4(a, b, c, d);
    };
    let bytes = ip.octets();
    let word =
        |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    Addr::v6([word(0), word(4), word(8), word(12)])
}

#[test]
fn predicates_hold_at_the_edges_of_each_range() {
    let loopback = ["127.0.0.0", "127.0.0.2", "127.63.255.255", "127.128.0.0"];
    let none = [
        // 0/8 has one address that `connect` replaces; the others are routed.
        "0.0.0.1",
        "0.255.255.255",
        "126.255.255.255",
        "128.0.0.0",
        "128.0.0.1",
        "::ffff:128.0.0.1",
        // Link-local, multicast, reserved, broadcast.
        "169.254.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        // Compatible (RFC 4291, 2.5.5.1) and translated (RFC 2765) are not v4-mapped.
        "::127.0.0.1",
        "::ffff:0:127.0.0.1",
        "::2",
        "::5",
        "::7",
        "1::1",
        "::1:0:0:0",
        // Link-local, site-local, unique local, multicast (of the host, of the link, of all).
        "fe80::1",
        "fec0::1",
        "fd00::1",
        "ff01::1",
        "ff02::1",
        "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        "100::",
        "100::7f3f:ffff",
        "100::7f80:0",
    ];
    let passthrough = Edge {
        passthrough_source: true,
        ..Edge::NONE
    };
    let rows = [
        (&["0.0.0.0", "::", "::ffff:0.0.0.0"][..], Edge::UNSPECIFIED),
        (&["127.0.0.1", "::1", "::ffff:127.0.0.1"], Edge::CANONICAL),
        (&loopback, Edge::LOOPBACK),
        (&["127.255.255.255", "::ffff:127.0.0.2"], Edge::LOOPBACK),
        (&none, Edge::NONE),
        (&["::6"], passthrough),
        (
            &["127.0.0.6", "::ffff:127.0.0.6"],
            Edge {
                passthrough_source: true,
                ..Edge::LOOPBACK
            },
        ),
        (
            &["127.64.0.0", "127.127.255.255", "::ffff:127.64.0.1"],
            Edge {
                alias: true,
                ..Edge::LOOPBACK
            },
        ),
        (
            &["100::7f40:0", "100::7f7f:ffff"],
            Edge {
                alias: true,
                ..Edge::NONE
            },
        ),
    ];
    for (texts, expected) in rows {
        for text in texts {
            assert_eq!(Edge::of(parsed(text)), expected, "{text}");
        }
    }
}

#[test]
fn ports_keep_network_order_inside() {
    assert_eq!(Port::new(0x1234).to_be().to_ne_bytes(), [0x12, 0x34]);
    assert_eq!(Port::from_be(Port::new(15006).to_be()).get(), 15006);
}

#[test]
fn unspecified_ipv4_destination_is_the_source() {
    let own = v4(10, 1, 0, 1);
    let any = v4(0, 0, 0, 0);
    for (to, from, reached) in [
        (any, own, own),
        (any, any, any),
        (any, Addr::UNSPECIFIED, any),
        (any, v6(1), any),
        (v4(10, 1, 0, 9), own, v4(10, 1, 0, 9)),
        (Addr::UNSPECIFIED, own, Addr::UNSPECIFIED),
        (Addr::UNSPECIFIED, v6(1), Addr::UNSPECIFIED),
    ] {
        assert_eq!(to.reached_from(from), reached, "{to:?} from {from:?}");
    }
}
