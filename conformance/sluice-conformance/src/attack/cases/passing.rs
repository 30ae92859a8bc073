//! Sockets that pass between Pods, and sockets on the proxy's ports.

use super::ELSEWHERE;
use crate::attack::agent::Trick;
use crate::attack::net::{V4, V6};
use crate::attack::{
    Act,
    Attacker::{ContainerRoot, Process},
    Case,
};
use crate::suite::conn_spec::Origin;

pub(crate) const CASES: &[Case] = &[
    Case::stopped(
        "connected-elsewhere-4",
        ContainerRoot,
        "a socket of the Pod that a process of another Pod connects, IPv4",
        Act::Net(V4.from(Origin::Root).by(Trick::ConnectedElsewhere)),
    ),
    Case::passed(
        "borrowed-4",
        ContainerRoot,
        "a socket of another Pod that a process of the Pod connects, IPv4",
        Act::Net(V4.from(Origin::Root).by(Trick::Borrowed)),
        ELSEWHERE,
    ),
    Case::stopped(
        "connected-elsewhere-6",
        ContainerRoot,
        "a socket of the Pod that a process of another Pod connects, IPv6",
        Act::Net(V6.from(Origin::Root).by(Trick::ConnectedElsewhere)),
    ),
    Case::passed(
        "borrowed-6",
        ContainerRoot,
        "a socket of another Pod that a process of the Pod connects, IPv6",
        Act::Net(V6.from(Origin::Root).by(Trick::Borrowed)),
        ELSEWHERE,
    ),
    Case::stopped(
        "listen-15001-4",
        Process,
        "a listener on port 15001 before the sidecar starts, IPv4",
        Act::Net(V4.by(Trick::Listen(15001)).without_sidecar()),
    ),
    Case::stopped(
        "listen-15001-6",
        Process,
        "a listener on port 15001 before the sidecar starts, IPv6",
        Act::Net(V6.by(Trick::Listen(15001)).without_sidecar()),
    ),
    Case::stopped(
        "listen-15006-4",
        Process,
        "a listener on port 15006 before the sidecar starts, IPv4",
        Act::Net(V4.by(Trick::Listen(15006)).without_sidecar()),
    ),
    Case::stopped(
        "listen-15006-6",
        Process,
        "a listener on port 15006 before the sidecar starts, IPv6",
        Act::Net(V6.by(Trick::Listen(15006)).without_sidecar()),
    ),
    Case::stopped(
        "listen-15053-4",
        Process,
        "a listener on port 15053 before the sidecar starts, IPv4",
        Act::Net(V4.by(Trick::Listen(15053)).without_sidecar()),
    ),
    Case::stopped(
        "listen-15053-6",
        Process,
        "a listener on port 15053 before the sidecar starts, IPv6",
        Act::Net(V6.by(Trick::Listen(15053)).without_sidecar()),
    ),
    Case::stopped(
        "listen-root-15001-4",
        ContainerRoot,
        "root's listener on port 15001 before the sidecar starts, IPv4",
        Act::Net(
            V4.from(Origin::Root)
                .by(Trick::Listen(15001))
                .without_sidecar(),
        ),
    ),
    Case::stopped(
        "reuseport-15001-4",
        Process,
        "SO_REUSEPORT beside the sidecar's listener on port 15001, IPv4",
        Act::Net(V4.by(Trick::Listen(15001))),
    ),
    Case::stopped(
        "reuseport-15001-6",
        Process,
        "SO_REUSEPORT beside the sidecar's listener on port 15001, IPv6",
        Act::Net(V6.by(Trick::Listen(15001))),
    ),
    Case::stopped(
        "listen-root-15006-4",
        ContainerRoot,
        "root's listener on port 15006 before the sidecar starts, IPv4",
        Act::Net(
            V4.from(Origin::Root)
                .by(Trick::Listen(15006))
                .without_sidecar(),
        ),
    ),
    Case::stopped(
        "reuseport-15006-4",
        Process,
        "SO_REUSEPORT beside the sidecar's listener on port 15006, IPv4",
        Act::Net(V4.by(Trick::Listen(15006))),
    ),
    Case::stopped(
        "reuseport-15006-6",
        Process,
        "SO_REUSEPORT beside the sidecar's listener on port 15006, IPv6",
        Act::Net(V6.by(Trick::Listen(15006))),
    ),
];
