//! Requests and annotations that the daemon reads.

use sluice_lab::pod_annotations;

use crate::attack::daemon::Deed;
use crate::attack::{
    Act,
    Attacker::{Annotations, Process, Runtime},
    Case,
};

pub(crate) const CASES: &[Case] = &[
    Case::stopped(
        "netns-file",
        Runtime,
        "reports a Pod whose namespace is file: {file}",
        Act::Daemon(Deed::Netns("{file}")),
    ),
    Case::stopped(
        "netns-fifo",
        Runtime,
        "reports a Pod whose namespace is fifo: {fifo}",
        Act::Daemon(Deed::Netns("{fifo}")),
    ),
    Case::stopped(
        "netns-device",
        Runtime,
        "reports a Pod whose namespace is device: /dev/zero",
        Act::Daemon(Deed::Netns("/dev/zero")),
    ),
    Case::stopped(
        "netns-tty",
        Runtime,
        "reports a Pod whose namespace is tty: /dev/tty",
        Act::Daemon(Deed::Netns("/dev/tty")),
    ),
    Case::stopped(
        "netns-directory",
        Runtime,
        "reports a Pod whose namespace is directory: /proc",
        Act::Daemon(Deed::Netns("/proc")),
    ),
    Case::stopped(
        "netns-missing",
        Runtime,
        "reports a Pod whose namespace is missing: /run/netns/absent",
        Act::Daemon(Deed::Netns("/run/netns/absent")),
    ),
    Case::stopped(
        "netns-host",
        Runtime,
        "reports a Pod whose namespace is host: /proc/1/ns/net",
        Act::Daemon(Deed::Netns("/proc/1/ns/net")),
    ),
    Case::stopped(
        "netns-self",
        Runtime,
        "reports a Pod whose namespace is self: /proc/self/ns/net",
        Act::Daemon(Deed::Netns("/proc/self/ns/net")),
    ),
    Case::stopped(
        "netns-mount",
        Runtime,
        "reports a Pod whose namespace is mount: /proc/self/ns/mnt",
        Act::Daemon(Deed::Netns("/proc/self/ns/mnt")),
    ),
    Case::stopped(
        "netns-user",
        Runtime,
        "reports a Pod whose namespace is user: /proc/self/ns/user",
        Act::Daemon(Deed::Netns("/proc/self/ns/user")),
    ),
    Case::stopped(
        "netns-relative",
        Runtime,
        "reports a Pod whose namespace is relative: run/netns/x",
        Act::Daemon(Deed::Netns("run/netns/x")),
    ),
    Case::stopped(
        "netns-nul",
        Runtime,
        "reports a Pod whose path contains NUL",
        Act::Daemon(Deed::Netns("/run/netns/a\u{0}b")),
    ),
    Case::stopped(
        "socket-silent",
        Runtime,
        "200 connections that send nothing",
        Act::Daemon(Deed::Connections(200, "")),
    ),
    Case::stopped(
        "socket-half",
        Runtime,
        "60 connections that send half a request",
        Act::Daemon(Deed::Connections(
            60,
            "POST /v1/add HTTP/1.1\r\nContent-Length: 100\r\n\r\n{",
        )),
    ),
    Case::stopped(
        "socket-large-body",
        Runtime,
        "a body of 64 MiB",
        Act::Daemon(Deed::Oversized {
            line: 0,
            body: 64 << 20,
        }),
    ),
    Case::stopped(
        "socket-large-line",
        Runtime,
        "a request line of 1 MiB",
        Act::Daemon(Deed::Oversized {
            line: 1 << 20,
            body: 0,
        }),
    ),
    Case::stopped(
        "annotation-newline",
        Annotations,
        "a newline in an annotation forges a log line",
        Act::Daemon(Deed::Text(
            pod_annotations::EXCLUDE_INBOUND_PORTS,
            "80\nFORGED",
        )),
    ),
    Case::stopped(
        "annotation-escape",
        Annotations,
        "ESC in an annotation reaches the operator's terminal",
        Act::Daemon(Deed::Text(
            pod_annotations::EXCLUDE_OUTBOUND_RANGES,
            "\u{1b}[2J10.0.0.0/8",
        )),
    ),
    Case::stopped(
        "annotation-status",
        Annotations,
        "the same in the status port",
        Act::Daemon(Deed::Text(
            pod_annotations::STATUS_PORT,
            "1\nFORGED\u{1b}[31m",
        )),
    ),
    Case::stopped(
        "annotation-ports",
        Annotations,
        "a list of 20,000 ports exhausts the node's map",
        Act::Daemon(Deed::Ports(20_000)),
    ),
    Case::stopped(
        "netns-loop",
        Runtime,
        "reports a Pod whose path is a loop of links",
        Act::Daemon(Deed::Netns("{loop}")),
    ),
    Case::stopped(
        "netns-swapped",
        Runtime,
        "a link that leads to a Pod's namespace and to the host's in turn, 200 requests",
        Act::Daemon(Deed::SwappedNetns(200)),
    ),
    Case::stopped(
        "destinations-70000",
        Process,
        "a Pod connects to 70,000 destinations; its neighbour must work",
        Act::Daemon(Deed::Destinations(70_000)),
    ),
];
