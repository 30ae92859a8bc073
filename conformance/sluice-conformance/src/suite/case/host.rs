//! Pods with other addresses.

use sluice_lab::pod_annotations::{EXCLUDE_INTERFACES, PodAnnotations};
use sluice_testbed::{agent::probe::Way, cni::AddressPlan};

use super::{
    BOTH, Case,
    Expect::{Direct, Dns, Inbound},
    IN, OUT, V4, V6,
};
use crate::suite::conn_spec::{Origin, Target};

const SHAPES: &str = "P1";
const MULTUS: &str = "P2";
const USERS: &str = "P3";
const RULED: &str = "P4";
const ROUTED: &str = "P5";

fn shaped(address_plan: AddressPlan) -> PodAnnotations {
    PodAnnotations {
        address_plan,
        ..PodAnnotations::default()
    }
}

fn with_users() -> PodAnnotations {
    PodAnnotations {
        users: true,
        ..PodAnnotations::default()
    }
}

fn ruled() -> PodAnnotations {
    PodAnnotations {
        ruled: true,
        ..PodAnnotations::default()
    }
}

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "a Pod with a user namespace connects through the proxy",
        source: USERS,
        settings: with_users,
        ..OUT
    },
    Case {
        name: "root of a Pod with a user namespace is no exception",
        source: USERS,
        settings: with_users,
        from: Origin::Root,
        ..OUT
    },
    Case {
        name: "the proxy of a Pod with a user namespace connects directly",
        source: USERS,
        settings: with_users,
        from: Origin::Proxy,
        expect: Direct,
        ..OUT
    },
    Case {
        name: "a process with the proxy's group in a Pod with a user namespace connects directly",
        source: USERS,
        settings: with_users,
        from: Origin::ProxyGroup,
        expect: Direct,
        ..OUT
    },
    Case {
        name: "a Pod with a user namespace is reached through the proxy",
        source: USERS,
        settings: with_users,
        ..IN
    },
    Case {
        name: "an IPv4 Pod connects through the proxy",
        source: SHAPES,
        settings: || shaped(AddressPlan::V4),
        families: V4,
        ..OUT
    },
    Case {
        name: "an IPv4 Pod is reached through the proxy",
        source: SHAPES,
        settings: || shaped(AddressPlan::V4),
        families: V4,
        from: Origin::Node,
        ..IN
    },
    Case {
        name: "an IPv6 Pod connects through the proxy",
        source: SHAPES,
        settings: || shaped(AddressPlan::V6),
        families: V6,
        ..OUT
    },
    Case {
        name: "an IPv6 Pod is reached through the proxy",
        source: SHAPES,
        settings: || shaped(AddressPlan::V6),
        families: V6,
        from: Origin::Node,
        ..IN
    },
    Case {
        name: "a Pod with two addresses of a family connects through the proxy",
        source: SHAPES,
        settings: || shaped(AddressPlan::Twice),
        ..OUT
    },
    Case {
        name: "the first of two addresses is reached through the proxy",
        source: SHAPES,
        settings: || shaped(AddressPlan::Twice),
        from: Origin::Node,
        ..IN
    },
    Case {
        name: "the second of two addresses is reached through the proxy",
        source: SHAPES,
        settings: || shaped(AddressPlan::Twice),
        from: Origin::Node,
        to: Target::PodSecond,
        ..IN
    },
    Case {
        name: "the application reaches the second address of its Pod directly",
        source: "O4",
        settings: || shaped(AddressPlan::Twice),
        to: Target::PodSecond,
        families: BOTH,
        expect: Direct,
        ..OUT
    },
    Case {
        name: "the proxy that calls its Pod's first address is redirected, from that address",
        source: "O3",
        settings: || shaped(AddressPlan::Twice),
        from: Origin::Proxy,
        to: Target::Pod,
        port: 8080,
        families: BOTH,
        expect: Inbound,
        ..OUT
    },
    Case {
        name: "the proxy that calls its Pod's second address is redirected, from that address",
        source: "O3",
        settings: || shaped(AddressPlan::Twice),
        from: Origin::Proxy,
        to: Target::PodSecond,
        port: 8080,
        families: BOTH,
        expect: Inbound,
        ..OUT
    },
    Case {
        name: "the application reaches an unreported address of its Pod directly",
        source: "O4",
        settings: || shaped(AddressPlan::Side),
        to: Target::PodSide,
        expect: Direct,
        ..OUT
    },
    Case {
        name: "the proxy that calls an unreported address of its Pod is redirected",
        source: "O3",
        settings: || shaped(AddressPlan::Side),
        from: Origin::Proxy,
        to: Target::PodSide,
        port: 8080,
        expect: Inbound,
        ..OUT
    },
    Case {
        name: "a Pod on a routed link connects through the proxy",
        source: ROUTED,
        settings: || shaped(AddressPlan::Routed),
        ..OUT
    },
    Case {
        name: "a Pod on a routed link is reached through the proxy",
        source: ROUTED,
        settings: || shaped(AddressPlan::Routed),
        from: Origin::Node,
        ..IN
    },
    Case {
        name: "a Pod on two networks connects through the proxy",
        source: MULTUS,
        settings: || shaped(AddressPlan::Both),
        ..OUT
    },
    Case {
        name: "a Pod on two networks is reached through the proxy",
        source: MULTUS,
        settings: || shaped(AddressPlan::Both),
        from: Origin::Node,
        ..IN
    },
    Case {
        name: "a Pod on two networks is reached through the proxy on the second",
        source: MULTUS,
        settings: || shaped(AddressPlan::Both),
        from: Origin::Node,
        to: Target::PodSecond,
        ..IN
    },
    Case {
        name: "its second network can be excluded",
        source: MULTUS,
        settings: || shaped(AddressPlan::Both).with(EXCLUDE_INTERFACES, "net1"),
        from: Origin::Node,
        to: Target::PodSecond,
        expect: Direct,
        ..IN
    },
    Case {
        name: "with an init container's rules, a server is reached through the proxy",
        source: RULED,
        settings: ruled,
        ..OUT
    },
    Case {
        name: "with an init container's rules, a peer is redirected",
        source: RULED,
        settings: ruled,
        from: Origin::Peer,
        ..IN
    },
    Case {
        name: "with an init container's rules, the proxy connects directly",
        source: RULED,
        settings: ruled,
        from: Origin::Proxy,
        expect: Direct,
        ..OUT
    },
    Case {
        name: "with an init container's rules, the proxy that calls its own Pod is redirected",
        source: RULED,
        settings: ruled,
        from: Origin::Proxy,
        to: Target::Pod,
        port: 8080,
        families: BOTH,
        expect: Inbound,
        ..OUT
    },
    Case {
        name: "with an init container's rules, queries are captured",
        source: RULED,
        settings: || PodAnnotations {
            dns: true,
            ..ruled()
        },
        port: 53,
        way: Way::UdpUnconnected,
        expect: Dns,
        ..OUT
    },
    Case {
        name: "a Pod that is not meshed connects directly",
        source: "A11",
        settings: || PodAnnotations {
            annotations: std::collections::BTreeMap::new(),
            ..PodAnnotations::default()
        },
        expect: Direct,
        ..OUT
    },
];
