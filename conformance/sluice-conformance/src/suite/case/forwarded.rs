//! Virtual interfaces: the proxy gets the connections of the hosts behind them.

use sluice_lab::pod_annotations::{
    EXCLUDE_OUTBOUND_PORTS, EXCLUDE_OUTBOUND_RANGES, INCLUDE_INBOUND_PORTS, INCLUDE_OUTBOUND_PORTS,
    INCLUDE_OUTBOUND_RANGES, KUBEVIRT_INTERFACES, PodAnnotations, REROUTE_INTERFACES,
};
use sluice_testbed::agent::probe::Way;

use super::{
    Case,
    Expect::{Direct, Outbound},
    OUT,
};
use crate::suite::{
    behind::BRIDGE,
    conn_spec::{Origin, Server, Target},
};

fn behind() -> PodAnnotations {
    PodAnnotations::default().with(REROUTE_INTERFACES, BRIDGE)
}

/// Neither the Pod nor the second server is in these networks.
fn some() -> PodAnnotations {
    behind().with(INCLUDE_OUTBOUND_RANGES, "198.18.0.1/32,2001:db8:1::1/128")
}

const FROM: Case = Case {
    source: "A13",
    settings: behind,
    from: Origin::Behind,
    ..OUT
};

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "the proxy gets a connection from behind a virtual interface",
        ..FROM
    },
    Case {
        name: "the earlier annotation has the same meaning",
        settings: || PodAnnotations::default().with(KUBEVIRT_INTERFACES, BRIDGE),
        ..FROM
    },
    Case {
        name: "an interface that does not exist changes nothing",
        settings: || behind().with(REROUTE_INTERFACES, "tun7, docker0"),
        ..FROM
    },
    Case {
        name: "a connection to another Pod",
        to: Target::Peer,
        ..FROM
    },
    Case {
        name: "a connection to the Pod itself is outbound",
        to: Target::Pod,
        port: 8080,
        ..FROM
    },
    Case {
        name: "a connection to the node",
        to: Target::Node,
        ..FROM
    },
    Case {
        name: "a connection to a port that the proxy reserves",
        port: 15020,
        ..FROM
    },
    Case {
        name: "excluded ports and networks do not matter",
        settings: || {
            behind()
                .with(EXCLUDE_OUTBOUND_PORTS, "80")
                .with(EXCLUDE_OUTBOUND_RANGES, "198.18.0.0/15,2001:db8::/32")
        },
        ..FROM
    },
    Case {
        name: "an included network is redirected",
        settings: some,
        ..FROM
    },
    Case {
        name: "another network is not redirected",
        settings: some,
        to: Target::Outside(Server::Two),
        expect: Direct,
        ..FROM
    },
    Case {
        name: "included ports do not matter",
        settings: || some().with(INCLUDE_OUTBOUND_PORTS, "80"),
        to: Target::Outside(Server::Two),
        expect: Direct,
        ..FROM
    },
    Case {
        name: "a connection to the Pod is not inbound",
        settings: || some().with(INCLUDE_INBOUND_PORTS, "*"),
        to: Target::Pod,
        port: 8080,
        expect: Direct,
        ..FROM
    },
    Case {
        name: "a DNS query is forwarded",
        settings: || PodAnnotations {
            dns: true,
            ..behind()
        },
        port: 53,
        way: Way::Udp,
        expect: Direct,
        ..FROM
    },
    Case {
        name: "a DNS query over TCP is a connection",
        settings: || PodAnnotations {
            dns: true,
            ..behind()
        },
        port: 53,
        expect: Outbound,
        ..FROM
    },
    Case {
        name: "the application of a Pod with a virtual interface",
        from: Origin::Application,
        ..FROM
    },
    Case {
        name: "the proxy reaches the host behind the interface",
        from: Origin::Proxy,
        to: Target::Behind,
        expect: Direct,
        ..FROM
    },
];
