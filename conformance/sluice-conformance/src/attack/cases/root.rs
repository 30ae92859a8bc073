//! Connections of root, of a sidecar, and from nested namespaces.

use super::{RAW, SIDECAR};
use crate::attack::agent::Trick;
use crate::attack::net::{V4, V6};
use crate::attack::{
    Act,
    Attacker::{ContainerRoot, Process, Sidecar},
    Case,
};
use crate::suite::conn_spec::Origin;

pub(crate) const CASES: &[Case] = &[
    Case::stopped(
        "root-connect-4",
        ContainerRoot,
        "connect() as root, IPv4",
        Act::Net(V4.from(Origin::Root)),
    ),
    Case::stopped(
        "root-mark-4",
        ContainerRoot,
        "SO_MARK 0x539 as root, IPv4",
        Act::Net(V4.from(Origin::Root).by(Trick::Mark(0x539))),
    ),
    Case::stopped(
        "root-device-4",
        ContainerRoot,
        "SO_BINDTODEVICE as root, IPv4",
        Act::Net(V4.from(Origin::Root).by(Trick::Device)),
    ),
    Case::stopped(
        "root-transparent-4",
        ContainerRoot,
        "IP_TRANSPARENT with an address of another host, IPv4",
        Act::Net(V4.from(Origin::Root).by(Trick::Transparent)),
    ),
    Case::passed(
        "raw-syn-4",
        ContainerRoot,
        "a TCP SYN by a raw socket, IPv4",
        Act::Net(V4.from(Origin::Root).by(Trick::RawSyn).at(81)),
        RAW,
    ),
    Case::passed(
        "sidecar-connect-4",
        Sidecar,
        "connect() as the sidecar's user, IPv4",
        Act::Net(V4.from(Origin::Proxy)),
        SIDECAR,
    ),
    Case::stopped(
        "nested-4",
        Process,
        "connect() in a user and network namespace of the attacker's own, IPv4",
        Act::Net(V4.by(Trick::NestedNamespace)),
    ),
    Case::stopped(
        "root-connect-6",
        ContainerRoot,
        "connect() as root, IPv6",
        Act::Net(V6.from(Origin::Root)),
    ),
    Case::stopped(
        "root-mark-6",
        ContainerRoot,
        "SO_MARK 0x539 as root, IPv6",
        Act::Net(V6.from(Origin::Root).by(Trick::Mark(0x539))),
    ),
    Case::stopped(
        "root-device-6",
        ContainerRoot,
        "SO_BINDTODEVICE as root, IPv6",
        Act::Net(V6.from(Origin::Root).by(Trick::Device)),
    ),
    Case::stopped(
        "root-transparent-6",
        ContainerRoot,
        "IP_TRANSPARENT with an address of another host, IPv6",
        Act::Net(V6.from(Origin::Root).by(Trick::Transparent)),
    ),
    Case::passed(
        "raw-syn-6",
        ContainerRoot,
        "a TCP SYN by a raw socket, IPv6",
        Act::Net(V6.from(Origin::Root).by(Trick::RawSyn).at(81)),
        RAW,
    ),
    Case::passed(
        "sidecar-connect-6",
        Sidecar,
        "connect() as the sidecar's user, IPv6",
        Act::Net(V6.from(Origin::Proxy)),
        SIDECAR,
    ),
];
