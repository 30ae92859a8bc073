//! Inbound connections.

use sluice_lab::pod_annotations::{
    EXCLUDE_INBOUND_PORTS, INCLUDE_INBOUND_PORTS, PodAnnotations, STATUS_PORT,
};
use sluice_testbed::agent::probe::Way;

use super::{Case, EVERY, Expect::Direct, IN};
use crate::suite::conn_spec::{CLOSED, Origin, Target};

const ROW1: &str = "I1";
const ROW2: &str = "I2";
const ROW3: &str = "I3";
const INCLUDE: &str = "A1";
const EXCLUDE: &str = "A2";

fn include(value: &str) -> PodAnnotations {
    PodAnnotations::default().with(INCLUDE_INBOUND_PORTS, value)
}

fn exclude(value: &str) -> PodAnnotations {
    PodAnnotations::default().with(EXCLUDE_INBOUND_PORTS, value)
}

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "a connection to a Pod's port is redirected",
        source: ROW3,
        ..IN
    },
    Case {
        name: "the same from the node",
        source: ROW3,
        from: Origin::Node,
        ..IN
    },
    Case {
        name: "the same from beyond the node",
        source: ROW3,
        from: Origin::Outside,
        ..IN
    },
    Case {
        name: "a closed port is redirected as well",
        source: ROW3,
        port: CLOSED,
        ..IN
    },
    Case {
        name: "15008 reaches the application",
        source: ROW1,
        port: 15008,
        expect: Direct,
        ..IN
    },
    Case {
        name: "15020 is never redirected",
        source: ROW2,
        port: 15020,
        expect: Direct,
        ..IN
    },
    Case {
        name: "15021 is never redirected",
        source: ROW2,
        port: 15021,
        expect: Direct,
        ..IN
    },
    Case {
        name: "15090 is never redirected",
        source: ROW2,
        port: 15090,
        expect: Direct,
        ..IN
    },
    Case {
        name: "datagrams are not redirected",
        source: ROW3,
        way: Way::Udp,
        expect: Direct,
        ..IN
    },
    Case {
        name: "the proxy's own ports are redirected",
        source: ROW3,
        port: 15001,
        ..IN
    },
    Case {
        name: "a connection over lo is not inbound",
        source: "I4",
        from: Origin::Application,
        families: EVERY,
        to: Target::Pod,
        expect: Direct,
        ..IN
    },
    Case {
        name: "an excluded port is not redirected",
        source: EXCLUDE,
        settings: || exclude("9000, 8080"),
        expect: Direct,
        ..IN
    },
    Case {
        name: "a port next to an excluded one is redirected",
        source: EXCLUDE,
        settings: || exclude("9000, 8080"),
        port: 8085,
        ..IN
    },
    Case {
        name: "an excluded range of ports is not redirected",
        source: "A7",
        settings: || exclude("8000-8999"),
        expect: Direct,
        ..IN
    },
    Case {
        name: "a port above an excluded range is redirected",
        source: "A7",
        settings: || exclude("8000-8999"),
        port: 9000,
        ..IN
    },
    Case {
        name: "an excluded list keeps 15021 excluded",
        source: ROW2,
        settings: || exclude("9000"),
        port: 15021,
        expect: Direct,
        ..IN
    },
    Case {
        name: "an included port is redirected",
        source: INCLUDE,
        settings: || include("8080,9000"),
        ..IN
    },
    Case {
        name: "a port outside the include list is not redirected",
        source: INCLUDE,
        settings: || include("8080,9000"),
        port: 80,
        expect: Direct,
        ..IN
    },
    Case {
        name: "an included range is redirected",
        source: "A7",
        settings: || include("8000-8999"),
        ..IN
    },
    Case {
        name: "an include list makes the exclude list void",
        source: INCLUDE,
        settings: || include("8080").with(EXCLUDE_INBOUND_PORTS, "8080"),
        ..IN
    },
    Case {
        name: "15021 can be included",
        source: INCLUDE,
        settings: || include("15021"),
        port: 15021,
        ..IN
    },
    Case {
        name: "an empty include list redirects no port",
        source: INCLUDE,
        settings: || include(""),
        expect: Direct,
        ..IN
    },
    Case {
        name: "an include list of * redirects every port",
        source: INCLUDE,
        settings: || include("*"),
        ..IN
    },
    Case {
        name: "a configured status port is not redirected",
        source: "A3",
        settings: || PodAnnotations::default().with(STATUS_PORT, "9080"),
        port: 9080,
        expect: Direct,
        ..IN
    },
    Case {
        name: "without a proxy the peer is refused",
        source: "P6",
        settings: || PodAnnotations {
            proxy: false,
            ..PodAnnotations::default()
        },
        expect: super::Expect::Refused,
        ..IN
    },
    Case {
        name: "without a proxy 15021 still answers",
        source: ROW2,
        settings: || PodAnnotations {
            proxy: false,
            ..PodAnnotations::default()
        },
        port: 15021,
        expect: Direct,
        ..IN
    },
];
