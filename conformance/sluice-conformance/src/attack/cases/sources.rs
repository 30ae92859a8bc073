//! Sockets with sources, marks, devices and users that the sidecar has.

use sluice_lab::PROXY;

use crate::attack::agent::Trick;
use crate::attack::net::{MAPPED, V4, V6};
use crate::attack::{Act, Attacker::Process, Case};
use crate::suite::conn_spec::Source;

pub(crate) const CASES: &[Case] = &[
    Case::stopped(
        "bound-pod-4",
        Process,
        "a socket bound to the Pod's address, IPv4",
        Act::Net(V4.bound(Source::Pod)),
    ),
    Case::stopped(
        "bound-loopback-4",
        Process,
        "a socket bound to the loopback address, IPv4",
        Act::Net(V4.bound(Source::Loopback)),
    ),
    Case::stopped(
        "bound-passthrough-4",
        Process,
        "a socket bound to the sidecar's source, 127.0.0.6 or ::6, IPv4",
        Act::Net(V4.bound(Source::Passthrough)),
    ),
    Case::stopped(
        "freebind-4",
        Process,
        "IP_FREEBIND to an address of another host, IPv4",
        Act::Net(V4.by(Trick::Freebind)),
    ),
    Case::stopped(
        "source-port-15001-4",
        Process,
        "a socket bound to port 15001, IPv4",
        Act::Net(V4.by(Trick::SourcePort(15_001))),
    ),
    Case::stopped(
        "transparent-user-4",
        Process,
        "IP_TRANSPARENT without privilege, IPv4",
        Act::Net(V4.by(Trick::Transparent)),
    ),
    Case::stopped(
        "mark-user-4",
        Process,
        "SO_MARK 0x539 without privilege, IPv4",
        Act::Net(V4.by(Trick::Mark(0x539))),
    ),
    Case::stopped(
        "setuid-4",
        Process,
        "setuid() to the sidecar's user without privilege, IPv4",
        Act::Net(V4.by(Trick::SetUid(PROXY))),
    ),
    Case::stopped(
        "setgid-4",
        Process,
        "setgid() to the sidecar's group without privilege, IPv4",
        Act::Net(V4.by(Trick::SetGid(PROXY))),
    ),
    Case::stopped(
        "device-4",
        Process,
        "SO_BINDTODEVICE to eth0, IPv4",
        Act::Net(V4.by(Trick::Device)),
    ),
    Case::stopped(
        "bound-pod-6",
        Process,
        "a socket bound to the Pod's address, IPv6",
        Act::Net(V6.bound(Source::Pod)),
    ),
    Case::stopped(
        "bound-loopback-6",
        Process,
        "a socket bound to the loopback address, IPv6",
        Act::Net(V6.bound(Source::Loopback)),
    ),
    Case::stopped(
        "bound-passthrough-6",
        Process,
        "a socket bound to the sidecar's source, 127.0.0.6 or ::6, IPv6",
        Act::Net(V6.bound(Source::Passthrough)),
    ),
    Case::stopped(
        "freebind-6",
        Process,
        "IP_FREEBIND to an address of another host, IPv6",
        Act::Net(V6.by(Trick::Freebind)),
    ),
    Case::stopped(
        "source-port-15001-6",
        Process,
        "a socket bound to port 15001, IPv6",
        Act::Net(V6.by(Trick::SourcePort(15_001))),
    ),
    Case::stopped(
        "transparent-user-6",
        Process,
        "IP_TRANSPARENT without privilege, IPv6",
        Act::Net(V6.by(Trick::Transparent)),
    ),
    Case::stopped(
        "mark-user-6",
        Process,
        "SO_MARK 0x539 without privilege, IPv6",
        Act::Net(V6.by(Trick::Mark(0x539))),
    ),
    Case::stopped(
        "setuid-6",
        Process,
        "setuid() to the sidecar's user without privilege, IPv6",
        Act::Net(V6.by(Trick::SetUid(PROXY))),
    ),
    Case::stopped(
        "setgid-6",
        Process,
        "setgid() to the sidecar's group without privilege, IPv6",
        Act::Net(V6.by(Trick::SetGid(PROXY))),
    ),
    Case::stopped(
        "device-6",
        Process,
        "SO_BINDTODEVICE to eth0, IPv6",
        Act::Net(V6.by(Trick::Device)),
    ),
    Case::stopped(
        "bound-pod-mapped",
        Process,
        "a socket bound to the Pod's v4-mapped address",
        Act::Net(MAPPED.bound(Source::Pod)),
    ),
    Case::stopped(
        "bound-loopback-mapped",
        Process,
        "a socket bound to the v4-mapped loopback address",
        Act::Net(MAPPED.bound(Source::Loopback)),
    ),
    Case::stopped(
        "bound-passthrough-mapped",
        Process,
        "a socket bound to the sidecar's source, ::ffff:127.0.0.6",
        Act::Net(MAPPED.bound(Source::Passthrough)),
    ),
];
