//! Attempts on the daemon's process, files and socket.

use super::{GETFD, PTRACE};
use crate::attack::daemon::Deed;
use crate::attack::{
    Act,
    Attacker::{HostProc, LocalUser},
    Case,
};

/// Attempts as rows: the attackers, the name, what each of them does, and the script that does it.
macro_rules! scripts {
    ($([$($who:ident)+] $name:literal $what:literal $script:expr;)+) => {
        &[$($(scripts!(@ $who $name $what $script)),+),+]
    };
    (@ User $name:literal $what:literal $script:expr) => {
        Case::stopped(
            concat!("user-", $name),
            LocalUser,
            concat!("a local user ", $what),
            Act::Daemon(Deed::User($script)),
        )
    };
    (@ Container $name:literal $what:literal $script:expr) => {
        Case::stopped(
            concat!("container-", $name),
            HostProc,
            concat!("a container's root with the host's /proc ", $what),
            Act::Daemon(Deed::Container($script)),
        )
    };
    (@ Plugin $name:literal $what:literal $script:expr) => {
        Case::stopped(
            concat!("plugin-", $name),
            HostProc,
            concat!("a container's root with the host's /proc ", $what),
            Act::Daemon(Deed::Plugin($script)),
        )
    };
}

pub(crate) const CASES: &[Case] = scripts![
    [User Container] "proc-fd" "resolves a descriptor of the daemon" "readlink /proc/$PID/fd/0";
    [User Container] "proc-root" "enters the daemon's root directory" "ls /proc/$PID/root/";
    [User Container] "proc-cwd" "enters the daemon's working directory" "ls /proc/$PID/cwd/";
    [User Container] "proc-mem" "opens the daemon's memory" "exec 3</proc/$PID/mem";
    [User Container] "proc-maps" "reads the daemon's mappings" r#"[ -n "$(cat /proc/$PID/maps)" ]"#;
    [User Container] "proc-environ" "reads the daemon's environment" "cat /proc/$PID/environ";
    [User Container] "proc-netns" "opens the daemon's network namespace" "exec 3</proc/$PID/ns/net";
    [User Container] "setns-daemon" "enters the daemon's namespaces" "nsenter -t $PID -n -m true";
    [User Container] "setns-pod" "enters a network namespace by its name"
        "nsenter --net=$NODE true";
    [User Container] "nested-setns" "enters it from a user namespace of its own"
        "unshare -Urn nsenter --net=$NODE true";
    [User] "socket-write" "connects to the daemon's socket" r#"[ -w "$SOCK" ]"#;
    [User] "socket-unlink" "removes the daemon's socket" r#"rm "$SOCK""#;
    [User] "state-read" "lists the daemon's state" r#"ls "$STATE""#;
    [User] "state-write" "writes into the daemon's state" r#": >"$STATE/attacker""#;
    [User] "pins" "lists the pinned maps" r#"[ -n "$PINS" ] && ls "$PINS""#;
    [User] "signal" "sends the daemon a signal" "kill -0 $PID";
    [User] "cgroup" "leaves its cgroup" "echo $$ >/sys/fs/cgroup/unified/cgroup.procs";
    [User Container] "pidfd-getfd" "takes a descriptor of the daemon by pidfd_getfd()" GETFD;
    [User Container] "ptrace" "traces the daemon" PTRACE;
    [Plugin] "pidfd-getfd" "takes a descriptor of the plugin" GETFD;
    [Plugin] "ptrace" "traces the plugin" PTRACE;
];
