//! Protocols that a sidecar does not take.

use super::TCP_ONLY;
use crate::attack::agent::Trick;
use crate::attack::net::{V4, V6};
use crate::attack::{Attacker::Process, Case};

pub(crate) const CASES: &[Case] = cases![
    Process "sctp" [V4] "SCTP instead of TCP" { .by(Trick::Protocol(132)).passing(TCP_ONLY) };
    Process "dccp" [V4] "DCCP instead of TCP" { .by(Trick::Protocol(33)).passing(TCP_ONLY) };
    Process "udplite" [V4] "UDP-Lite instead of TCP" { .by(Trick::Protocol(136)).passing(TCP_ONLY) };
    Process "quic" [V4 V6] "UDP to port 443, as QUIC sends it"
        { .by(Trick::Udp).at(443).passing(TCP_ONLY) };
];
