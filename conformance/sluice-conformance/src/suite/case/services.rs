//! Connections to Services. With `--balancer` a socket load balancer translates them beside Sluice; the
//! decisions and what the application sees must be the same.

use sluice_lab::pod_annotations::{
    EXCLUDE_OUTBOUND_PORTS, EXCLUDE_OUTBOUND_RANGES, INCLUDE_OUTBOUND_PORTS,
    INCLUDE_OUTBOUND_RANGES, PodAnnotations,
};
use sluice_testbed::agent::probe::Way;

use super::{
    Case,
    Expect::{Direct, Dns},
    OUT,
};
use crate::suite::conn_spec::{Origin, Service, Target};

const NETWORKS: &str = "10.96.0.0/16,fd00:96::/32";
const BACKENDS: &str = "198.18.0.0/24,2001:db8:1::/64";

/// A call to a Service on port 80, whose backend serves port 8080.
const CALL: Case = Case {
    to: Target::Service(Service::One),
    ..OUT
};

/// A question to a Service on port 53, whose backend serves port 5353.
const ASK: Case = Case {
    settings: dns,
    port: 53,
    expect: Dns,
    ..CALL
};

fn with(key: &str, value: &str) -> PodAnnotations {
    PodAnnotations::default().with(key, value)
}

fn dns() -> PodAnnotations {
    PodAnnotations {
        dns: true,
        ..PodAnnotations::default()
    }
}

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "a Service is reached through the proxy",
        source: "O10",
        ..CALL
    },
    Case {
        name: "a non-blocking socket reaches a Service through the proxy",
        source: "O10",
        way: Way::NonBlocking,
        ..CALL
    },
    Case {
        name: "a socket that connects again reaches a Service through the proxy",
        source: "O10",
        way: Way::Again,
        ..CALL
    },
    Case {
        name: "the Pod's own Service is reached through the proxy",
        source: "O10",
        to: Target::Service(Service::Own),
        ..CALL
    },
    Case {
        name: "the proxy's own connection to a Service is direct",
        source: "O5",
        from: Origin::Proxy,
        expect: Direct,
        ..CALL
    },
    Case {
        name: "an excluded port of a Service is direct",
        source: "O1",
        settings: || with(EXCLUDE_OUTBOUND_PORTS, "80"),
        expect: Direct,
        ..CALL
    },
    Case {
        name: "an excluded port of the backend does not matter",
        source: "O1",
        settings: || with(EXCLUDE_OUTBOUND_PORTS, "8080"),
        ..CALL
    },
    Case {
        name: "an excluded Service network is direct",
        source: "O8",
        settings: || with(EXCLUDE_OUTBOUND_RANGES, NETWORKS),
        expect: Direct,
        ..CALL
    },
    Case {
        name: "an excluded network of backends does not matter",
        source: "O8",
        settings: || with(EXCLUDE_OUTBOUND_RANGES, BACKENDS),
        ..CALL
    },
    Case {
        name: "an included port of a Service is redirected outside the included ranges",
        source: "O9",
        settings: || with(INCLUDE_OUTBOUND_RANGES, "").with(INCLUDE_OUTBOUND_PORTS, "80"),
        ..CALL
    },
    Case {
        name: "an included port of the backend does not matter",
        source: "O9",
        settings: || with(INCLUDE_OUTBOUND_RANGES, "").with(INCLUDE_OUTBOUND_PORTS, "8080"),
        expect: Direct,
        ..CALL
    },
    Case {
        name: "an included Service network is redirected",
        source: "O10",
        settings: || with(INCLUDE_OUTBOUND_RANGES, NETWORKS),
        ..CALL
    },
    Case {
        name: "an included Service network includes the Pod's own Service",
        source: "O10",
        settings: || with(INCLUDE_OUTBOUND_RANGES, NETWORKS),
        to: Target::Service(Service::Own),
        ..CALL
    },
    Case {
        name: "an included network of backends does not matter",
        source: "O10",
        settings: || with(INCLUDE_OUTBOUND_RANGES, BACKENDS),
        expect: Direct,
        ..CALL
    },
    Case {
        name: "a query to a Service is captured over TCP",
        source: "O6",
        ..ASK
    },
    Case {
        name: "a query to a Service is captured from a connected socket",
        source: "O6",
        way: Way::Udp,
        ..ASK
    },
    Case {
        name: "a query to a Service is captured from an unconnected socket",
        source: "O6",
        way: Way::UdpUnconnected,
        ..ASK
    },
    Case {
        name: "the proxy's own query to a Service is direct",
        source: "O5",
        from: Origin::Proxy,
        way: Way::UdpUnconnected,
        expect: Direct,
        ..ASK
    },
    Case {
        name: "an excluded port 53 of a Service is direct",
        source: "O1",
        settings: || dns().with(EXCLUDE_OUTBOUND_PORTS, "53"),
        way: Way::UdpUnconnected,
        expect: Direct,
        ..ASK
    },
    Case {
        name: "datagrams from a connected socket to a Service are direct",
        source: "O11",
        way: Way::Udp,
        port: 8080,
        expect: Direct,
        ..ASK
    },
    Case {
        name: "datagrams from an unconnected socket to a Service are direct",
        source: "O11",
        way: Way::UdpUnconnected,
        port: 8080,
        expect: Direct,
        ..ASK
    },
];
