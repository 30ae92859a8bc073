//! Sockets with sources, marks, devices and users that the sidecar has.

use sluice_lab::PROXY;

use crate::attack::agent::Trick;
use crate::attack::net::{MAPPED, V4, V6};
use crate::attack::{Attacker::Process, Case};
use crate::suite::conn_spec::Source;

pub(crate) const CASES: &[Case] = cases![
    Process "bound-pod" [V4 V6 MAPPED] "a socket bound to the Pod's address"
        { .bound(Source::Pod) };
    Process "bound-loopback" [V4 V6 MAPPED] "a socket bound to the loopback address"
        { .bound(Source::Loopback) };
    Process "bound-broadcast" [V4 MAPPED] "a socket bound to 127.255.255.255"
        { .bound(Source::Broadcast) };
    Process "bound-broadcast-mptcp" [V4] "the same with MPTCP"
        { .bound(Source::Broadcast).by(Trick::Mptcp) };
    Process "bound-broadcast-fast-open" [V4] "the same with sendto(MSG_FASTOPEN)"
        { .bound(Source::Broadcast).by(Trick::FastOpen) };
    Process "bound-passthrough" [V4 V6 MAPPED]
        "a socket bound to the sidecar's source, 127.0.0.6 or ::6"
        { .bound(Source::Passthrough) };
    Process "freebind" [V4 V6] "IP_FREEBIND to an address of another host" { .by(Trick::Freebind) };
    Process "source-port-15001" [V4 V6] "a socket bound to port 15001"
        { .by(Trick::SourcePort(15_001)) };
    Process "transparent-user" [V4 V6] "IP_TRANSPARENT without privilege"
        { .by(Trick::Transparent) };
    Process "mark-user" [V4 V6] "SO_MARK 0x539 without privilege" { .by(Trick::Mark(0x539)) };
    Process "setuid" [V4 V6] "setuid() to the sidecar's user without privilege"
        { .by(Trick::SetUid(PROXY)) };
    Process "setgid" [V4 V6] "setgid() to the sidecar's group without privilege"
        { .by(Trick::SetGid(PROXY)) };
    Process "device" [V4 V6] "SO_BINDTODEVICE to eth0" { .by(Trick::Device) };
];
