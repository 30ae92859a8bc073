//! Kinds of sockets and ways to connect.

use sluice_testbed::agent::probe::Way;

use super::{Case, EVERY, Expect::Direct, IN, OUT};
use crate::suite::conn_spec::Source;

const FACTS: &str = "S1";

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "a non-blocking connect is redirected",
        source: FACTS,
        way: Way::NonBlocking,
        ..OUT
    },
    Case {
        name: "outbound data in the SYN is redirected",
        source: FACTS,
        way: Way::FastOpen,
        ..OUT
    },
    Case {
        name: "an MPTCP socket is redirected",
        source: FACTS,
        way: Way::Mptcp,
        ..OUT
    },
    Case {
        name: "a socket bound to the Pod's address is redirected",
        source: FACTS,
        bound: Source::Pod,
        families: EVERY,
        ..OUT
    },
    Case {
        name: "a socket that was redirected from another port before is redirected",
        source: FACTS,
        way: Way::Again,
        ..OUT
    },
    Case {
        name: "a socket that was redirected before can be direct",
        source: FACTS,
        way: Way::Again,
        port: 15020,
        expect: Direct,
        ..OUT
    },
    Case {
        name: "a non-blocking client is redirected",
        source: FACTS,
        way: Way::NonBlocking,
        ..IN
    },
    Case {
        name: "inbound data in the SYN is redirected",
        source: FACTS,
        way: Way::FastOpen,
        ..IN
    },
    Case {
        name: "an MPTCP client is redirected",
        source: FACTS,
        way: Way::Mptcp,
        ..IN
    },
];
