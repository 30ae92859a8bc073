//! Tests of Pods with bypassed CIDRs or interfaces, and of proxies with a mark.

use super::{Family, POD, To, destination};
use crate::{
    Addr, PodConfig, PodFlags, Port, Reason,
    decide::{InboundConn, ListMatch, OutboundConn, Verdict, inbound, outbound},
};

const DIRECT_BYPASS: Verdict = Verdict::Direct(Reason::OutboundBypass);

pub(super) fn call(addr: Addr) -> OutboundConn {
    OutboundConn {
        uid: 1000,
        gid: 1000,
        mark: 0,
        source: Addr::UNSPECIFIED,
        addr,
        port: Port::new(8080),
        is_local_addr: false,
        bypass: false,
        group_excluded: false,
        before_proxy: false,
        excluded: false,
        datagram: false,
        captures_dns: false,
        inbound_listed: false,
        list_match: ListMatch::NO_LISTS,
    }
}

pub(super) fn query(addr: Addr) -> OutboundConn {
    OutboundConn {
        port: Port::new(53),
        captures_dns: true,
        ..call(addr)
    }
}

/// Runs for a destination of each family.
pub(super) fn each(to: To, check: impl Fn(Addr)) {
    for family in [Family::V4, Family::V6, Family::Mapped] {
        if let Some(addr) = destination(to, family) {
            check(addr);
        }
    }
}

#[test]
fn bypassed_outbound_traffic_is_direct() {
    each(To::World, |addr| {
        for to in [call(addr), query(addr)] {
            let bypassed = OutboundConn { bypass: true, ..to };
            assert_eq!(outbound(&POD, &bypassed), DIRECT_BYPASS, "{bypassed:?}");
        }
    });
}

#[test]
fn local_traffic_is_never_bypassed() {
    each(To::OwnPod, |addr| {
        let hairpin = OutboundConn {
            uid: 1337,
            is_local_addr: true,
            bypass: true,
            ..call(addr)
        };
        let to_inbound = Verdict::ToProxy(Port::new(15006), Reason::OutboundHairpin);
        assert_eq!(outbound(&POD, &hairpin), to_inbound);
    });
}

#[test]
fn bypassed_inbound_traffic_is_direct() {
    let from = InboundConn {
        port: Port::new(8080),
        local: false,
        bypass: true,
        listed: false,
    };
    let direct = Verdict::Direct(Reason::InboundBypass);
    assert_eq!(inbound(&POD, &from), direct);
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
    each(To::World, |addr| {
        for (mark, verdict) in [
            (0, to_outbound),
            (0x539, direct),
            (0x1_0539, direct),
            (0x538, to_outbound),
        ] {
            let to = OutboundConn { mark, ..call(addr) };
            assert_eq!(outbound(&MARKED, &to), verdict, "{mark:#x}");
            assert_eq!(outbound(&POD, &to), to_outbound, "{mark:#x}, by user");
        }
    });
}

#[test]
fn marked_proxy_reaches_its_own_pod_directly() {
    each(To::OwnPod, |addr| {
        let to = OutboundConn {
            mark: 0x539,
            is_local_addr: true,
            ..call(addr)
        };
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
        each(to, |addr| {
            let query = OutboundConn {
                datagram,
                ..query(addr)
            };
            assert_eq!(outbound(&MARKED, &query), verdict, "{to:?} {datagram}");
        });
    }
}
