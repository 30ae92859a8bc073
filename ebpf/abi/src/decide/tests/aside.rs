//! Pods that leave networks or interfaces alone, and proxies that are known by a mark.

use super::{Family, POD, To, destination};
use crate::{
    Addr, Pod, PodFlags, Port, Reason,
    decide::{Inbound, Listed, Outbound, Verdict, inbound, outbound},
};

const DIRECT_ASIDE: Verdict = Verdict::Direct(Reason::OutboundAside);

fn call(addr: Addr) -> Outbound {
    Outbound {
        uid: 1000,
        gid: 1000,
        mark: 0,
        source: Addr::UNSPECIFIED,
        addr,
        port: Port::new(8080),
        own: false,
        aside: false,
        excluded: false,
        datagram: false,
        captures_dns: false,
        inbound_listed: false,
        listed: Listed::EVERYTHING,
    }
}

fn query(addr: Addr) -> Outbound {
    Outbound {
        port: Port::new(53),
        captures_dns: true,
        ..call(addr)
    }
}

/// Runs for a destination of each family.
fn each(to: To, check: impl Fn(Addr)) {
    for family in [Family::V4, Family::V6, Family::Mapped] {
        if let Some(addr) = destination(to, family) {
            check(addr);
        }
    }
}

#[test]
fn no_row_is_asked_of_what_leaves_by_an_excluded_interface() {
    each(To::World, |addr| {
        for to in [call(addr), query(addr)] {
            let aside = Outbound { aside: true, ..to };
            assert_eq!(outbound(&POD, &aside), DIRECT_ASIDE, "{aside:?}");
        }
    });
}

#[test]
fn what_stays_within_the_pod_leaves_by_none() {
    each(To::OwnPod, |addr| {
        let hairpin = Outbound {
            uid: 1337,
            own: true,
            aside: true,
            ..call(addr)
        };
        let taken_in = Verdict::ToProxy(Port::new(15006), Reason::OutboundOwnPod);
        assert_eq!(outbound(&POD, &hairpin), taken_in);
    });
}

#[test]
fn no_row_is_asked_of_what_comes_by_an_excluded_interface() {
    let from = Inbound {
        port: Port::new(8080),
        local: false,
        aside: true,
        listed: false,
    };
    let direct = Verdict::Direct(Reason::InboundAside);
    assert_eq!(inbound(&POD, &from), direct);
}

/// A proxy of which no process is in the Pod.
const MARKED: Pod = Pod {
    proxy_uid: u32::MAX,
    proxy_gid: u32::MAX,
    mark: 0x539,
    mark_mask: 0xfff,
    flags: PodFlags::NO_HAIRPIN.with(PodFlags::OWN_RESOLVERS),
    ..POD
};

#[test]
fn a_socket_with_the_mark_is_the_proxys() {
    let taken_out = Verdict::ToProxy(Port::new(15001), Reason::OutboundToProxy);
    let direct = Verdict::Direct(Reason::OutboundByProxy);
    each(To::World, |addr| {
        for (mark, verdict) in [
            (0, taken_out),
            (0x539, direct),
            (0x1_0539, direct),
            (0x538, taken_out),
        ] {
            let to = Outbound { mark, ..call(addr) };
            assert_eq!(outbound(&MARKED, &to), verdict, "{mark:#x}");
            assert_eq!(outbound(&POD, &to), taken_out, "{mark:#x}, by user");
        }
    });
}

#[test]
fn it_reaches_its_own_pod() {
    each(To::OwnPod, |addr| {
        let to = Outbound {
            mark: 0x539,
            own: true,
            ..call(addr)
        };
        let direct = Verdict::Direct(Reason::OutboundByProxy);
        assert_eq!(outbound(&MARKED, &to), direct);
    });
}

#[test]
fn resolvers_within_the_pod_may_keep_their_queries() {
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
            let query = Outbound {
                datagram,
                ..query(addr)
            };
            assert_eq!(outbound(&MARKED, &query), verdict, "{to:?} {datagram}");
        });
    }
}
