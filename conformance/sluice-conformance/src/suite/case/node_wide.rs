//! Settings of Istio for all Pods of a node: groups, loopback addresses, dual stack.

use sluice_lab::{mesh::Mesh, pod_annotations::PodAnnotations};
use sluice_testbed::agent::probe::Way;

use super::{
    BOTH, Case,
    Expect::{Direct, Dns, Inbound, Outbound},
    IN, OUT, V4, V6,
};
use crate::suite::conn_spec::{Origin, Target};

/// The client's group alone is redirected; dual stack.
fn only() -> PodAnnotations {
    PodAnnotations::of(Mesh::IstioGroups)
}

/// All groups but the client's are redirected; a loopback network; no dual stack.
fn but() -> PodAnnotations {
    PodAnnotations::of(Mesh::IstioOtherGroups)
}

fn with_dns(settings: PodAnnotations) -> PodAnnotations {
    PodAnnotations {
        dns: true,
        ..settings
    }
}

const ONLY: Case = Case {
    source: "N1",
    settings: only,
    families: BOTH,
    ..OUT
};
const BUT: Case = Case {
    source: "N2",
    settings: but,
    families: V4,
    ..OUT
};
const LOOPBACK: Case = Case {
    source: "N3",
    to: Target::LoopbackSecond,
    port: 8080,
    expect: Direct,
    ..BUT
};
const SINGLE: Case = Case {
    source: "N4",
    families: V6,
    expect: Direct,
    ..BUT
};

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "an included group is redirected",
        ..ONLY
    },
    Case {
        name: "another group is not redirected",
        from: Origin::Root,
        expect: Direct,
        ..ONLY
    },
    Case {
        name: "queries of an included group are captured",
        settings: || with_dns(only()),
        port: 53,
        way: Way::Udp,
        expect: Dns,
        ..ONLY
    },
    Case {
        name: "queries of another group over TCP are not captured",
        settings: || with_dns(only()),
        from: Origin::Root,
        port: 53,
        expect: Direct,
        ..ONLY
    },
    Case {
        name: "groups do not matter inbound",
        source: ONLY.source,
        settings: only,
        families: BOTH,
        ..IN
    },
    Case {
        name: "the proxy's call to its own Pod is inbound for any group",
        from: Origin::Proxy,
        to: Target::Pod,
        port: 8080,
        expect: Inbound,
        ..ONLY
    },
    Case {
        name: "an excluded group is not redirected",
        expect: Direct,
        ..BUT
    },
    Case {
        name: "every other group is redirected",
        from: Origin::Root,
        expect: Outbound,
        ..BUT
    },
    Case {
        name: "queries of an excluded group over TCP are not captured",
        settings: || with_dns(but()),
        port: 53,
        expect: Direct,
        ..BUT
    },
    Case {
        name: "the proxy reaches a loopback address of the application",
        from: Origin::Proxy,
        ..LOOPBACK
    },
    Case {
        name: "the application reaches a loopback address",
        from: Origin::Root,
        ..LOOPBACK
    },
    Case {
        name: "IPv6 is direct without dual stack",
        from: Origin::Root,
        ..SINGLE
    },
    Case {
        name: "IPv6 is not inbound without dual stack",
        source: SINGLE.source,
        settings: but,
        families: V6,
        expect: Direct,
        ..IN
    },
    Case {
        name: "IPv4 is inbound without dual stack",
        source: SINGLE.source,
        settings: but,
        families: V4,
        ..IN
    },
];
