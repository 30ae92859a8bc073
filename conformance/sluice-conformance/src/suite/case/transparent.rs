//! `interceptionMode: TPROXY`.

use sluice_lab::pod_annotations::{
    EXCLUDE_INBOUND_PORTS, INCLUDE_INBOUND_PORTS, INTERCEPTION_MODE, PodAnnotations,
};
use sluice_testbed::agent::probe::Way;

use super::{
    Case,
    Expect::{Direct, KeptSource, Refused},
    IN, OUT,
};
use crate::suite::conn_spec::{CLOSED, Origin, Source, Target};

const MODE: &str = "A9";

fn tproxy() -> PodAnnotations {
    PodAnnotations::default().with(INTERCEPTION_MODE, "TPROXY")
}

/// With the rules of an init container as well.
fn ruled() -> PodAnnotations {
    PodAnnotations {
        ruled: true,
        ..tproxy()
    }
}

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "the proxy sees the client's address",
        source: MODE,
        settings: tproxy,
        ..IN
    },
    Case {
        name: "the same from the node",
        source: MODE,
        settings: tproxy,
        from: Origin::Node,
        ..IN
    },
    Case {
        name: "the same with Istio's rules in the Pod",
        source: MODE,
        settings: ruled,
        ..IN
    },
    Case {
        name: "an excluded port is not redirected",
        source: MODE,
        settings: || tproxy().with(EXCLUDE_INBOUND_PORTS, "8080"),
        expect: Direct,
        ..IN
    },
    Case {
        name: "only included ports are redirected",
        source: MODE,
        settings: || tproxy().with(INCLUDE_INBOUND_PORTS, "9000"),
        expect: Direct,
        ..IN
    },
    Case {
        name: "outbound connections are redirected as in REDIRECT mode",
        source: MODE,
        settings: tproxy,
        ..OUT
    },
    Case {
        name: "the Pod's own address is direct",
        source: MODE,
        settings: tproxy,
        to: Target::Pod,
        expect: Direct,
        ..OUT
    },
    Case {
        name: "the application sees the client's address",
        ..KEPT
    },
    Case {
        name: "the same by a non-blocking socket",
        way: Way::NonBlocking,
        ..KEPT
    },
    Case {
        name: "the same at an excluded port",
        settings: || tproxy().with(EXCLUDE_INBOUND_PORTS, "8080"),
        ..KEPT
    },
    Case {
        name: "the application sees the client's address with Istio's rules in the Pod",
        settings: ruled,
        ..KEPT
    },
    Case {
        name: "a closed port refuses the proxy",
        port: CLOSED,
        expect: Refused,
        ..KEPT
    },
];

/// A call of the proxy from its client's address: where Istio selects TPROXY, the sidecar has its
/// group alone.
const KEPT: Case = Case {
    source: MODE,
    settings: tproxy,
    from: Origin::ProxyGroup,
    bound: Source::Client,
    to: Target::Pod,
    port: 8080,
    expect: KeptSource,
    ..OUT
};
