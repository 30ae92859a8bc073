//! Tests of Pods with bypassed CIDRs or interfaces, and of proxies with a mark.

use super::{APP, FAMILIES, POD, PROXY, To, arrival, conn};
use crate::{
    Facts, PodConfig, PodFlags, Port, Reason,
    decide::{OutboundConn, Verdict, inbound, outbound},
};

const DIRECT_BYPASS: Verdict = Verdict::Direct(Reason::OutboundBypass);

/// Runs for a connection and a captured query of the application to a destination of each family.
pub(super) fn each(to: To, check: impl Fn(OutboundConn, OutboundConn)) {
    for family in FAMILIES {
        let both = conn(APP, to, 8080, family).zip(conn(APP, to, 53, family));
        if let Some((call, query)) = both {
            check(call, query.fact(Facts::CAPTURES_DNS, true));
        }
    }
}

#[test]
fn bypassed_outbound_traffic_is_direct() {
    each(To::World, |call, query| {
        for to in [call, query] {
            let bypassed = to.fact(Facts::BYPASS, true);
            assert_eq!(outbound(&POD, &bypassed), DIRECT_BYPASS, "{bypassed:?}");
        }
    });
}

#[test]
fn local_traffic_is_never_bypassed() {
    let to_inbound = Verdict::ToProxy(Port::new(15006), Reason::OutboundHairpin);
    for family in FAMILIES {
        let hairpin = conn(PROXY, To::OwnPod, 8080, family).unwrap();
        assert_eq!(
            outbound(&POD, &hairpin.fact(Facts::BYPASS, true)),
            to_inbound
        );
    }
}

#[test]
fn bypassed_inbound_traffic_is_direct() {
    let direct = Verdict::Direct(Reason::InboundBypass);
    assert_eq!(inbound(&POD, &arrival(8080, Facts::BYPASS)), direct);
}

#[test]
fn inbound_traffic_of_the_node_is_direct() {
    let direct = Verdict::Direct(Reason::InboundFromNode);
    for port in [80, 8080, 15006, 15008] {
        assert_eq!(inbound(&POD, &arrival(port, Facts::FROM_NODE)), direct);
    }
    let local = Facts::FROM_NODE.with(Facts::LOCAL);
    let within = Verdict::Direct(Reason::InboundLocal);
    assert_eq!(inbound(&POD, &arrival(80, local)), within);
}

/// A proxy without a process in the Pod.
const MARKED: PodConfig = PodConfig {
    proxy_uid: u32::MAX,
    proxy_gid: u32::MAX,
    mark: 0x539,
    mark_mask: 0xfff,
    flags: PodFlags::NO_HAIRPIN.with(PodFlags::BYPASS_LOCAL_DNS),
    ..POD
};

#[test]
fn sockets_with_the_proxy_mark_are_direct() {
    let to_outbound = Verdict::ToProxy(Port::new(15001), Reason::OutboundToProxy);
    let direct = Verdict::Direct(Reason::OutboundByProxy);
    each(To::World, |call, _| {
        for (mark, verdict) in [
            (0, to_outbound),
            (0x539, direct),
            (0x1_0539, direct),
            (0x538, to_outbound),
        ] {
            let to = OutboundConn { mark, ..call };
            assert_eq!(outbound(&MARKED, &to), verdict, "{mark:#x}");
            assert_eq!(outbound(&POD, &to), to_outbound, "{mark:#x}, by user");
        }
    });
}

#[test]
fn marked_proxy_reaches_its_own_pod_directly() {
    each(To::OwnPod, |call, _| {
        let mark = 0x539;
        let to = OutboundConn { mark, ..call };
        let direct = Verdict::Direct(Reason::OutboundByProxy);
        assert_eq!(outbound(&MARKED, &to), direct);
    });
}

#[test]
fn local_dns_is_bypassed_if_configured() {
    let captured = Verdict::ToProxy(Port::new(15053), Reason::OutboundDns);
    let kept = Verdict::Direct(Reason::OutboundLocal);
    for (to, datagram, verdict) in [
        (To::World, true, captured),
        (To::World, false, captured),
        (To::Loopback, true, kept),
        (To::Loopback, false, kept),
        (To::OtherLoopback, true, kept),
        (To::OtherLoopback, false, captured),
    ] {
        each(to, |_, query| {
            let query = query.fact(Facts::DATAGRAM, datagram);
            assert_eq!(outbound(&MARKED, &query), verdict, "{to:?} {datagram}");
        });
    }
}
