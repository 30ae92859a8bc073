//! Ways to connect from inside a Pod.

use super::{NODE, PEER, POD};
use crate::attack::agent::Trick;
use crate::attack::net::{MAPPED, V4, V6};
use crate::attack::{Act, Attacker::Process, Case};

pub(crate) const CASES: &[Case] = &[
    Case::stopped(
        "connect-4",
        Process,
        "connect() to a server beyond the node, IPv4",
        Act::Net(V4),
    ),
    Case::stopped(
        "connect-6",
        Process,
        "connect() to a server beyond the node, IPv6",
        Act::Net(V6),
    ),
    Case::stopped(
        "connect-mapped",
        Process,
        "connect() to a server beyond the node, v4-mapped",
        Act::Net(MAPPED),
    ),
    Case::stopped(
        "nonblocking-4",
        Process,
        "a non-blocking connect(), IPv4",
        Act::Net(V4.by(Trick::NonBlocking)),
    ),
    Case::stopped(
        "nonblocking-6",
        Process,
        "a non-blocking connect(), IPv6",
        Act::Net(V6.by(Trick::NonBlocking)),
    ),
    Case::stopped(
        "fastopen-4",
        Process,
        "sendto(MSG_FASTOPEN), IPv4",
        Act::Net(V4.by(Trick::FastOpen)),
    ),
    Case::stopped(
        "fastopen-6",
        Process,
        "sendto(MSG_FASTOPEN), IPv6",
        Act::Net(V6.by(Trick::FastOpen)),
    ),
    Case::stopped(
        "fastopen-connect-4",
        Process,
        "TCP_FASTOPEN_CONNECT, then write(), IPv4",
        Act::Net(V4.by(Trick::FastOpenConnect)),
    ),
    Case::stopped(
        "fastopen-connect-6",
        Process,
        "TCP_FASTOPEN_CONNECT, then write(), IPv6",
        Act::Net(V6.by(Trick::FastOpenConnect)),
    ),
    Case::stopped(
        "mptcp-4",
        Process,
        "an MPTCP socket, IPv4",
        Act::Net(V4.by(Trick::Mptcp)),
    ),
    Case::stopped(
        "mptcp-6",
        Process,
        "an MPTCP socket, IPv6",
        Act::Net(V6.by(Trick::Mptcp)),
    ),
    Case::stopped(
        "again-4",
        Process,
        "a connected socket, AF_UNSPEC, connect() to another port, IPv4",
        Act::Net(V4.by(Trick::Again)),
    ),
    Case::stopped(
        "again-6",
        Process,
        "a connected socket, AF_UNSPEC, connect() to another port, IPv6",
        Act::Net(V6.by(Trick::Again)),
    ),
    Case::stopped(
        "thread-4",
        Process,
        "connect() by another thread, IPv4",
        Act::Net(V4.by(Trick::Thread)),
    ),
    Case::stopped(
        "thread-6",
        Process,
        "connect() by another thread, IPv6",
        Act::Net(V6.by(Trick::Thread)),
    ),
    Case::stopped(
        "passed-4",
        Process,
        "a socket passed by SCM_RIGHTS, then connect(), IPv4",
        Act::Net(V4.by(Trick::Passed)),
    ),
    Case::stopped(
        "passed-6",
        Process,
        "a socket passed by SCM_RIGHTS, then connect(), IPv6",
        Act::Net(V6.by(Trick::Passed)),
    ),
    Case::stopped(
        "again-mapped",
        Process,
        "AF_UNSPEC and connect() to a v4-mapped address",
        Act::Net(MAPPED.by(Trick::Again)),
    ),
    Case::stopped(
        "fastopen-mapped",
        Process,
        "MSG_FASTOPEN to a v4-mapped address",
        Act::Net(MAPPED.by(Trick::FastOpen)),
    ),
    Case::stopped(
        "to-neighbour-4",
        Process,
        "connect() to a Pod of the same node, IPv4",
        Act::Net(V4.to(PEER).at(8080)),
    ),
    Case::stopped(
        "to-node-4",
        Process,
        "connect() to the node's own address, IPv4",
        Act::Net(V4.to(NODE).at(8080)),
    ),
    Case::stopped(
        "hairpin-4",
        Process,
        "connect() to the Pod's own address, IPv4",
        Act::Net(V4.to(POD).at(8080)),
    ),
    Case::stopped(
        "to-neighbour-6",
        Process,
        "connect() to a Pod of the same node, IPv6",
        Act::Net(V6.to(PEER).at(8080)),
    ),
    Case::stopped(
        "to-node-6",
        Process,
        "connect() to the node's own address, IPv6",
        Act::Net(V6.to(NODE).at(8080)),
    ),
    Case::stopped(
        "hairpin-6",
        Process,
        "connect() to the Pod's own address, IPv6",
        Act::Net(V6.to(POD).at(8080)),
    ),
    Case::stopped(
        "io-uring-4",
        Process,
        "connect() and send() by io_uring, IPv4",
        Act::Net(V4.by(Trick::IoUring)),
    ),
    Case::stopped(
        "io-uring-6",
        Process,
        "connect() and send() by io_uring, IPv6",
        Act::Net(V6.by(Trick::IoUring)),
    ),
    Case::stopped(
        "io-uring-mapped",
        Process,
        "connect() and send() by io_uring, v4-mapped",
        Act::Net(MAPPED.by(Trick::IoUring)),
    ),
];
