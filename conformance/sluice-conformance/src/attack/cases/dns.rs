//! DNS queries of a Pod whose sidecar takes DNS.

use crate::attack::agent::Trick;
use crate::attack::net::{Goal, MAPPED, V4, V6};
use crate::attack::{Attacker::Process, Case};
use crate::suite::conn_spec::Source;

pub(crate) const CASES: &[Case] = cases![
    Process "dns-tcp" [V4 V6] "DNS over TCP to a foreign resolver" { .at(53).with_dns() };
    Process "dns-connected" [V4 V6] "DNS to a foreign resolver by a connected UDP socket"
        { .by(Trick::Udp).at(53).with_dns() };
    Process "dns-sendto" [V4 V6] "DNS to a foreign resolver by sendto()"
        { .by(Trick::UdpUnconnected).at(53).with_dns() };
    Process "dns-sendmmsg" [V4 V6] "DNS to a foreign resolver by sendmmsg()"
        { .by(Trick::UdpMany).at(53).with_dns() };
    Process "dns" [MAPPED] "DNS to a v4-mapped resolver by sendto()"
        { .by(Trick::UdpUnconnected).at(53).with_dns() };
    Process "dns-packet-info" [V4]
        "DNS by a socket of the loopback address, with IP_PKTINFO and the Pod's address"
        { .by(Trick::UdpPacketInfo).bound(Source::Loopback).at(53).with_dns() };
    Process "dns-packet-info-broadcast" [V4] "the same by a socket bound to 127.255.255.255"
        { .by(Trick::UdpPacketInfo).bound(Source::Broadcast).at(53).with_dns() };
    Process "dns-after-v6" [V4] "DNS to a v4-mapped resolver by a socket that was connected to ::1"
        { .by(Trick::UdpAfterV6).at(53).with_dns() };
    Process "dns-wildcard" [V4] "DNS to 0.0.0.0:53"
        { .by(Trick::UdpUnconnected).to(Goal::Ip("0.0.0.0")).at(53).with_dns() };
];
