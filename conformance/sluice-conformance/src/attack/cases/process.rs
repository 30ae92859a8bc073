//! Attempts on the daemon's process, files and socket.

use super::{GETFD, PTRACE};
use crate::attack::daemon::Deed;
use crate::attack::{
    Act,
    Attacker::{HostProc, LocalUser},
    Case,
};

pub(crate) const CASES: &[Case] = &[
    Case::stopped(
        "user-proc-fd",
        LocalUser,
        "a local user resolves a descriptor of the daemon",
        Act::Daemon(Deed::User("readlink /proc/$PID/fd/0")),
    ),
    Case::stopped(
        "user-proc-root",
        LocalUser,
        "a local user enters the daemon's root directory",
        Act::Daemon(Deed::User("ls /proc/$PID/root/")),
    ),
    Case::stopped(
        "user-proc-cwd",
        LocalUser,
        "a local user enters the daemon's working directory",
        Act::Daemon(Deed::User("ls /proc/$PID/cwd/")),
    ),
    Case::stopped(
        "user-proc-mem",
        LocalUser,
        "a local user opens the daemon's memory",
        Act::Daemon(Deed::User("exec 3</proc/$PID/mem")),
    ),
    Case::stopped(
        "user-proc-maps",
        LocalUser,
        "a local user reads the daemon's mappings",
        Act::Daemon(Deed::User(r#"[ -n "$(cat /proc/$PID/maps)" ]"#)),
    ),
    Case::stopped(
        "user-proc-environ",
        LocalUser,
        "a local user reads the daemon's environment",
        Act::Daemon(Deed::User("cat /proc/$PID/environ")),
    ),
    Case::stopped(
        "user-proc-netns",
        LocalUser,
        "a local user opens the daemon's network namespace",
        Act::Daemon(Deed::User("exec 3</proc/$PID/ns/net")),
    ),
    Case::stopped(
        "user-setns-daemon",
        LocalUser,
        "a local user enters the daemon's namespaces",
        Act::Daemon(Deed::User("nsenter -t $PID -n -m true")),
    ),
    Case::stopped(
        "user-setns-pod",
        LocalUser,
        "a local user enters a network namespace by its name",
        Act::Daemon(Deed::User("nsenter --net=$NODE true")),
    ),
    Case::stopped(
        "user-nested-setns",
        LocalUser,
        "a local user enters it from a user namespace of its own",
        Act::Daemon(Deed::User("unshare -Urn nsenter --net=$NODE true")),
    ),
    Case::stopped(
        "container-proc-fd",
        HostProc,
        "a container's root with the host's /proc resolves a descriptor of the daemon",
        Act::Daemon(Deed::Container("readlink /proc/$PID/fd/0")),
    ),
    Case::stopped(
        "container-proc-root",
        HostProc,
        "a container's root with the host's /proc enters the daemon's root directory",
        Act::Daemon(Deed::Container("ls /proc/$PID/root/")),
    ),
    Case::stopped(
        "container-proc-cwd",
        HostProc,
        "a container's root with the host's /proc enters the daemon's working directory",
        Act::Daemon(Deed::Container("ls /proc/$PID/cwd/")),
    ),
    Case::stopped(
        "container-proc-mem",
        HostProc,
        "a container's root with the host's /proc opens the daemon's memory",
        Act::Daemon(Deed::Container("exec 3</proc/$PID/mem")),
    ),
    Case::stopped(
        "container-proc-maps",
        HostProc,
        "a container's root with the host's /proc reads the daemon's mappings",
        Act::Daemon(Deed::Container(r#"[ -n "$(cat /proc/$PID/maps)" ]"#)),
    ),
    Case::stopped(
        "container-proc-environ",
        HostProc,
        "a container's root with the host's /proc reads the daemon's environment",
        Act::Daemon(Deed::Container("cat /proc/$PID/environ")),
    ),
    Case::stopped(
        "container-proc-netns",
        HostProc,
        "a container's root with the host's /proc opens the daemon's network namespace",
        Act::Daemon(Deed::Container("exec 3</proc/$PID/ns/net")),
    ),
    Case::stopped(
        "container-setns-daemon",
        HostProc,
        "a container's root with the host's /proc enters the daemon's namespaces",
        Act::Daemon(Deed::Container("nsenter -t $PID -n -m true")),
    ),
    Case::stopped(
        "container-setns-pod",
        HostProc,
        "a container's root with the host's /proc enters a network namespace by its name",
        Act::Daemon(Deed::Container("nsenter --net=$NODE true")),
    ),
    Case::stopped(
        "container-nested-setns",
        HostProc,
        "a container's root with the host's /proc enters it from a user namespace of its own",
        Act::Daemon(Deed::Container("unshare -Urn nsenter --net=$NODE true")),
    ),
    Case::stopped(
        "user-socket-write",
        LocalUser,
        "a local user connects to the daemon's socket",
        Act::Daemon(Deed::User(r#"[ -w "$SOCK" ]"#)),
    ),
    Case::stopped(
        "user-socket-unlink",
        LocalUser,
        "a local user removes the daemon's socket",
        Act::Daemon(Deed::User(r#"rm "$SOCK""#)),
    ),
    Case::stopped(
        "user-state-read",
        LocalUser,
        "a local user lists the daemon's state",
        Act::Daemon(Deed::User(r#"ls "$STATE""#)),
    ),
    Case::stopped(
        "user-state-write",
        LocalUser,
        "a local user writes into the daemon's state",
        Act::Daemon(Deed::User(r#": >"$STATE/attacker""#)),
    ),
    Case::stopped(
        "user-pins",
        LocalUser,
        "a local user lists the pinned maps",
        Act::Daemon(Deed::User(r#"[ -n "$PINS" ] && ls "$PINS""#)),
    ),
    Case::stopped(
        "user-signal",
        LocalUser,
        "a local user sends the daemon a signal",
        Act::Daemon(Deed::User("kill -0 $PID")),
    ),
    Case::stopped(
        "user-cgroup",
        LocalUser,
        "a local user leaves its cgroup",
        Act::Daemon(Deed::User("echo $$ >/sys/fs/cgroup/unified/cgroup.procs")),
    ),
    Case::stopped(
        "user-pidfd-getfd",
        LocalUser,
        "a local user takes a descriptor of the daemon by pidfd_getfd()",
        Act::Daemon(Deed::User(GETFD)),
    ),
    Case::stopped(
        "user-ptrace",
        LocalUser,
        "a local user traces the daemon",
        Act::Daemon(Deed::User(PTRACE)),
    ),
    Case::stopped(
        "container-pidfd-getfd",
        HostProc,
        "a container's root with the host's /proc takes a descriptor of the daemon by pidfd_getfd()",
        Act::Daemon(Deed::Container(GETFD)),
    ),
    Case::stopped(
        "container-ptrace",
        HostProc,
        "a container's root with the host's /proc traces the daemon",
        Act::Daemon(Deed::Container(PTRACE)),
    ),
    Case::stopped(
        "plugin-pidfd-getfd",
        HostProc,
        "a container's root with the host's /proc takes a descriptor of the plugin",
        Act::Daemon(Deed::Plugin(GETFD)),
    ),
    Case::stopped(
        "plugin-ptrace",
        HostProc,
        "a container's root with the host's /proc traces the plugin",
        Act::Daemon(Deed::Plugin(PTRACE)),
    ),
];
