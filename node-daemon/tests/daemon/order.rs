//! Tests with a load balancer at the root cgroup, which replaces a Service's address by that of a
//! backend. The proxy must receive the address that the application requested, in either attach
//! order.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use sluice_api::{AddResponse, Status, path};

use crate::{
    balancer::{Balancer, clear},
    node::{Daemon, Pod},
    pods::add,
    wait,
};

const APPLICATION: u32 = 1000;

/// Starts a proxy in the Pod that prints the original destination of one connection.
fn start_proxy(pod: &Pod, daemon: &Daemon) -> (Child, impl Iterator<Item = String>) {
    const PROXY: u32 = 1337;
    let program = "
import socket, struct
server = socket.create_server(('0.0.0.0', 15001), backlog=8)
print('listening', flush=True)
while True:
    peer, _ = server.accept()
    port, ip = struct.unpack('!2xH4s8x', peer.getsockopt(0, 80, 16))
    print(socket.inet_ntoa(ip), port, flush=True)
";
    let mut command = pod.command(daemon, PROXY, Path::new("/usr/bin/python3"));
    let mut process = command
        .args(["-c", program])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok);
    assert_eq!(lines.next().as_deref(), Some("listening"));
    (process, lines)
}

/// An application connects to the Service and prints the peer's name.
fn connect(pod: &Pod, daemon: &Daemon, below: &str) -> String {
    let program = "
import socket
with socket.create_connection(('10.96.0.10', 80), timeout=5) as one:
    print(*one.getpeername())
";
    let cgroup = daemon.cgroup().join(below);
    let mut command = pod.command_in(&cgroup, APPLICATION, Path::new("/usr/bin/python3"));
    let output = command.args(["-c", program]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// The address in the CIDR, the port in the list: the decision must use the requested destination.
fn check(daemon: &Daemon, pod: &Pod, below: &str) {
    let (mut proxy, mut seen) = start_proxy(pod, daemon);
    assert_eq!(connect(pod, daemon, below), "10.96.0.10 80\n");
    assert_eq!(seen.next().as_deref(), Some("10.96.0.10 80"));
    proxy.kill().unwrap();
    proxy.wait().unwrap();
}

fn meshed(daemon: &Daemon, pod: &Pod) {
    pod.ip(&["route", "replace", "default", "dev", "eth0"]);
    let mut request = add("a", &pod.path(), &["10.1.0.1"]);
    // The balancer's port is excluded: a decision about the backend would bypass the proxy.
    let lists = [("traffic.sidecar.istio.io/excludeOutboundPorts", "8080")];
    request.annotations = Some(crate::pods::annotated(&lists));
    assert!(daemon.post(path::ADD, &request).ok::<AddResponse>().meshed);
}

#[test]
fn proxy_gets_the_service_in_any_attach_order() {
    let mut daemon = Daemon::start("order");
    daemon.restart_with_child("pods");
    let pod = Pod::new("order", &["10.1.0.1/24"]);
    meshed(&daemon, &pod);
    let balancer = Balancer::attach(daemon.cgroup());
    check(&daemon, &pod, "pods");

    // Without pins: now the balancer is the first at the root.
    daemon.stop();
    assert!(daemon.detach().status.success());
    daemon.restart();
    meshed(&daemon, &pod);
    check(&daemon, &pod, "pods");
    let status: Status = daemon.get(path::STATUS).ok();
    let foreign: Vec<_> = (status.foreign_programs.iter())
        .map(|one| (one.hook.as_str(), one.name.as_str(), one.runs_first))
        .collect();
    assert_eq!(foreign, [("connect4", "balance_connect", false)]);
    drop(balancer);
}

#[test]
fn agent_that_clears_the_root_gets_no_error() {
    let mut daemon = Daemon::start("clear");
    daemon.restart_with_child("pods");
    let pod = Pod::new("clear", &["10.1.0.1/24"]);
    meshed(&daemon, &pod);
    assert_eq!(clear(daemon.cgroup()), 10);
    check(&daemon, &pod, "pods");
}

/// The number of child cgroups with the program.
fn children(daemon: &Daemon) -> usize {
    let status: Status = daemon.get(path::STATUS).ok();
    let connect = status.programs.iter().find(|one| one.name == "connect4");
    connect.expect("it is loaded").attach_count
}

pub(crate) fn await_children(daemon: &Daemon, count: usize) {
    wait::until(
        || children(daemon) == count,
        || format!("{} child cgroups", children(daemon)),
    );
}

/// Some load balancers look up the listener of a backend in the caller's network namespace (Cilium's
/// local redirect policies, by `bpf_sk_lookup_tcp`). `sock_diag` makes the same lookup without a packet.
#[test]
fn lookup_without_packet_finds_the_applications_listener() {
    let daemon = Daemon::start("lookup");
    let mut pod = Pod::new("lookup", &["10.1.0.1/24"]);
    pod.listen(&[15001, 15006]);
    meshed(&daemon, &pod);
    let program = "
import struct
application = socket.create_server(('10.1.0.1', 8080))
def lookup(port):
    address = socket.inet_aton('10.1.0.1') + bytes(12)
    name = struct.pack('!HH16s16s', port, 0, address, bytes(16))
    any_interface_and_cookie = struct.pack('=III', 0, 0xffffffff, 0xffffffff)
    body = struct.pack('=BBBBI', 2, 6, 0, 0, 0xffffffff) + name + any_interface_and_cookie
    diag = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4)
    diag.send(struct.pack('=IHHII', 16 + len(body), 20, 1, 1, 0) + body)
    reply = diag.recv(4096)
    found = struct.unpack('=H', reply[4:6])[0] == 20
    return struct.unpack('!H', reply[20:22])[0] if found else None
print(lookup(8080), lookup(9090))";
    assert_eq!(pod.run(&daemon, APPLICATION, program), "8080 None\n");
}

#[test]
fn new_cgroup_gets_programs_at_once() {
    let daemon = Daemon::start("newcgroup");
    await_children(&daemon, 0);
    for (count, name) in (1..).zip(["kubepods.slice", "machine.slice"]) {
        fs::create_dir(daemon.cgroup().join(name)).unwrap();
        await_children(&daemon, count);
    }
    let pod = Pod::new("newcgroup", &["10.1.0.1/24"]);
    meshed(&daemon, &pod);
    let balancer = Balancer::attach(daemon.cgroup());
    check(&daemon, &pod, "kubepods.slice");
    drop(balancer);
}

#[test]
fn foreign_program_is_logged_and_counted() {
    const METRIC: &str = "sluice_foreign_programs{hook=\"connect4\",program=\"balance_connect\"";
    let mut daemon = Daemon::start("foreign");
    let log = daemon.log();
    // A new cgroup starts a round.
    let logged = |line: &str, cgroup: &str| {
        fs::create_dir(daemon.cgroup().join(cgroup)).unwrap();
        log.await_line(&[line, "balance_connect", "uid=0"]);
    };
    let balancer = Balancer::attach(daemon.cgroup());
    logged("foreign program runs after Sluice", "one");
    let metric = format!("{METRIC},order=\"after\"}} 1");
    assert!(daemon.get("/metrics").body.contains(&metric));
    drop(balancer);
    logged("foreign program is detached", "two");
    assert!(!daemon.get("/metrics").body.contains(METRIC));

    // A program of the Pods' own cgroup, as old kernels order it.
    let balancer = Balancer::attach_first(&daemon.cgroup().join("one"));
    logged("foreign program runs before Sluice", "three");
    let metric = format!("{METRIC},order=\"before\"}} 1");
    assert!(daemon.get("/metrics").body.contains(&metric));
    let status: Status = daemon.get(path::STATUS).ok();
    assert!(
        status.ready
            && status
                .problems
                .iter()
                .any(|one| one.contains("balance_connect"))
    );
    drop(balancer);
    let lines = log.lines();
    let of_balancer = lines.iter().filter(|one| one.contains("balance_connect"));
    assert_eq!(
        of_balancer.count(),
        3,
        "one line for each change: {lines:?}"
    );
}

#[test]
fn detach_finds_the_root_by_its_mount() {
    let mut daemon = Daemon::start("moved");
    daemon.stop();
    // The path of the daemon's root does not exist in this mount namespace.
    let script = r#"
        mount -t tmpfs none "$1" && mkdir "$1/here" && mount --bind "$2" "$1/here"
        awk '$3 == "cgroup2" { print $2 }' /proc/self/mounts | grep -v "$1" | xargs -n 1 umount -l
        shift 2; exec "$@""#;
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh"]);
    command.arg(directory.path()).arg(daemon.cgroup());
    let output = daemon.detach_by(command);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(clear(daemon.cgroup()), 0);
}

#[test]
fn detach_without_the_hierarchy_fails_and_says_so() {
    let mut daemon = Daemon::start("unmounted");
    daemon.stop();
    let script = r#"
        awk '$3 == "cgroup2" { print $2 }' /proc/self/mounts | xargs -n 1 umount -l
        exec "$@""#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh"]);
    let output = daemon.detach_by(command);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("no cgroup2 file system"),
        "{said}"
    );
    // The pins are still there, so it can be repeated.
    assert!(daemon.detach().status.success());
    assert_eq!(clear(daemon.cgroup()), 0);
}

#[test]
fn refused_bind_counts_once_at_two_levels() {
    let mut daemon = Daemon::start("bind-once");
    daemon.restart_with_child("pods");
    let pod = Pod::new("bind-once", &["10.1.0.1/24"]);
    meshed(&daemon, &pod);
    let program = "
import socket
for family, at in ((socket.AF_INET, '0.0.0.0'), (socket.AF_INET6, '::')):
    for port in (15001, 15006):
        try:
            socket.socket(family).bind((at, port))
        except PermissionError:
            print('refused')
";
    for (below, count) in [("pods", 4), ("", 8)] {
        let cgroup = daemon.cgroup().join(below);
        let mut command = pod.command_in(&cgroup, APPLICATION, Path::new("/usr/bin/python3"));
        let output = command.args(["-c", program]).output().unwrap();
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            "refused\n".repeat(4)
        );
        let metrics = daemon.get("/metrics").body;
        let counted = format!("sluice_datapath_events_total{{reason=\"foreign_bind\"}} {count}\n");
        assert!(metrics.contains(&counted), "{below:?}: {metrics}");
    }
}

#[test]
fn detach_leaves_no_program_at_the_root() {
    let mut daemon = Daemon::start("gone");
    daemon.stop();
    assert!(daemon.detach().status.success());
    assert_eq!(clear(daemon.cgroup()), 0);
}
