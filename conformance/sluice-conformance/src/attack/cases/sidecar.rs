//! Attempts on the sidecar's process, by a process of the same Pod.

use super::{GETFD, PTRACE};
use crate::attack::{Act, Attacker::Process, Case, pod::Script};
use crate::suite::conn_spec::Origin;

pub(crate) const CASES: &[Case] = &[
    Case::stopped(
        "sidecar-ptrace",
        Process,
        "ptrace() of the sidecar by another user",
        Act::Script(Script {
            from: Origin::Application,
            text: PTRACE,
        }),
    ),
    Case::stopped(
        "sidecar-pidfd-getfd",
        Process,
        "pidfd_getfd() of the sidecar's sockets by another user",
        Act::Script(Script {
            from: Origin::Application,
            text: GETFD,
        }),
    ),
    Case::stopped(
        "sidecar-proc-mem",
        Process,
        "the sidecar's memory, opened by another user",
        Act::Script(Script {
            from: Origin::Application,
            text: "exec 3</proc/$PID/mem",
        }),
    ),
    Case::stopped(
        "sidecar-proc-fd",
        Process,
        "the sidecar's descriptors, resolved by another user",
        Act::Script(Script {
            from: Origin::Application,
            text: "readlink /proc/$PID/fd/0",
        }),
    ),
    Case::stopped(
        "sidecar-signal",
        Process,
        "a signal to the sidecar by another user",
        Act::Script(Script {
            from: Origin::Application,
            text: "kill -0 $PID",
        }),
    ),
];
