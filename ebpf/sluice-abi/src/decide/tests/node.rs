//! Tests of settings of the whole node: owner groups, the application's loopback network, families, and
//! connections before the proxy listens.

use super::{
    POD, To,
    bypass::{call, each, query},
};
use crate::{
    PodConfig, PodFlags, Port, Reason,
    decide::{OutboundConn, Verdict, outbound},
};

const TO_PROXY: Verdict = Verdict::ToProxy(Port::new(15001), Reason::OutboundToProxy);
const BY_GROUP: Verdict = Verdict::Direct(Reason::OutboundGroupExcluded);

#[test]
fn excluded_groups_are_direct_after_the_proxys_own_rules() {
    let excluded = |to| OutboundConn {
        group_excluded: true,
        ..to
    };
    each(To::World, |addr| {
        assert_eq!(outbound(&POD, &call(addr)), TO_PROXY, "{addr:?}");
        assert_eq!(outbound(&POD, &excluded(call(addr))), BY_GROUP, "{addr:?}");
        assert_eq!(outbound(&POD, &excluded(query(addr))), BY_GROUP, "{addr:?}");
        let by_proxy = OutboundConn {
            uid: 1337,
            ..excluded(call(addr))
        };
        let expected = Verdict::Direct(Reason::OutboundByProxy);
        assert_eq!(outbound(&POD, &by_proxy), expected, "{addr:?}");
    });
    each(To::OwnPod, |addr| {
        let hairpin = OutboundConn {
            uid: 1337,
            is_local_addr: true,
            ..excluded(call(addr))
        };
        let expected = Verdict::ToProxy(Port::new(15006), Reason::OutboundHairpin);
        assert_eq!(outbound(&POD, &hairpin), expected, "{addr:?}");
    });
}

#[test]
fn proxys_calls_to_the_loopback_network_reach_the_application() {
    let octets = |octets: [u8; 4]| u32::from_ne_bytes(octets);
    let wide = PodConfig {
        loopback_net: octets([127, 0, 0, 0]),
        loopback_mask: octets([255, 0, 0, 0]),
        ..POD
    };
    each(To::OtherLoopback, |addr| {
        let by_proxy = OutboundConn {
            uid: 1337,
            ..call(addr)
        };
        let hairpin = Verdict::ToProxy(Port::new(15006), Reason::OutboundHairpin);
        assert_eq!(outbound(&POD, &by_proxy), hairpin, "{addr:?}");
        let direct = Verdict::Direct(Reason::OutboundByProxy);
        assert_eq!(outbound(&wide, &by_proxy), direct, "{addr:?}");
    });
}

#[test]
fn ipv6_bypasses_the_proxy_of_an_ipv4_only_pod() {
    let pod = PodConfig {
        flags: PodFlags::IPV4_ONLY,
        ..POD
    };
    for to in [To::World, To::OwnPod, To::Loopback] {
        each(to, |addr| {
            for asked in [call(addr), query(addr)] {
                let asked = OutboundConn {
                    is_local_addr: to == To::OwnPod,
                    ..asked
                };
                let expected = if addr.is_v4() {
                    outbound(&POD, &asked)
                } else {
                    Verdict::Direct(Reason::OutboundBypass)
                };
                assert_eq!(outbound(&pod, &asked), expected, "{addr:?}");
            }
        });
    }
}

#[test]
fn socket_bound_to_loopback_reaches_no_peer() {
    let bound = |to, octets: [u8; 4]| OutboundConn {
        source: crate::Addr::v4(u32::from_ne_bytes(octets)),
        ..to
    };
    let direct = Verdict::Direct(Reason::OutboundLoopbackSource);
    each(To::World, |addr| {
        for octets in [[127, 0, 0, 1], [127, 0, 0, 6], [127, 9, 9, 9]] {
            let asked = bound(call(addr), octets);
            assert_eq!(outbound(&POD, &asked), direct, "{addr:?} {octets:?}");
        }
        assert_eq!(outbound(&POD, &bound(call(addr), [10, 0, 0, 5])), TO_PROXY);
        let six = OutboundConn {
            source: crate::Addr::V6_PASSTHROUGH,
            ..call(addr)
        };
        assert_eq!(outbound(&POD, &six), TO_PROXY);
    });
    each(To::OtherLoopback, |addr| {
        let asked = bound(call(addr), [127, 0, 0, 1]);
        assert_ne!(outbound(&POD, &asked), direct, "{addr:?}");
    });
}

#[test]
fn connections_before_the_proxy_listens_are_direct() {
    let before = |to| OutboundConn {
        before_proxy: true,
        ..to
    };
    let expected = Verdict::Direct(Reason::OutboundBeforeProxy);
    each(To::World, |addr| {
        assert_eq!(outbound(&POD, &before(call(addr))), expected, "{addr:?}");
        // Only the outbound listener counts.
        let to_resolver = Verdict::ToProxy(Port::new(15053), Reason::OutboundDns);
        assert_eq!(
            outbound(&POD, &before(query(addr))),
            to_resolver,
            "{addr:?}"
        );
    });
    each(To::OwnPod, |addr| {
        let hairpin = OutboundConn {
            uid: 1337,
            is_local_addr: true,
            ..before(call(addr))
        };
        let expected = Verdict::ToProxy(Port::new(15006), Reason::OutboundHairpin);
        assert_eq!(outbound(&POD, &hairpin), expected, "{addr:?}");
    });
}
