//! Tests of settings of the whole node: owner groups, the application's loopback network, families, and
//! connections before the proxy listens.

use super::{FAMILIES, POD, PROXY, To, bypass::each, conn};
use crate::{
    Addr, Facts, PodConfig, PodFlags, Port, Reason,
    decide::{OutboundConn, Verdict, outbound},
};

const TO_PROXY: Verdict = Verdict::ToProxy(Port::new(15001), Reason::OutboundToProxy);
const BY_GROUP: Verdict = Verdict::Direct(Reason::OutboundGroupExcluded);

const HAIRPIN: Verdict = Verdict::ToProxy(Port::new(15006), Reason::OutboundHairpin);

/// Connections of the proxy to the Pod itself, in each family.
fn hairpins() -> impl Iterator<Item = OutboundConn> {
    (FAMILIES.into_iter()).filter_map(|family| conn(PROXY, To::OwnPod, 8080, family))
}

#[test]
fn excluded_groups_are_direct_after_the_proxys_own_rules() {
    let excluded = |to: OutboundConn| to.fact(Facts::GROUP_EXCLUDED, true);
    each(To::World, |call, query| {
        assert_eq!(outbound(&POD, &call), TO_PROXY, "{call:?}");
        assert_eq!(outbound(&POD, &excluded(call)), BY_GROUP, "{call:?}");
        assert_eq!(outbound(&POD, &excluded(query)), BY_GROUP, "{call:?}");
        let uid = 1337;
        let by_proxy = OutboundConn {
            uid,
            ..excluded(call)
        };
        let expected = Verdict::Direct(Reason::OutboundByProxy);
        assert_eq!(outbound(&POD, &by_proxy), expected, "{call:?}");
    });
    for hairpin in hairpins() {
        assert_eq!(outbound(&POD, &excluded(hairpin)), HAIRPIN, "{hairpin:?}");
    }
}

#[test]
fn proxys_calls_to_the_loopback_network_reach_the_application() {
    let octets = |octets: [u8; 4]| u32::from_ne_bytes(octets);
    let wide = PodConfig {
        loopback_net: octets([127, 0, 0, 0]),
        loopback_mask: octets([255, 0, 0, 0]),
        ..POD
    };
    each(To::OtherLoopback, |call, _| {
        let by_proxy = OutboundConn { uid: 1337, ..call };
        assert_eq!(outbound(&POD, &by_proxy), HAIRPIN, "{call:?}");
        let direct = Verdict::Direct(Reason::OutboundByProxy);
        assert_eq!(outbound(&wide, &by_proxy), direct, "{call:?}");
    });
}

#[test]
fn ipv6_bypasses_the_proxy_of_an_ipv4_only_pod() {
    let pod = PodConfig {
        flags: PodFlags::IPV4_ONLY,
        ..POD
    };
    for to in [To::World, To::OwnPod, To::Loopback] {
        each(to, |call, query| {
            for asked in [call, query] {
                let expected = if asked.dst.addr.is_v4() {
                    outbound(&POD, &asked)
                } else {
                    Verdict::Direct(Reason::OutboundBypass)
                };
                assert_eq!(outbound(&pod, &asked), expected, "{asked:?}");
            }
        });
    }
}

#[test]
fn socket_bound_to_loopback_reaches_no_peer() {
    let v4 = |octets: [u8; 4]| Addr::v4(u32::from_ne_bytes(octets));
    let refused = Verdict::Refused(Reason::OutboundLoopbackSource);
    each(To::World, |call, _| {
        let bound = |src| OutboundConn { src, ..call };
        for octets in [[127, 0, 0, 1], [127, 0, 0, 6], [127, 255, 255, 255]] {
            let asked = bound(v4(octets));
            assert_eq!(outbound(&POD, &asked), refused, "{asked:?}");
        }
        for src in [v4([10, 0, 0, 5]), Addr::V6_PASSTHROUGH] {
            assert_eq!(outbound(&POD, &bound(src)), TO_PROXY, "{src:?}");
        }
    });
    each(To::OtherLoopback, |call, _| {
        let src = v4([127, 0, 0, 1]);
        assert_ne!(
            outbound(&POD, &OutboundConn { src, ..call }),
            refused,
            "{call:?}"
        );
    });
}

#[test]
fn connections_before_the_proxy_listens_are_direct() {
    let before = |to: OutboundConn| to.fact(Facts::BEFORE_PROXY, true);
    let expected = Verdict::Direct(Reason::OutboundBeforeProxy);
    // Only the outbound listener counts.
    let to_resolver = Verdict::ToProxy(Port::new(15053), Reason::OutboundDns);
    each(To::World, |call, query| {
        assert_eq!(outbound(&POD, &before(call)), expected, "{call:?}");
        assert_eq!(outbound(&POD, &before(query)), to_resolver, "{query:?}");
    });
    for hairpin in hairpins() {
        assert_eq!(outbound(&POD, &before(hairpin)), HAIRPIN, "{hairpin:?}");
    }
}
