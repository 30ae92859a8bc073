//! Outbound connections.

use sluice_lab::pod_annotations::{
    EXCLUDE_OUTBOUND_PORTS, EXCLUDE_OUTBOUND_RANGES, INCLUDE_OUTBOUND_PORTS,
    INCLUDE_OUTBOUND_RANGES, PodAnnotations,
};
use sluice_testbed::agent::probe::Way;

use super::{
    BOTH, Case,
    Expect::{Direct, Refused},
    OUT, V4,
};
use crate::suite::conn_spec::{CLOSED, Origin, Server, Source, Target};

const ROW1: &str = "O1";
const ROW2: &str = "O2";
const ROW4: &str = "O4";
const ROW7: &str = "O7";
const ROW8: &str = "O8";
const ROW9: &str = "O9";
const ROW10: &str = "O10";
const ROW11: &str = "O11";

const TWO: Target = Target::Outside(Server::Two);
const THREE: Target = Target::Outside(Server::Three);

fn ranges(value: &str) -> PodAnnotations {
    PodAnnotations::default().with(INCLUDE_OUTBOUND_RANGES, value)
}

fn without(value: &str) -> PodAnnotations {
    PodAnnotations::default().with(EXCLUDE_OUTBOUND_RANGES, value)
}

fn without_ports(value: &str) -> PodAnnotations {
    PodAnnotations::default().with(EXCLUDE_OUTBOUND_PORTS, value)
}

/// 5,000 ranges beside the servers', and one with the first server in the middle.
fn thousands() -> PodAnnotations {
    let range = |n: u32| match n {
        2500 => "198.18.0.0/24".to_owned(),
        2501 => "2001:db8:1::/64".to_owned(),
        n if n % 2 == 0 => format!("10.{}.{}.0/24", 100 + n / 256, n % 256),
        n => format!("2001:db9:{n:x}::/48"),
    };
    without(&(0..5000).map(range).collect::<Vec<_>>().join(","))
}

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "a server is reached through the proxy",
        source: ROW10,
        ..OUT
    },
    Case {
        name: "root is no exception",
        source: ROW10,
        from: Origin::Root,
        ..OUT
    },
    Case {
        name: "another Pod is reached through the proxy",
        source: ROW10,
        to: Target::Peer,
        ..OUT
    },
    Case {
        name: "the node is reached through the proxy",
        source: ROW10,
        to: Target::Node,
        ..OUT
    },
    Case {
        name: "a closed port is reached through the proxy",
        source: ROW10,
        port: CLOSED,
        ..OUT
    },
    Case {
        name: "without a proxy the application is refused",
        source: "P6",
        settings: || PodAnnotations {
            proxy: false,
            ..PodAnnotations::default()
        },
        expect: Refused,
        ..OUT
    },
    Case {
        name: "15020 is direct by default",
        source: ROW1,
        port: 15020,
        expect: Direct,
        ..OUT
    },
    Case {
        name: "an excluded port is direct",
        source: ROW1,
        settings: || without_ports("443, 80"),
        expect: Direct,
        ..OUT
    },
    Case {
        name: "an explicit list replaces 15020",
        source: ROW1,
        settings: || without_ports("443, 80"),
        port: 15020,
        ..OUT
    },
    Case {
        name: "an empty list of excluded ports replaces 15020",
        source: ROW1,
        settings: || without_ports(""),
        port: 15020,
        ..OUT
    },
    Case {
        name: "an excluded range of ports is direct",
        source: "A7",
        settings: || without_ports("8000-8999"),
        port: 8080,
        expect: Direct,
        ..OUT
    },
    Case {
        name: "a port above an excluded range is redirected",
        source: "A7",
        settings: || without_ports("8000-8999"),
        port: 9000,
        ..OUT
    },
    Case {
        name: "an excluded port wins over an included range",
        source: ROW1,
        settings: || {
            without_ports("80").with(INCLUDE_OUTBOUND_RANGES, "198.18.0.0/15,2001:db8::/32")
        },
        expect: Direct,
        ..OUT
    },
    Case {
        name: "the proxy's source towards its application is direct",
        source: ROW2,
        from: Origin::Proxy,
        bound: Source::Passthrough,
        to: Target::Pod,
        families: BOTH,
        expect: Direct,
        ..OUT
    },
    Case {
        name: "the Pod's own address is direct",
        source: ROW4,
        to: Target::Pod,
        expect: Direct,
        ..OUT
    },
    Case {
        name: "127.0.0.1 and ::1 are direct",
        source: ROW4,
        to: Target::Loopback,
        expect: Direct,
        ..OUT
    },
    Case {
        name: "127.0.0.2 is direct",
        source: ROW4,
        to: Target::LoopbackSecond,
        families: &[super::Family::V4, super::Family::Mapped],
        expect: Direct,
        ..OUT
    },
    Case {
        name: "an included loopback range redirects 127.0.0.2",
        source: "O4",
        settings: || ranges("127.0.0.0/8"),
        to: Target::LoopbackSecond,
        families: V4,
        ..OUT
    },
    Case {
        name: "127.0.0.1 is direct even if loopback is included",
        source: ROW7,
        settings: || ranges("127.0.0.0/8"),
        to: Target::Loopback,
        families: V4,
        expect: Direct,
        ..OUT
    },
    Case {
        name: "an excluded range is direct",
        source: ROW8,
        settings: || without("198.18.7.0/24, 2001:db8:1:7::/64"),
        to: TWO,
        expect: Direct,
        ..OUT
    },
    Case {
        name: "a server outside an excluded range is redirected",
        source: ROW8,
        settings: || without("198.18.7.0/24, 2001:db8:1:7::/64"),
        ..OUT
    },
    Case {
        name: "an excluded address inside an included range is direct",
        source: ROW8,
        settings: || {
            ranges("198.18.0.0/15,2001:db8::/32")
                .with(EXCLUDE_OUTBOUND_RANGES, "198.18.7.7/32,2001:db8:1:7::7/128")
        },
        to: TWO,
        expect: Direct,
        ..OUT
    },
    Case {
        name: "an excluded range wins over a narrower included one",
        source: ROW8,
        settings: || {
            ranges("198.18.7.7/32,2001:db8:1:7::7/128")
                .with(EXCLUDE_OUTBOUND_RANGES, "198.18.0.0/15,2001:db8::/32")
        },
        to: TWO,
        expect: Direct,
        ..OUT
    },
    Case {
        name: "an excluded range wins over an included port",
        source: ROW8,
        settings: || without("198.18.7.0/24, 2001:db8:1:7::/64").with(INCLUDE_OUTBOUND_PORTS, "80"),
        to: TWO,
        expect: Direct,
        ..OUT
    },
    Case {
        name: "5,000 ranges: the one with the address is found",
        source: "A8",
        settings: thousands,
        expect: Direct,
        ..OUT
    },
    Case {
        name: "5,000 ranges: an address in none of them is redirected",
        source: "A8",
        settings: thousands,
        to: THREE,
        ..OUT
    },
    Case {
        name: "an included port is redirected outside the included ranges",
        source: ROW9,
        settings: || ranges("198.18.7.0/24").with(INCLUDE_OUTBOUND_PORTS, "9000,80"),
        ..OUT
    },
    Case {
        name: "a port that is not included is direct outside the included ranges",
        source: ROW9,
        settings: || ranges("198.18.7.0/24").with(INCLUDE_OUTBOUND_PORTS, "9000,80"),
        port: 443,
        expect: Direct,
        ..OUT
    },
    Case {
        name: "an included range is redirected",
        source: ROW10,
        settings: || ranges("198.18.7.0/24,2001:db8:1:7::/64"),
        to: TWO,
        ..OUT
    },
    Case {
        name: "a server outside the included ranges is direct",
        source: ROW10,
        settings: || ranges("198.18.7.0/24,2001:db8:1:7::/64"),
        expect: Direct,
        ..OUT
    },
    Case {
        name: "a list of IPv4 ranges redirects no IPv6 address",
        source: ROW10,
        settings: || ranges("198.18.7.0/24"),
        families: super::V6,
        to: TWO,
        expect: Direct,
        ..OUT
    },
    Case {
        name: "an empty list of ranges redirects nothing",
        source: "A4",
        settings: || ranges(""),
        expect: Direct,
        ..OUT
    },
    Case {
        name: "a list of * redirects every range",
        source: "A4",
        settings: || ranges("*"),
        ..OUT
    },
    Case {
        name: "an empty list of ranges leaves included ports",
        source: "A6",
        settings: || ranges("").with(INCLUDE_OUTBOUND_PORTS, "80"),
        ..OUT
    },
    Case {
        name: "datagrams are direct",
        source: ROW11,
        way: Way::Udp,
        port: 8080,
        expect: Direct,
        ..OUT
    },
    Case {
        name: "datagrams to port 53 are direct without DNS capture",
        source: ROW11,
        way: Way::UdpUnconnected,
        port: 53,
        expect: Direct,
        ..OUT
    },
];
