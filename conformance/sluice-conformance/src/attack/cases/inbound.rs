//! Connections that enter a Pod.

use super::POD;
use crate::attack::agent::Trick;
use crate::attack::net::{Goal, MAPPED, V4, V6};
use crate::attack::{
    Act,
    Attacker::{Host, Neighbour},
    Case,
};
use crate::suite::conn_spec::Origin;

pub(crate) const CASES: &[Case] = &[
    Case::stopped(
        "in-neighbour-connect-4",
        Neighbour,
        "connect to the application's port by a Pod that is not meshed, IPv4",
        Act::Net(V4.from(Origin::Peer).to(POD).at(8080)),
    ),
    Case::stopped(
        "in-neighbour-fastopen-4",
        Neighbour,
        "fastopen to the application's port by a Pod that is not meshed, IPv4",
        Act::Net(V4.from(Origin::Peer).by(Trick::FastOpen).to(POD).at(8080)),
    ),
    Case::stopped(
        "in-neighbour-mptcp-4",
        Neighbour,
        "mptcp to the application's port by a Pod that is not meshed, IPv4",
        Act::Net(V4.from(Origin::Peer).by(Trick::Mptcp).to(POD).at(8080)),
    ),
    Case::stopped(
        "in-neighbour-nonblocking-4",
        Neighbour,
        "nonblocking to the application's port by a Pod that is not meshed, IPv4",
        Act::Net(
            V4.from(Origin::Peer)
                .by(Trick::NonBlocking)
                .to(POD)
                .at(8080),
        ),
    ),
    Case::stopped(
        "in-neighbour-15001-4",
        Neighbour,
        "connect() to port 15001 by a Pod that is not meshed, IPv4",
        Act::Net(V4.from(Origin::Peer).to(POD).at(15_001)),
    ),
    Case::stopped(
        "in-neighbour-15006-4",
        Neighbour,
        "connect() to port 15006 by a Pod that is not meshed, IPv4",
        Act::Net(V4.from(Origin::Peer).to(POD).at(15_006)),
    ),
    Case::stopped(
        "in-neighbour-15053-4",
        Neighbour,
        "connect() to port 15053 by a Pod that is not meshed, IPv4",
        Act::Net(V4.from(Origin::Peer).to(POD).at(15_053).with_dns()),
    ),
    Case::stopped(
        "in-neighbour-connect-6",
        Neighbour,
        "connect to the application's port by a Pod that is not meshed, IPv6",
        Act::Net(V6.from(Origin::Peer).to(POD).at(8080)),
    ),
    Case::stopped(
        "in-neighbour-fastopen-6",
        Neighbour,
        "fastopen to the application's port by a Pod that is not meshed, IPv6",
        Act::Net(V6.from(Origin::Peer).by(Trick::FastOpen).to(POD).at(8080)),
    ),
    Case::stopped(
        "in-neighbour-mptcp-6",
        Neighbour,
        "mptcp to the application's port by a Pod that is not meshed, IPv6",
        Act::Net(V6.from(Origin::Peer).by(Trick::Mptcp).to(POD).at(8080)),
    ),
    Case::stopped(
        "in-neighbour-nonblocking-6",
        Neighbour,
        "nonblocking to the application's port by a Pod that is not meshed, IPv6",
        Act::Net(
            V6.from(Origin::Peer)
                .by(Trick::NonBlocking)
                .to(POD)
                .at(8080),
        ),
    ),
    Case::stopped(
        "in-neighbour-15001-6",
        Neighbour,
        "connect() to port 15001 by a Pod that is not meshed, IPv6",
        Act::Net(V6.from(Origin::Peer).to(POD).at(15_001)),
    ),
    Case::stopped(
        "in-neighbour-15006-6",
        Neighbour,
        "connect() to port 15006 by a Pod that is not meshed, IPv6",
        Act::Net(V6.from(Origin::Peer).to(POD).at(15_006)),
    ),
    Case::stopped(
        "in-neighbour-15053-6",
        Neighbour,
        "connect() to port 15053 by a Pod that is not meshed, IPv6",
        Act::Net(V6.from(Origin::Peer).to(POD).at(15_053).with_dns()),
    ),
    Case::stopped(
        "in-host-connect-4",
        Host,
        "connect to the application's port by a host beyond the node, IPv4",
        Act::Net(V4.from(Origin::Outside).to(POD).at(8080)),
    ),
    Case::stopped(
        "in-host-fastopen-4",
        Host,
        "fastopen to the application's port by a host beyond the node, IPv4",
        Act::Net(
            V4.from(Origin::Outside)
                .by(Trick::FastOpen)
                .to(POD)
                .at(8080),
        ),
    ),
    Case::stopped(
        "in-host-mptcp-4",
        Host,
        "mptcp to the application's port by a host beyond the node, IPv4",
        Act::Net(V4.from(Origin::Outside).by(Trick::Mptcp).to(POD).at(8080)),
    ),
    Case::stopped(
        "in-host-nonblocking-4",
        Host,
        "nonblocking to the application's port by a host beyond the node, IPv4",
        Act::Net(
            V4.from(Origin::Outside)
                .by(Trick::NonBlocking)
                .to(POD)
                .at(8080),
        ),
    ),
    Case::stopped(
        "in-host-15001-4",
        Host,
        "connect() to port 15001 by a host beyond the node, IPv4",
        Act::Net(V4.from(Origin::Outside).to(POD).at(15_001)),
    ),
    Case::stopped(
        "in-host-15006-4",
        Host,
        "connect() to port 15006 by a host beyond the node, IPv4",
        Act::Net(V4.from(Origin::Outside).to(POD).at(15_006)),
    ),
    Case::stopped(
        "in-host-15053-4",
        Host,
        "connect() to port 15053 by a host beyond the node, IPv4",
        Act::Net(V4.from(Origin::Outside).to(POD).at(15_053).with_dns()),
    ),
    Case::stopped(
        "in-host-connect-6",
        Host,
        "connect to the application's port by a host beyond the node, IPv6",
        Act::Net(V6.from(Origin::Outside).to(POD).at(8080)),
    ),
    Case::stopped(
        "in-host-fastopen-6",
        Host,
        "fastopen to the application's port by a host beyond the node, IPv6",
        Act::Net(
            V6.from(Origin::Outside)
                .by(Trick::FastOpen)
                .to(POD)
                .at(8080),
        ),
    ),
    Case::stopped(
        "in-host-mptcp-6",
        Host,
        "mptcp to the application's port by a host beyond the node, IPv6",
        Act::Net(V6.from(Origin::Outside).by(Trick::Mptcp).to(POD).at(8080)),
    ),
    Case::stopped(
        "in-host-nonblocking-6",
        Host,
        "nonblocking to the application's port by a host beyond the node, IPv6",
        Act::Net(
            V6.from(Origin::Outside)
                .by(Trick::NonBlocking)
                .to(POD)
                .at(8080),
        ),
    ),
    Case::stopped(
        "in-host-15001-6",
        Host,
        "connect() to port 15001 by a host beyond the node, IPv6",
        Act::Net(V6.from(Origin::Outside).to(POD).at(15_001)),
    ),
    Case::stopped(
        "in-host-15006-6",
        Host,
        "connect() to port 15006 by a host beyond the node, IPv6",
        Act::Net(V6.from(Origin::Outside).to(POD).at(15_006)),
    ),
    Case::stopped(
        "in-host-15053-6",
        Host,
        "connect() to port 15053 by a host beyond the node, IPv6",
        Act::Net(V6.from(Origin::Outside).to(POD).at(15_053).with_dns()),
    ),
    Case::stopped(
        "in-neighbour-mapped",
        Neighbour,
        "connect() from an IPv6 socket to the Pod's v4-mapped address",
        Act::Net(MAPPED.from(Origin::Peer).to(POD).at(8080)),
    ),
    Case::stopped(
        "in-neighbour-link-local",
        Neighbour,
        "connect() to the Pod's link-local address, which CNI does not report",
        Act::Net(V6.from(Origin::Peer).to(Goal::LinkLocal).at(8080)),
    ),
    Case::stopped(
        "in-neighbour-alias-4",
        Neighbour,
        "connect() to an address of 127.64.0.0/10",
        Act::Net(V4.from(Origin::Peer).to(Goal::Ip("127.64.0.1")).at(8080)),
    ),
    Case::stopped(
        "in-neighbour-alias-6",
        Neighbour,
        "connect() to an address of 100::7f40:0/106",
        Act::Net(V6.from(Origin::Peer).to(Goal::Ip("100::7f40:1")).at(8080)),
    ),
    Case::stopped(
        "in-neighbour-broadcast",
        Neighbour,
        "connect() to 255.255.255.255",
        Act::Net(
            V4.from(Origin::Peer)
                .to(Goal::Ip("255.255.255.255"))
                .at(8080),
        ),
    ),
    Case::stopped(
        "in-neighbour-multicast-4",
        Neighbour,
        "connect() to 224.0.0.1",
        Act::Net(V4.from(Origin::Peer).to(Goal::Ip("224.0.0.1")).at(8080)),
    ),
    Case::stopped(
        "in-neighbour-multicast-6",
        Neighbour,
        "connect() to ff02::1",
        Act::Net(V6.from(Origin::Peer).to(Goal::Ip("ff02::1")).at(8080)),
    ),
];
