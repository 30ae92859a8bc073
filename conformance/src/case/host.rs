//! Pods with other addresses.

use super::{BOTH, Case, Expect::Direct, IN, OUT, V4, V6};
use crate::{
    lab::cni::Shape,
    settings::Settings,
    suite::ask::{Origin, Target},
};

const SHAPES: &str = "DESIGN, the same holds for IPv4, IPv6 and both";
const ROUTED: &str = "CNI, the chain [ptp, portmap] as with Calico";

fn shaped(shape: Shape) -> Settings {
    Settings {
        shape,
        ..Settings::default()
    }
}

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "an IPv4 Pod goes out through the proxy",
        source: SHAPES,
        settings: || shaped(Shape::V4),
        families: V4,
        ..OUT
    },
    Case {
        name: "an IPv4 Pod is entered through the proxy",
        source: SHAPES,
        settings: || shaped(Shape::V4),
        families: V4,
        from: Origin::Node,
        ..IN
    },
    Case {
        name: "an IPv6 Pod goes out through the proxy",
        source: SHAPES,
        settings: || shaped(Shape::V6),
        families: V6,
        ..OUT
    },
    Case {
        name: "an IPv6 Pod is entered through the proxy",
        source: SHAPES,
        settings: || shaped(Shape::V6),
        families: V6,
        from: Origin::Node,
        ..IN
    },
    Case {
        name: "a Pod with two addresses of a family goes out through the proxy",
        source: SHAPES,
        settings: || shaped(Shape::Twice),
        ..OUT
    },
    Case {
        name: "the first of two addresses is entered through the proxy",
        source: SHAPES,
        settings: || shaped(Shape::Twice),
        from: Origin::Node,
        ..IN
    },
    Case {
        name: "the second of two addresses is entered through the proxy",
        source: SHAPES,
        settings: || shaped(Shape::Twice),
        from: Origin::Node,
        to: Target::PodSecond,
        ..IN
    },
    Case {
        name: "the application reaches the second address of its Pod directly",
        source: "PARITY outbound 4",
        settings: || shaped(Shape::Twice),
        to: Target::PodSecond,
        families: BOTH,
        expect: Direct,
        ..OUT
    },
    Case {
        name: "a Pod on a routed link goes out through the proxy",
        source: ROUTED,
        settings: || shaped(Shape::Routed),
        ..OUT
    },
    Case {
        name: "a Pod on a routed link is entered through the proxy",
        source: ROUTED,
        settings: || shaped(Shape::Routed),
        from: Origin::Node,
        ..IN
    },
    Case {
        name: "a Pod that is not meshed goes out directly",
        source: "PARITY sidecar.istio.io/status",
        settings: || Settings {
            annotations: std::collections::BTreeMap::new(),
            ..Settings::default()
        },
        expect: Direct,
        ..OUT
    },
];
