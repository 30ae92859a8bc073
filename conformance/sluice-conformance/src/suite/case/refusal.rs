//! Annotations that cannot be honoured: the Pod is refused with the reason.

use sluice_lab::pod_annotations::{
    EXCLUDE_INBOUND_PORTS, EXCLUDE_OUTBOUND_PORTS, EXCLUDE_OUTBOUND_RANGES, INCLUDE_INBOUND_PORTS,
    INCLUDE_OUTBOUND_PORTS, INCLUDE_OUTBOUND_RANGES, INTERCEPTION_MODE, KUBEVIRT_INTERFACES,
    PodAnnotations, REROUTE_INTERFACES,
};

use super::{Case, Expect::NotAdmitted, OUT};

const SOURCE: &str = "A12";
const FORWARDED: &str = "A13";

fn with(key: &str, value: &str) -> PodAnnotations {
    PodAnnotations::default().with(key, value)
}

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "an excluded inbound port that is no number",
        settings: || with(EXCLUDE_INBOUND_PORTS, "80,http"),
        expect: NotAdmitted(&[EXCLUDE_INBOUND_PORTS, "http"]),
        source: SOURCE,
        ..OUT
    },
    Case {
        name: "an included inbound port beyond 65535",
        settings: || with(INCLUDE_INBOUND_PORTS, "65536"),
        expect: NotAdmitted(&[INCLUDE_INBOUND_PORTS, "65536"]),
        source: SOURCE,
        ..OUT
    },
    Case {
        name: "an excluded outbound range of ports that runs backwards",
        settings: || with(EXCLUDE_OUTBOUND_PORTS, "90-80"),
        expect: NotAdmitted(&[EXCLUDE_OUTBOUND_PORTS, "90-80"]),
        source: SOURCE,
        ..OUT
    },
    Case {
        name: "an included outbound port with a sign",
        settings: || with(INCLUDE_OUTBOUND_PORTS, "-1"),
        expect: NotAdmitted(&[INCLUDE_OUTBOUND_PORTS, "-1"]),
        source: SOURCE,
        ..OUT
    },
    Case {
        name: "an included range that is a name",
        settings: || with(INCLUDE_OUTBOUND_RANGES, "10.0.0.0/8,example.org"),
        expect: NotAdmitted(&[INCLUDE_OUTBOUND_RANGES, "example.org"]),
        source: SOURCE,
        ..OUT
    },
    Case {
        name: "an included range with a prefix that is too long",
        settings: || with(INCLUDE_OUTBOUND_RANGES, "10.0.0.0/33"),
        expect: NotAdmitted(&[INCLUDE_OUTBOUND_RANGES, "10.0.0.0/33"]),
        source: SOURCE,
        ..OUT
    },
    Case {
        name: "a star among the excluded ranges",
        settings: || with(EXCLUDE_OUTBOUND_RANGES, "*"),
        expect: NotAdmitted(&[EXCLUDE_OUTBOUND_RANGES, "*"]),
        source: "A5",
        ..OUT
    },
    Case {
        name: "an interception mode that does not exist",
        settings: || with(INTERCEPTION_MODE, "BPF"),
        expect: NotAdmitted(&[INTERCEPTION_MODE, "BPF"]),
        source: "A9",
        ..OUT
    },
    Case {
        name: "a virtual interface beside TPROXY",
        settings: || with(KUBEVIRT_INTERFACES, "tap0").with(INTERCEPTION_MODE, "TPROXY"),
        expect: NotAdmitted(&[KUBEVIRT_INTERFACES, "tap0"]),
        source: FORWARDED,
        ..OUT
    },
    Case {
        name: "the beginning of a name as a virtual interface",
        settings: || with(REROUTE_INTERFACES, "tap+"),
        expect: NotAdmitted(&[REROUTE_INTERFACES, "tap+"]),
        source: FORWARDED,
        ..OUT
    },
];
