//! Connections that enter a Pod.

use super::POD;
use crate::attack::agent::Trick;
use crate::attack::net::{Goal, MAPPED, V4, V6};
use crate::attack::{
    Attacker::{Host, Neighbour},
    Case,
};
use crate::suite::conn_spec::Origin;

pub(crate) const CASES: &[Case] = cases![
    Neighbour "in-neighbour-connect" [V4 V6]
        "connect to the application's port by a Pod that is not meshed"
        { .from(Origin::Peer).to(POD).at(8080) };
    Neighbour "in-neighbour-fastopen" [V4 V6]
        "fastopen to the application's port by a Pod that is not meshed"
        { .from(Origin::Peer).by(Trick::FastOpen).to(POD).at(8080) };
    Neighbour "in-neighbour-mptcp" [V4 V6]
        "mptcp to the application's port by a Pod that is not meshed"
        { .from(Origin::Peer).by(Trick::Mptcp).to(POD).at(8080) };
    Neighbour "in-neighbour-nonblocking" [V4 V6]
        "nonblocking to the application's port by a Pod that is not meshed"
        { .from(Origin::Peer).by(Trick::NonBlocking).to(POD).at(8080) };
    Neighbour "in-neighbour-15001" [V4 V6] "connect() to port 15001 by a Pod that is not meshed"
        { .from(Origin::Peer).to(POD).at(15_001) };
    Neighbour "in-neighbour-15006" [V4 V6] "connect() to port 15006 by a Pod that is not meshed"
        { .from(Origin::Peer).to(POD).at(15_006) };
    Neighbour "in-neighbour-15053" [V4 V6] "connect() to port 15053 by a Pod that is not meshed"
        { .from(Origin::Peer).to(POD).at(15_053).with_dns() };
    Host "in-host-connect" [V4 V6] "connect to the application's port by a host beyond the node"
        { .from(Origin::Outside).to(POD).at(8080) };
    Host "in-host-fastopen" [V4 V6] "fastopen to the application's port by a host beyond the node"
        { .from(Origin::Outside).by(Trick::FastOpen).to(POD).at(8080) };
    Host "in-host-mptcp" [V4 V6] "mptcp to the application's port by a host beyond the node"
        { .from(Origin::Outside).by(Trick::Mptcp).to(POD).at(8080) };
    Host "in-host-nonblocking" [V4 V6]
        "nonblocking to the application's port by a host beyond the node"
        { .from(Origin::Outside).by(Trick::NonBlocking).to(POD).at(8080) };
    Host "in-host-15001" [V4 V6] "connect() to port 15001 by a host beyond the node"
        { .from(Origin::Outside).to(POD).at(15_001) };
    Host "in-host-15006" [V4 V6] "connect() to port 15006 by a host beyond the node"
        { .from(Origin::Outside).to(POD).at(15_006) };
    Host "in-host-15053" [V4 V6] "connect() to port 15053 by a host beyond the node"
        { .from(Origin::Outside).to(POD).at(15_053).with_dns() };
    Neighbour "in-neighbour" [MAPPED] "connect() from an IPv6 socket to the Pod's v4-mapped address"
        { .from(Origin::Peer).to(POD).at(8080) };
    Neighbour "in-neighbour-link-local" [V6]
        "connect() to the Pod's link-local address, which CNI does not report"
        { .from(Origin::Peer).to(Goal::LinkLocal).at(8080) };
    Neighbour "in-neighbour-alias" [V4] "connect() to an address of 127.64.0.0/10"
        { .from(Origin::Peer).to(Goal::Ip("127.64.0.1")).at(8080) };
    Neighbour "in-neighbour-alias" [V6] "connect() to an address of 100::7f40:0/106"
        { .from(Origin::Peer).to(Goal::Ip("100::7f40:1")).at(8080) };
    Neighbour "in-neighbour-broadcast" [V4] "connect() to 255.255.255.255"
        { .from(Origin::Peer).to(Goal::Ip("255.255.255.255")).at(8080) };
    Neighbour "in-neighbour-multicast" [V4] "connect() to 224.0.0.1"
        { .from(Origin::Peer).to(Goal::Ip("224.0.0.1")).at(8080) };
    Neighbour "in-neighbour-multicast" [V6] "connect() to ff02::1"
        { .from(Origin::Peer).to(Goal::Ip("ff02::1")).at(8080) };
];
