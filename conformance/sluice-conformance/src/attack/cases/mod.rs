//! Every attempt, with the reasons for those that pass.

/// Connections as rows: the attacker, the name without the family, the families, the attempt, and how
/// the connection differs from `V4`.
macro_rules! cases {
    ($($who:ident $name:literal [$($family:ident)+] $what:literal $how:tt;)+) => {
        &[$($(cases!(@ $family $who $name $what $how)),+),+]
    };
    (@ V4 $who:ident $name:literal $what:literal {$($how:tt)*}) => {
        Case::net(concat!($name, "-4"), $who, concat!($what, ", IPv4"), V4 $($how)*)
    };
    (@ V6 $who:ident $name:literal $what:literal {$($how:tt)*}) => {
        Case::net(concat!($name, "-6"), $who, concat!($what, ", IPv6"), V6 $($how)*)
    };
    (@ MAPPED $who:ident $name:literal $what:literal {$($how:tt)*}) => {
        Case::net(concat!($name, "-mapped"), $who, concat!($what, ", v4-mapped"), MAPPED $($how)*)
    };
}

mod dns;
mod handover;
mod inbound;
mod listeners;
mod process;
mod protocols;
mod requests;
mod root;
mod routes;
mod sidecar;
mod sources;
mod ways;

use crate::{
    attack::{Case, net::Goal},
    suite::conn_spec::Target,
};

const PEER: Goal = Goal::At(Target::Peer);
const NODE: Goal = Goal::At(Target::Node);
const POD: Goal = Goal::At(Target::Pod);

const RAW: &str =
    "no socket hook sees a packet of a raw socket: set raw-sockets = \"deny\", or drop CAP_NET_RAW";
const RAW_LINK: &str =
    "neither a socket hook nor a rule sees a packet of a packet socket: drop CAP_NET_RAW";
const COMPAT: &str = "the kernel runs no setsockopt hook for 32-bit system calls: deny them by seccomp, \
                      or set ia32_emulation=0";
const ELSEWHERE: &str = "the socket belongs to the other Pod: it has that Pod's address and policy, under rules as well";
const LENT: &str = "the sidecar's user lent its credentials to the ring: the socket is that user's, under rules as well";
const SIDECAR: &str = "the sidecar's own connections are direct, under rules as well";
const TCP_ONLY: &str =
    "a sidecar takes TCP and DNS alone, under rules as well: use a NetworkPolicy";

/// Takes any of the first descriptors of `$PID`.
const GETFD: &str = r#"[ -x /usr/bin/python3 ] || exit 99; exec /usr/bin/python3 -c '
import ctypes, os, sys
PIDFD_OPEN, PIDFD_GETFD = 434, 438
call, pid = ctypes.CDLL(None).syscall, int(os.environ["PID"])
pidfd = call(PIDFD_OPEN, pid, 0)
sys.exit(not any(call(PIDFD_GETFD, pidfd, fd, 0) >= 0 for fd in range(32)))
'"#;

/// Traces `$PID`.
const PTRACE: &str = r#"[ -x /usr/bin/python3 ] || exit 99; exec /usr/bin/python3 -c '
import ctypes, os, sys
SEIZE = 0x4206
sys.exit(ctypes.CDLL(None).ptrace(SEIZE, int(os.environ["PID"]), 0, 0) != 0)
'"#;

/// In the order of the table.
pub(crate) fn all() -> impl Iterator<Item = &'static Case> {
    [
        ways::CASES,
        sources::CASES,
        protocols::CASES,
        dns::CASES,
        root::CASES,
        routes::CASES,
        handover::CASES,
        listeners::CASES,
        sidecar::CASES,
        inbound::CASES,
        process::CASES,
        requests::CASES,
    ]
    .into_iter()
    .flatten()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn attempts_have_unique_names() {
        let names: BTreeSet<_> = all().map(|case| case.name).collect();
        assert_eq!(names.len(), all().count());
        assert!(names.len() >= 80, "{}", names.len());
    }
}
