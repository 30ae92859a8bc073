//! Protocols that a sidecar does not take.

use super::TCP_ONLY;
use crate::attack::agent::Trick;
use crate::attack::net::{V4, V6};
use crate::attack::{Act, Attacker::Process, Case};

pub(crate) const CASES: &[Case] = &[
    Case::passed(
        "sctp-4",
        Process,
        "SCTP instead of TCP",
        Act::Net(V4.by(Trick::Protocol(132))),
        TCP_ONLY,
    ),
    Case::passed(
        "dccp-4",
        Process,
        "DCCP instead of TCP",
        Act::Net(V4.by(Trick::Protocol(33))),
        TCP_ONLY,
    ),
    Case::passed(
        "udplite-4",
        Process,
        "UDP-Lite instead of TCP",
        Act::Net(V4.by(Trick::Protocol(136))),
        TCP_ONLY,
    ),
    Case::passed(
        "quic-4",
        Process,
        "UDP to port 443, as QUIC sends it",
        Act::Net(V4.by(Trick::Udp).at(443)),
        TCP_ONLY,
    ),
    Case::passed(
        "quic-6",
        Process,
        "UDP to port 443, as QUIC sends it, IPv6",
        Act::Net(V6.by(Trick::Udp).at(443)),
        TCP_ONLY,
    ),
];
