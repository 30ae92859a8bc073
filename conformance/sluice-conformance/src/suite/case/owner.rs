//! Whose socket it is.

use sluice_lab::pod_annotations::PodAnnotations;

use super::{
    BOTH, Case,
    Expect::{Direct, Inbound},
    OUT,
};
use crate::suite::conn_spec::{Origin, Source, Target};

const ROW2: &str = "O2";
const ROW3: &str = "O3";
const ROWS: &str = "O3, O4, O5";
const ROW5: &str = "O5";

/// A proxy with ids of its own, as an operator may set them.
fn custom() -> PodAnnotations {
    PodAnnotations {
        uid: 4321,
        gid: 4322,
        ..PodAnnotations::default()
    }
}

const CALLS_POD: Case = Case {
    to: Target::Pod,
    families: BOTH,
    port: 8080,
    ..OUT
};

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "the proxy connects directly",
        source: ROW5,
        from: Origin::Proxy,
        expect: Direct,
        ..OUT
    },
    Case {
        name: "a process with the proxy's user connects directly",
        source: ROW5,
        from: Origin::ProxyUser,
        expect: Direct,
        ..OUT
    },
    Case {
        name: "a process with the proxy's group connects directly",
        source: ROW5,
        from: Origin::ProxyGroup,
        expect: Direct,
        ..OUT
    },
    Case {
        name: "the proxy that calls its own Pod is redirected",
        source: ROW3,
        from: Origin::Proxy,
        expect: Inbound,
        ..CALLS_POD
    },
    Case {
        name: "a process with the proxy's user that calls its own Pod is redirected",
        source: ROWS,
        from: Origin::ProxyUser,
        expect: Inbound,
        ..CALLS_POD
    },
    Case {
        name: "a process with only the proxy's group that calls its own Pod is not redirected",
        source: ROWS,
        from: Origin::ProxyGroup,
        expect: Direct,
        ..CALLS_POD
    },
    Case {
        name: "the proxy that calls 15008 of its own Pod is not redirected",
        source: ROW3,
        from: Origin::Proxy,
        port: 15008,
        expect: Direct,
        ..CALLS_POD
    },
    Case {
        name: "the proxy that calls 15021 of its own Pod is redirected",
        source: ROW3,
        from: Origin::Proxy,
        port: 15021,
        expect: Inbound,
        ..CALLS_POD
    },
    Case {
        name: "the proxy reaches 127.0.0.1 and ::1",
        source: ROW3,
        from: Origin::Proxy,
        to: Target::Loopback,
        expect: Direct,
        ..CALLS_POD
    },
    Case {
        name: "the proxy that calls 127.0.0.2 is redirected",
        source: ROW3,
        from: Origin::Proxy,
        to: Target::LoopbackSecond,
        families: super::V4,
        expect: Inbound,
        ..CALLS_POD
    },
    Case {
        name: "the proxy that calls its own Pod from its passthrough source is not redirected",
        source: ROW2,
        from: Origin::Proxy,
        bound: Source::Passthrough,
        expect: Direct,
        ..CALLS_POD
    },
    Case {
        name: "a proxy with other ids connects directly",
        source: "A14",
        settings: custom,
        from: Origin::Proxy,
        expect: Direct,
        ..OUT
    },
    Case {
        name: "a proxy with other ids that calls its own Pod is redirected",
        source: "A14",
        settings: custom,
        from: Origin::Proxy,
        expect: Inbound,
        ..CALLS_POD
    },
    Case {
        name: "the application of a proxy with other ids is redirected",
        source: "A14",
        settings: custom,
        ..OUT
    },
];
