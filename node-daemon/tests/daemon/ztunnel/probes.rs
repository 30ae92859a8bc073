//! The node's own connections to ambient Pods, such as the kubelet's probes.

use std::{
    fs::File,
    io::Write as _,
    net::TcpListener,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use nix::sched::{CloneFlags, setns};
use sluice_api::{AuditRequest, AuditResponse, path};

use super::{Node, Ztunnel, labelled, listeners::SERVED, request};
use crate::{
    node::{Daemon, Pod},
    wait,
};

const PORT: u16 = 8080;

/// Serves one word at every address of a Pod, as an application does.
fn serve(home: &Pod) {
    let netns = File::open(home.path()).unwrap();
    let bind = move || {
        setns(netns, CloneFlags::CLONE_NEWNET).unwrap();
        TcpListener::bind(("::", PORT)).unwrap()
    };
    let listener = thread::spawn(bind).join().unwrap();
    thread::spawn(move || {
        let mut held = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _gone = stream.write_all(b"application");
            held.push(stream);
        }
    });
}

/// A program that connects, and prints what it was served.
fn client(to: &str) -> String {
    format!(
        "import socket\n\
         peer = socket.create_connection(('{to}', {PORT}), 10)\n\
         print(peer.recv(16).decode(), end='', flush=True)"
    )
}

/// Connects from a process of the node, in the daemon's cgroup.
fn probe(daemon: &Daemon, to: &str) -> String {
    let script = "echo 0 >\"$1\"; shift; exec \"$@\"";
    let output = Command::new("sh")
        .args(["-c", script, "sh", &daemon.members()])
        .args(["/usr/bin/python3", "-c", &client(to)])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The counter of a reason.
fn count(daemon: &Daemon, reason: &str) -> u64 {
    let names = ["decisions", "datapath_events"]
        .map(|metric| format!("sluice_{metric}_total{{reason=\"{reason}\"}} "));
    let metrics = daemon.get(path::METRICS).body;
    let value = |line| names.iter().find_map(|name| str::strip_prefix(line, name));
    let line = metrics.lines().find_map(value);
    line.unwrap_or_else(|| panic!("{metrics}")).parse().unwrap()
}

/// Numbers the links of this process.
static LINKS: AtomicU32 = AtomicU32::new(0);

/// Connects the node and a Pod, by addresses that no other link uses: node, Pod, for each family.
fn connect_node(home: &Pod) -> [(String, String); 2] {
    let (id, link) = (std::process::id(), LINKS.fetch_add(1, Ordering::Relaxed));
    let [_, _, high, low] = (id % 4096 * 16 + link * 4).to_be_bytes();
    let v4 = |host| format!("198.18.{high}.{}", low + host);
    let v6 = |host| {
        format!(
            "fdb5:7e57:{:x}:{:x}:{link:x}::{host}",
            id >> 16,
            id & 0xffff
        )
    };
    let ends = [(v4(1), v4(2)), (v6(1), v6(2))];
    let far = home.far();
    let ip = |arguments: String| {
        let status = Command::new("ip").args(arguments.split(' ')).status();
        assert!(status.unwrap().success(), "{arguments}");
    };
    ip(format!("link set {far} up"));
    for (node, pod) in &ends {
        let flags = if node.contains(':') { " nodad" } else { "" };
        ip(format!("address add {node} peer {pod} dev {far}{flags}"));
        home.configure(&format!("address add {pod} peer {node} dev eth0{flags}"));
    }
    ends
}

#[test]
fn node_reaches_application_and_pods_reach_ztunnel() {
    let mut node = Node::start("zds-probes", vec![labelled("cart", Some("ambient"))]);
    let _ztunnel = Ztunnel::start_in(&node.socket, &node.daemon.members());
    node.await_ztunnels(1);
    let home = Pod::new("zds-probes", &[]);
    let ends = connect_node(&home);
    let mut cart = request("cart", &home.path(), &ends[0].1);
    let mut second = cart.addresses[0].clone();
    second.ip = ends[1].1.parse().unwrap();
    cart.addresses.push(second);
    node.mesh(&cart);
    serve(&home);

    for (_, pod) in &ends {
        assert_eq!(probe(&node.daemon, pod), "application", "{pod}");
    }
    assert_eq!(count(&node.daemon, "inbound_from_node"), 2);
    assert_eq!(count(&node.daemon, "inbound_to_proxy"), 0);

    let other = Pod::new("zds-probes-other", &[]);
    let name = home.path();
    let name = name.rsplit('/').next().unwrap();
    other.configure(&format!(
        "link add eth9 type veth peer name eth9 netns {name}"
    ));
    for (pod, address) in [(&other, "10.99.0.1/24"), (&home, "10.99.0.2/24")] {
        pod.configure(&format!("address add {address} dev eth9"));
        pod.configure("link set eth9 up");
    }
    assert_eq!(other.run(&node.daemon, 1000, &client("10.99.0.2")), SERVED);
    assert_eq!(count(&node.daemon, "inbound_to_proxy"), 1);

    // Without a daemon, and with the next one.
    node.daemon.crash();
    assert_eq!(probe(&node.daemon, &ends[0].1), "application");
    node.daemon.restart();
    assert_eq!(probe(&node.daemon, &ends[1].1), "application");
    assert_eq!(count(&node.daemon, "inbound_from_node"), 4);
    assert_eq!(count(&node.daemon, "node_conn_evicted"), 0);
}

#[test]
fn audit_accepts_connections_of_the_node() {
    let node = Node::start("zds-audit", vec![labelled("cart", Some("ambient"))]);
    let _ztunnel = Ztunnel::start(&node.socket);
    node.await_ztunnels(1);
    let home = Pod::new("zds-audit", &[]);
    let ends = connect_node(&home);
    let cart = request("cart", &home.path(), &ends[0].1);
    node.mesh(&cart);
    serve(&home);
    let program = format!("{}\nimport time; time.sleep(20)", client(&ends[0].1));
    let script = "echo 0 >\"$1\"; shift; exec \"$@\"";
    let mut held = Command::new("sh")
        .args(["-c", script, "sh", &node.daemon.members()])
        .args(["/usr/bin/python3", "-c", &program])
        .spawn()
        .unwrap();
    let audit =
        || -> AuditResponse { node.daemon.post(path::AUDIT, &AuditRequest::default()).ok() };
    wait::until(|| audit().connections > 0, || "no connection");
    let response = audit();
    assert_eq!(response.findings, [], "{response:?}");
    held.kill().unwrap();
    held.wait().unwrap();
}
