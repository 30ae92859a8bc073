//! DNS queries of a Pod whose sidecar takes DNS.

use crate::attack::agent::Trick;
use crate::attack::net::{Goal, MAPPED, V4, V6};
use crate::attack::{Act, Attacker::Process, Case};

pub(crate) const CASES: &[Case] = &[
    Case::stopped(
        "dns-tcp-4",
        Process,
        "DNS over TCP to a foreign resolver, IPv4",
        Act::Net(V4.at(53).with_dns()),
    ),
    Case::stopped(
        "dns-connected-4",
        Process,
        "DNS to a foreign resolver by a connected UDP socket, IPv4",
        Act::Net(V4.by(Trick::Udp).at(53).with_dns()),
    ),
    Case::stopped(
        "dns-sendto-4",
        Process,
        "DNS to a foreign resolver by sendto(), IPv4",
        Act::Net(V4.by(Trick::UdpUnconnected).at(53).with_dns()),
    ),
    Case::stopped(
        "dns-sendmmsg-4",
        Process,
        "DNS to a foreign resolver by sendmmsg(), IPv4",
        Act::Net(V4.by(Trick::UdpMany).at(53).with_dns()),
    ),
    Case::stopped(
        "dns-tcp-6",
        Process,
        "DNS over TCP to a foreign resolver, IPv6",
        Act::Net(V6.at(53).with_dns()),
    ),
    Case::stopped(
        "dns-connected-6",
        Process,
        "DNS to a foreign resolver by a connected UDP socket, IPv6",
        Act::Net(V6.by(Trick::Udp).at(53).with_dns()),
    ),
    Case::stopped(
        "dns-sendto-6",
        Process,
        "DNS to a foreign resolver by sendto(), IPv6",
        Act::Net(V6.by(Trick::UdpUnconnected).at(53).with_dns()),
    ),
    Case::stopped(
        "dns-sendmmsg-6",
        Process,
        "DNS to a foreign resolver by sendmmsg(), IPv6",
        Act::Net(V6.by(Trick::UdpMany).at(53).with_dns()),
    ),
    Case::stopped(
        "dns-mapped",
        Process,
        "DNS to a v4-mapped resolver by sendto()",
        Act::Net(MAPPED.by(Trick::UdpUnconnected).at(53).with_dns()),
    ),
    Case::stopped(
        "dns-wildcard",
        Process,
        "DNS to 0.0.0.0:53",
        Act::Net(
            V4.by(Trick::UdpUnconnected)
                .to(Goal::Ip("0.0.0.0"))
                .at(53)
                .with_dns(),
        ),
    ),
];
