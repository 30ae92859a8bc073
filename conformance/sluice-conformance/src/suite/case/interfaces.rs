//! `excludeInterfaces`: connections over these interfaces are not redirected.

use sluice_lab::pod_annotations::{EXCLUDE_INTERFACES, INCLUDE_OUTBOUND_PORTS, PodAnnotations};
use sluice_testbed::{agent::probe::Way, cni::AddressPlan};

use super::{
    Case,
    Expect::{Direct, Dns, Inbound, NotAdmitted, Outbound},
    IN, OUT, V4,
};
use crate::suite::{
    conn_spec::{Origin, Server, Target},
    second_nic::IN_POD,
};

const SOURCE: &str = "A10";

fn two() -> PodAnnotations {
    PodAnnotations {
        address_plan: AddressPlan::Side,
        ..PodAnnotations::default()
    }
}

fn without(interfaces: &str) -> PodAnnotations {
    two().with(EXCLUDE_INTERFACES, interfaces)
}

fn second() -> PodAnnotations {
    without(IN_POD)
}

const BY_SECOND: Case = Case {
    source: SOURCE,
    settings: second,
    to: Target::Outside(Server::Three),
    expect: Direct,
    ..OUT
};

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "a connection over an excluded interface is direct",
        ..BY_SECOND
    },
    Case {
        name: "a query over an excluded interface is not captured",
        settings: || PodAnnotations {
            dns: true,
            ..second()
        },
        port: 53,
        way: Way::Udp,
        ..BY_SECOND
    },
    Case {
        name: "a query over another interface is captured",
        settings: || PodAnnotations {
            dns: true,
            ..second()
        },
        to: Target::Outside(Server::One),
        port: 53,
        way: Way::Udp,
        expect: Dns,
        ..BY_SECOND
    },
    Case {
        name: "an included port over an excluded interface is direct",
        settings: || second().with(INCLUDE_OUTBOUND_PORTS, "80"),
        ..BY_SECOND
    },
    Case {
        name: "a connection over another interface is redirected",
        to: Target::Outside(Server::One),
        expect: Outbound,
        ..BY_SECOND
    },
    Case {
        name: "a longer prefix over another interface is redirected",
        settings: || without("eth0"),
        to: Target::Outside(Server::One),
        ..BY_SECOND
    },
    Case {
        name: "a name that ends in + matches every name with the prefix",
        settings: || without("dummy0, net+"),
        ..BY_SECOND
    },
    Case {
        name: "a missing interface has no effect",
        settings: || without("net2"),
        to: Target::Outside(Server::One),
        expect: Outbound,
        ..BY_SECOND
    },
    Case {
        name: "a connection over a second interface is redirected unless excluded",
        settings: two,
        expect: Outbound,
        ..BY_SECOND
    },
    Case {
        name: "a connection from an excluded interface is not redirected",
        source: SOURCE,
        settings: second,
        from: Origin::Outside,
        expect: Direct,
        ..IN
    },
    Case {
        name: "a connection from another interface is redirected",
        source: SOURCE,
        settings: || without("eth0"),
        from: Origin::Outside,
        expect: Inbound,
        ..IN
    },
    Case {
        name: "the proxy that calls its own Pod is redirected",
        source: SOURCE,
        settings: || without("eth0,net1"),
        from: Origin::Proxy,
        to: Target::Pod,
        port: 8080,
        families: V4,
        expect: Inbound,
        ..OUT
    },
    Case {
        name: "the proxy that calls an unreported address of its Pod is redirected",
        source: SOURCE,
        settings: second,
        from: Origin::Proxy,
        to: Target::PodSide,
        port: 8080,
        expect: Inbound,
        ..OUT
    },
    Case {
        name: "lo cannot be excluded",
        source: SOURCE,
        settings: || PodAnnotations::default().with(EXCLUDE_INTERFACES, "lo"),
        expect: NotAdmitted(&[EXCLUDE_INTERFACES, "lo"]),
        ..OUT
    },
];
