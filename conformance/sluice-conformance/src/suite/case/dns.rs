//! DNS capture.

use sluice_lab::pod_annotations::{EXCLUDE_OUTBOUND_PORTS, PodAnnotations};
use sluice_testbed::agent::probe::Way;

use super::{
    Case, EVERY,
    Expect::{Direct, Dns, Inbound},
    OUT, V4,
};
use crate::suite::conn_spec::{Origin, Target};

const ROW6: &str = "O6";

fn dns() -> PodAnnotations {
    PodAnnotations {
        dns: true,
        ..PodAnnotations::default()
    }
}

/// A question to a resolver beyond the node.
const ASK: Case = Case {
    settings: dns,
    port: 53,
    families: EVERY,
    expect: Dns,
    ..OUT
};

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "a query over TCP is captured",
        source: ROW6,
        ..ASK
    },
    Case {
        name: "a query from a connected socket is captured",
        source: ROW6,
        way: Way::Udp,
        ..ASK
    },
    Case {
        name: "a query from an unconnected socket is captured",
        source: ROW6,
        way: Way::UdpUnconnected,
        ..ASK
    },
    Case {
        name: "a resolver on 127.0.0.53 is captured",
        source: "O4",
        to: Target::Resolver,
        families: V4,
        way: Way::UdpUnconnected,
        ..ASK
    },
    Case {
        name: "a resolver on 127.0.0.53 is captured over TCP",
        source: "O4",
        to: Target::Resolver,
        families: V4,
        ..ASK
    },
    Case {
        name: "the proxy's own queries are direct",
        source: "O5",
        from: Origin::Proxy,
        way: Way::Udp,
        expect: Direct,
        ..ASK
    },
    Case {
        name: "the proxy's own queries over TCP are direct",
        source: "O5",
        from: Origin::Proxy,
        expect: Direct,
        ..ASK
    },
    Case {
        name: "the proxy that asks port 53 of its own Pod is not redirected",
        source: "O3",
        from: Origin::Proxy,
        to: Target::Pod,
        families: super::BOTH,
        expect: Direct,
        ..ASK
    },
    Case {
        name: "an excluded port 53 is direct",
        source: "O1",
        settings: || dns().with(EXCLUDE_OUTBOUND_PORTS, "53"),
        way: Way::Udp,
        expect: Direct,
        ..ASK
    },
    Case {
        name: "other datagrams are direct",
        source: "O11",
        way: Way::Udp,
        port: 8080,
        expect: Direct,
        ..ASK
    },
    Case {
        name: "other connections go to the proxy",
        source: "O10",
        port: 80,
        expect: super::Expect::Outbound,
        ..ASK
    },
    Case {
        name: "a query from outside to the Pod is inbound",
        source: "I3",
        from: Origin::Peer,
        to: Target::Pod,
        expect: Inbound,
        ..ASK
    },
];
