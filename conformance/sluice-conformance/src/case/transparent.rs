//! `interceptionMode: TPROXY`.

use sluice_lab::pod_annotations::{
    EXCLUDE_INBOUND_PORTS, INCLUDE_INBOUND_PORTS, INTERCEPTION_MODE, PodAnnotations,
};

use super::{Case, Expect::Direct, IN, OUT};
use crate::suite::conn_spec::{Origin, Target};

const MODE: &str = "A9";

fn tproxy() -> PodAnnotations {
    PodAnnotations::default().with(INTERCEPTION_MODE, "TPROXY")
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
        name: "an excluded port is left alone",
        source: MODE,
        settings: || tproxy().with(EXCLUDE_INBOUND_PORTS, "8080"),
        expect: Direct,
        ..IN
    },
    Case {
        name: "only included ports are taken",
        source: MODE,
        settings: || tproxy().with(INCLUDE_INBOUND_PORTS, "9000"),
        expect: Direct,
        ..IN
    },
    Case {
        name: "what leaves the Pod is taken as ever",
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
];
