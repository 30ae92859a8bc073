//! The table of interception rules; every row runs for IPv4, IPv6 and v4-mapped destinations.

extern crate std;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::string::String;

use super::{InboundConn, OutboundConn, Verdict, inbound, outbound};
use crate::{Addr, Endpoint, Facts, PodConfig, PodFlags, Port, PortBitmap, Reason};

const POD: PodConfig = PodConfig {
    cookie: 7,
    proxy_uid: 1337,
    proxy_gid: 1337,
    outbound_port: Port::new(15001),
    inbound_port: Port::new(15006),
    dns_port: Port::new(15053),
    hbone_port: Port::new(15008),
    mark: 0,
    mark_mask: 0,
    excluded: PortBitmap::EMPTY,
    source_mark: 0,
    validator_uid: 0,
    loopback_net: 0,
    loopback_mask: 0,
    flags: PodFlags::HAS_EXTRA_ADDRS,
};

#[derive(Clone, Copy, Debug)]
enum Family {
    V4,
    V6,
    Mapped,
}

/// Kinds of destinations, so that a row has the same meaning in each family.
#[derive(Clone, Copy, Debug, PartialEq)]
enum To {
    World,
    OwnPod,
    Loopback,
    OtherLoopback,
    Unspecified,
}

#[derive(Clone, Copy, Debug)]
enum From {
    Anywhere,
    Passthrough,
}

fn address(ip: IpAddr) -> Addr {
    let octets = match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    let mut words = [0; 4];
    for (word, chunk) in words.iter_mut().zip(octets.chunks_exact(4)) {
        *word = u32::from_ne_bytes(chunk.try_into().unwrap());
    }
    Addr::v6(words)
}

fn v4(a: u8, b: u8, c: u8, d: u8, family: Family) -> Addr {
    let plain = Ipv4Addr::new(a, b, c, d);
    match family {
        // The form that `connect4` builds from the context.
        Family::V4 => Addr::v4(u32::from_ne_bytes(plain.octets())),
        // The form that `connect6` gets from an `AF_INET6` socket.
        Family::Mapped | Family::V6 => address(IpAddr::V6(plain.to_ipv6_mapped())),
    }
}

fn destination(to: To, family: Family) -> Option<Addr> {
    let v6 = |text: &str| address(IpAddr::V6(text.parse::<Ipv6Addr>().unwrap()));
    Some(match (family, to) {
        (Family::V6, To::World) => v6("2001:db8::7"),
        (Family::V6, To::OwnPod) => v6("fd00::5"),
        (Family::V6, To::Loopback) => v6("::1"),
        (Family::V6, To::Unspecified) => v6("::"),
        (Family::V6, To::OtherLoopback) => return None,
        (_, To::World) => v4(192, 0, 2, 7, family),
        (_, To::OwnPod) => v4(10, 0, 0, 5, family),
        (_, To::Loopback) => v4(127, 0, 0, 1, family),
        (_, To::Unspecified) => v4(0, 0, 0, 0, family),
        (_, To::OtherLoopback) => v4(127, 0, 0, 2, family),
    })
}

/// The facts of a destination without lists.
const NO_LISTS: Facts = Facts::CIDR_INCLUDED;

/// A connection of `caller`, if the family has such a destination.
fn conn(caller: (u32, u32), to: To, port: u16, family: Family) -> Option<OutboundConn> {
    let (uid, gid) = caller;
    Some(OutboundConn {
        uid,
        gid,
        mark: 0,
        src: Addr::UNSPECIFIED,
        dst: Endpoint::new(destination(to, family)?, Port::new(port)),
        facts: NO_LISTS.with_if(Facts::LOCAL, to == To::OwnPod),
    })
}

/// A connection to a port of the Pod.
fn arrival(port: u16, facts: Facts) -> InboundConn {
    let port = Port::new(port);
    InboundConn { port, facts }
}

impl OutboundConn {
    fn src(self, from: From, family: Family) -> Self {
        let src = source(from, family);
        Self { src, ..self }
    }

    fn fact(self, fact: Facts, is_true: bool) -> Self {
        let facts = self.facts.with_if(fact, is_true);
        Self { facts, ..self }
    }
}

const FAMILIES: [Family; 3] = [Family::V4, Family::V6, Family::Mapped];

const APP: (u32, u32) = (1000, 1000);
const PROXY: (u32, u32) = (1337, 1337);
const PROXY_GROUP: (u32, u32) = (1000, 1337);
const PROXY_USER: (u32, u32) = (1337, 1000);

#[test]
fn every_outbound_row_holds_in_every_family() {
    use Reason::*;
    let proxy_out = Verdict::ToProxy(Port::new(15001), OutboundToProxy);
    let proxy_in = Verdict::ToProxy(Port::new(15006), OutboundHairpin);
    let direct = Verdict::Direct;
    #[rustfmt::skip]
    let table = [
        // caller,     source,            to,                port,  excluded, verdict
        (APP,         From::Anywhere,    To::World,         80,    false, proxy_out),
        (APP,         From::Anywhere,    To::World,         15020, true,  direct(OutboundPortExcluded)),
        (APP,         From::Anywhere,    To::OwnPod,        8080,  false, direct(OutboundLocal)),
        (APP,         From::Anywhere,    To::OwnPod,        15008, false, direct(OutboundLocal)),
        (APP,         From::Anywhere,    To::Loopback,      8080,  false, direct(OutboundLocal)),
        (APP,         From::Anywhere,    To::OtherLoopback, 8080,  false, direct(OutboundLocal)),
        (APP,         From::Anywhere,    To::Unspecified,   8080,  false, direct(OutboundLocal)),
        (PROXY,       From::Anywhere,    To::World,         80,    false, direct(OutboundByProxy)),
        (PROXY_GROUP, From::Anywhere,    To::World,         80,    false, direct(OutboundByProxy)),
        (PROXY_USER,  From::Anywhere,    To::World,         80,    false, direct(OutboundByProxy)),
        (PROXY,       From::Anywhere,    To::OwnPod,        8080,  false, proxy_in),
        (PROXY_GROUP, From::Anywhere,    To::OwnPod,        8080,  false, direct(OutboundLocal)),
        (PROXY_USER,  From::Anywhere,    To::OwnPod,        8080,  false, proxy_in),
        (PROXY,       From::Anywhere,    To::OtherLoopback, 8080,  false, proxy_in),
        (PROXY,       From::Anywhere,    To::OwnPod,        15008, false, direct(OutboundByProxy)),
        (PROXY,       From::Anywhere,    To::OwnPod,        15020, true,  direct(OutboundPortExcluded)),
        (PROXY,       From::Anywhere,    To::Loopback,      8080,  false, direct(OutboundByProxy)),
        (PROXY,       From::Anywhere,    To::Unspecified,   8080,  false, direct(OutboundByProxy)),
        (PROXY,       From::Passthrough, To::OwnPod,        8080,  false, direct(OutboundPassthrough)),
        (PROXY,       From::Passthrough, To::Loopback,      8080,  false, direct(OutboundPassthrough)),
    ];
    for (caller, from, to, port, excluded, verdict) in table {
        for family in FAMILIES {
            let Some(asked) = conn(caller, to, port, family) else {
                continue;
            };
            let asked = asked.src(from, family).fact(Facts::PORT_EXCLUDED, excluded);
            let row: String = std::format!("{caller:?} {from:?} {to:?} {port} {family:?}");
            assert_eq!(outbound(&POD, &asked), verdict, "{row}");
        }
    }
}

#[test]
fn mapped_and_plain_ipv4_are_the_same_address() {
    for to in [
        To::World,
        To::OwnPod,
        To::Loopback,
        To::OtherLoopback,
        To::Unspecified,
    ] {
        assert_eq!(destination(to, Family::V4), destination(to, Family::Mapped));
    }
}

#[test]
fn every_inbound_row_holds() {
    let proxy = Verdict::ToProxy(Port::new(15006), Reason::InboundToProxy);
    let excluded = Verdict::Direct(Reason::InboundPortExcluded);
    let local = Verdict::Direct(Reason::InboundLocal);
    #[rustfmt::skip]
    let table = [
        // port, over lo, listed, verdict
        (8080,  false, false, proxy),
        (15006, false, false, proxy),
        (15001, false, false, proxy),
        (15021, false, true,  excluded),
        (15008, false, false, excluded),
        (8080,  true,  false, local),
        (15021, true,  true,  local),
    ];
    for (port, local, listed, verdict) in table {
        let facts = Facts::default()
            .with_if(Facts::LOCAL, local)
            .with_if(Facts::INBOUND_LISTED, listed);
        let from = arrival(port, facts);
        assert_eq!(inbound(&POD, &from), verdict, "{from:?}");
    }
}

#[test]
fn inbound_port_list_redirects_listed_ports_only() {
    let pod = PodConfig {
        flags: PodFlags::INBOUND_ALLOWLIST,
        ..POD
    };
    let proxy = Verdict::ToProxy(Port::new(15006), Reason::InboundToProxy);
    let direct = Verdict::Direct;
    for (port, facts, verdict) in [
        (80, Facts::INBOUND_LISTED, proxy),
        (81, Facts::default(), direct(Reason::InboundNotListed)),
        (
            15008,
            Facts::INBOUND_LISTED,
            direct(Reason::InboundPortExcluded),
        ),
        (
            80,
            Facts::INBOUND_LISTED.with(Facts::LOCAL),
            direct(Reason::InboundLocal),
        ),
    ] {
        let from = arrival(port, facts);
        assert_eq!(inbound(&pod, &from), verdict, "{from:?}");
    }
}

#[test]
fn lists_decide_in_the_order_of_the_chain_in_every_family() {
    use Reason::*;
    let listed = |excluded, port, network| {
        Facts::default()
            .with_if(Facts::CIDR_EXCLUDED, excluded)
            .with_if(Facts::PORT_INCLUDED, port)
            .with_if(Facts::CIDR_INCLUDED, network)
    };
    let to_proxy = |reason| Verdict::ToProxy(Port::new(15001), reason);
    let loopback = PodFlags::LOOPBACK_INCLUDED;
    let none = PodFlags::default();
    #[rustfmt::skip]
    let table = [
        // caller, to,              flags,    excluded, port, network,   verdict
        (APP,   To::World,         none,     listed(true, true, true),   Verdict::Direct(OutboundNetworkExcluded)),
        (APP,   To::World,         none,     listed(false, true, false), to_proxy(OutboundPortListed)),
        (APP,   To::World,         none,     listed(false, false, true), to_proxy(OutboundToProxy)),
        (APP,   To::World,         none,     listed(false, false, false),Verdict::Direct(OutboundNotListed)),
        (PROXY, To::World,         none,     listed(false, true, true),  Verdict::Direct(OutboundByProxy)),
        (APP,   To::OwnPod,        none,     listed(false, true, true),  Verdict::Direct(OutboundLocal)),
        (APP,   To::OwnPod,        loopback, listed(false, false, true), to_proxy(OutboundToProxy)),
        (APP,   To::OwnPod,        loopback, listed(false, false, false),Verdict::Direct(OutboundNotListed)),
        (APP,   To::OtherLoopback, loopback, listed(false, false, true), to_proxy(OutboundToProxy)),
        (APP,   To::Loopback,      loopback, listed(false, true, true),  Verdict::Direct(OutboundLocal)),
        (PROXY, To::Loopback,      loopback, listed(false, true, true),  Verdict::Direct(OutboundByProxy)),
        (PROXY, To::OwnPod,        loopback, listed(true, true, true),   Verdict::ToProxy(Port::new(15006), OutboundHairpin)),
        (PROXY_GROUP, To::OwnPod,  loopback, listed(true, true, true),   Verdict::ToProxy(Port::new(15006), OutboundHairpin)),
    ];
    for (caller, to, flags, listed, verdict) in table {
        for family in FAMILIES {
            let Some(asked) = conn(caller, to, 80, family) else {
                continue;
            };
            let facts = listed.with_if(Facts::LOCAL, to == To::OwnPod);
            let pod = PodConfig { flags, ..POD };
            let row = std::format!("{to:?} {family:?} {listed:?}");
            assert_eq!(
                outbound(&pod, &OutboundConn { facts, ..asked }),
                verdict,
                "{row}"
            );
        }
    }
}

#[test]
fn dns_queries_to_loopback_are_captured() {
    use Reason::*;
    let resolver = Verdict::ToProxy(Port::new(15053), OutboundDns);
    let own = Verdict::ToProxy(Port::new(15006), OutboundHairpin);
    let direct = Verdict::Direct;
    let from = From::Anywhere;
    #[rustfmt::skip]
    let table = [
        // caller,     source,            to,                port, excluded, verdict
        (APP,         from,              To::World,         53,   false, resolver),
        (APP,         from,              To::OtherLoopback, 53,   false, resolver),
        (APP,         from,              To::Loopback,      53,   false, resolver),
        (APP,         from,              To::OwnPod,        53,   false, resolver),
        (APP,         from,              To::World,         53,   true,  direct(OutboundPortExcluded)),
        (APP,         from,              To::OwnPod,        8080, false, direct(OutboundLocal)),
        (PROXY,       from,              To::World,         53,   false, direct(OutboundByProxy)),
        (PROXY,       from,              To::OwnPod,        53,   false, direct(OutboundByProxy)),
        (PROXY_GROUP, from,              To::World,         53,   false, direct(OutboundByProxy)),
        (PROXY_GROUP, from,              To::OwnPod,        53,   false, own),
        (PROXY_GROUP, from,              To::Loopback,      53,   false, direct(OutboundByProxy)),
        (PROXY,       From::Passthrough, To::OwnPod,        53,   false, direct(OutboundPassthrough)),
    ];
    for (caller, from, to, port, excluded, verdict) in table {
        for family in FAMILIES {
            let Some(asked) = conn(caller, to, port, family) else {
                continue;
            };
            let asked = asked
                .src(from, family)
                .fact(Facts::CAPTURES_DNS, port == 53);
            let asked = asked.fact(Facts::PORT_EXCLUDED, excluded);
            assert_eq!(outbound(&POD, &asked), verdict, "{to:?} {family:?}");
        }
    }
}

fn source(from: From, family: Family) -> Addr {
    match (from, family) {
        (From::Anywhere, _) => Addr::UNSPECIFIED,
        (From::Passthrough, Family::V6) => Addr::V6_PASSTHROUGH,
        (From::Passthrough, _) => Addr::V4_PASSTHROUGH,
    }
}

#[test]
fn tproxy_redirects_proxy_calls_to_own_pod() {
    let pod = PodConfig {
        flags: PodFlags::TPROXY,
        ..POD
    };
    let own = Verdict::ToProxy(Port::new(15006), Reason::OutboundHairpin);
    let direct = Verdict::Direct(Reason::OutboundByProxy);
    for caller in [PROXY, PROXY_USER, PROXY_GROUP] {
        for (port, captures_dns) in [(80, false), (15008, false), (53, true)] {
            for (to, verdict) in [(To::OwnPod, own), (To::World, direct)] {
                let asked = conn(caller, to, port, Family::V4).unwrap();
                let asked = asked.fact(Facts::CAPTURES_DNS, captures_dns);
                assert_eq!(outbound(&pod, &asked), verdict, "{caller:?} {port} {to:?}");
            }
        }
    }
    let proxy = Verdict::ToProxy(Port::new(15006), Reason::InboundToProxy);
    assert_eq!(inbound(&pod, &arrival(15008, Facts::default())), proxy);
}

#[test]
fn no_hairpin_makes_own_pod_calls_direct() {
    let pod = PodConfig {
        flags: PodFlags::NO_HAIRPIN,
        ..POD
    };
    for family in FAMILIES {
        let to = conn((1337, 0), To::OwnPod, 8080, family).unwrap();
        let direct = Verdict::Direct(Reason::OutboundByProxy);
        assert_eq!(outbound(&pod, &to), direct, "{family:?}");
        let diverted = Verdict::ToProxy(Port::new(15006), Reason::OutboundHairpin);
        assert_eq!(outbound(&POD, &to), diverted, "{family:?}");
    }
}

mod arrivals;
mod bypass;
mod node;
