//! Ways to connect from inside a Pod.

use super::{NODE, PEER, POD};
use crate::attack::agent::Trick;
use crate::attack::net::{MAPPED, V4, V6};
use crate::attack::{Attacker::Process, Case};

pub(crate) const CASES: &[Case] = cases![
    Process "connect" [V4 V6 MAPPED] "connect() to a server beyond the node" {};
    Process "nonblocking" [V4 V6] "a non-blocking connect()" { .by(Trick::NonBlocking) };
    Process "fastopen" [V4 V6 MAPPED] "sendto(MSG_FASTOPEN)" { .by(Trick::FastOpen) };
    Process "fastopen-connect" [V4 V6] "TCP_FASTOPEN_CONNECT, then write()"
        { .by(Trick::FastOpenConnect) };
    Process "mptcp" [V4 V6] "an MPTCP socket" { .by(Trick::Mptcp) };
    Process "again" [V4 V6 MAPPED] "a connected socket, AF_UNSPEC, connect() to another port"
        { .by(Trick::Again) };
    Process "thread" [V4 V6] "connect() by another thread" { .by(Trick::Thread) };
    Process "passed" [V4 V6] "a socket passed by SCM_RIGHTS, then connect()" { .by(Trick::Passed) };
    Process "to-neighbour" [V4 V6] "connect() to a Pod of the same node" { .to(PEER).at(8080) };
    Process "to-node" [V4 V6] "connect() to the node's own address" { .to(NODE).at(8080) };
    Process "hairpin" [V4 V6] "connect() to the Pod's own address" { .to(POD).at(8080) };
    Process "compat" [V4 V6 MAPPED] "connect() by a 32-bit system call" { .by(Trick::Compat) };
    Process "io-uring" [V4 V6 MAPPED] "connect() and send() by io_uring" { .by(Trick::IoUring) };
];
