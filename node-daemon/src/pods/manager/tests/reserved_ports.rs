//! Tests of the proxy's ports among the reserved ones, and of listeners that another user has on them.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
};

use super::{Namespace, Node, attachment, request};
use crate::pods::Repair;

const ADDRESSES: [&str; 2] = ["10.1.0.1", "fd00::1"];
const PORTS: &str = "15001,15006,15053";
const APP: u32 = 1000;

fn reserved(pod: &Namespace) -> String {
    let text = pod.output("sysctl -n net.ipv4.ip_local_reserved_ports");
    text.trim().to_owned()
}

/// Requests port 15001 of TCP and 15053 of UDP by their port ranges alone, without `bind`.
const UNBOUND: &str = "
import socket
for kind, port in ((socket.SOCK_STREAM, 15001), (socket.SOCK_DGRAM, 15053)):
    one = socket.socket(socket.AF_INET, kind)
    one.setsockopt(0, 51, port << 16 | port)
    try:
        one.listen() if kind == socket.SOCK_STREAM else one.sendto(b'x', ('127.0.0.1', 9))
    except OSError:
        pass
    print(one.getsockname()[1] == port)";

fn python(pod: &Namespace, program: &str) -> Command {
    use std::os::fd::AsRawFd as _;
    let (this, file) = (std::process::id(), pod.0.as_raw_fd());
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net=/proc/{this}/fd/{file}"))
        .args(["setpriv", "--clear-groups"])
        .arg(format!("--reuid={APP}"))
        .arg(format!("--regid={APP}"))
        .args(["/usr/bin/python3", "-c", program]);
    command
}

/// A process that listens on the proxy's outbound port, and says so.
pub(super) fn listener(pod: &Namespace) -> Child {
    let program = "import socket, time; s = socket.create_server(('0.0.0.0', 15001)); \
                   print('listens', flush=True); time.sleep(60)";
    let mut child = python(pod, program)
        .stdout(Stdio::piped())
        .spawn()
        .expect("nsenter");
    let mut line = String::new();
    let stdout = child.stdout.as_mut().expect("a pipe");
    BufReader::new(stdout).read_line(&mut line).expect("a line");
    assert_eq!(line, "listens\n");
    child
}

#[test]
fn ports_of_the_proxy_are_reserved_with_the_pod() {
    let node = Node::new("reserve");
    let (who, pod) = (attachment("a", "eth0"), Namespace::with(&ADDRESSES));
    pod.output("sysctl -w net.ipv4.ip_local_reserved_ports=8080,15006,20000-20002");
    // Longer than the first read of `read_to_string`.
    let before = reserved(&pod);
    let both = "8080,15001,15006,15053,20000-20002";
    node.start().add(request(&who, &pod, &ADDRESSES)).unwrap();
    assert_eq!(reserved(&pod), both);
    // Another daemon and another ADD change nothing; ports of others stay.
    let manager = &mut node.start();
    manager.add(request(&who, &pod, &ADDRESSES)).unwrap();
    assert_eq!(reserved(&pod), both);
    let now = "8080,8443,15001,15006,15053,20000-20002";
    pod.output(&format!("sysctl -w net.ipv4.ip_local_reserved_ports={now}"));
    manager.del(&who).unwrap();
    assert_eq!(reserved(&pod), before.replace("8080,", "8080,8443,"));
}

#[test]
fn ports_that_a_runtime_releases_are_reserved_again() {
    let node = Node::new("reserve-again");
    let manager = &mut node.start();
    let (who, pod) = (attachment("a", "eth0"), Namespace::with(&ADDRESSES));
    manager.add(request(&who, &pod, &ADDRESSES)).unwrap();
    pod.output("sysctl -w net.ipv4.ip_local_reserved_ports=8080,15006");
    for _ in 0..2 {
        manager.survey_and_resync();
        assert_eq!(reserved(&pod), "8080,15001,15006,15053");
    }
    let repairs = manager.read().unwrap().repairs;
    let repairs: Vec<_> = repairs.iter().filter(|(_, count)| *count > 0).collect();
    assert_eq!(repairs, [(Repair::ReservedPorts, 1)]);
    manager.del(&who).unwrap();
    assert_eq!(reserved(&pod), "8080");
}

#[test]
fn what_a_pod_lost_without_a_daemon_is_restored() {
    let node = Node::new("reserve-takeover");
    let (who, pod) = (attachment("a", "eth0"), Namespace::with(&ADDRESSES));
    node.start().add(request(&who, &pod, &ADDRESSES)).unwrap();
    assert!(pod.has("::6"));
    pod.output("sysctl -w net.ipv4.ip_local_reserved_ports=8080,15006");
    pod.output("ip address delete ::6/128 dev lo");
    let manager = &mut node.start();
    assert!(pod.has("::6"));
    manager.survey_and_resync();
    assert_eq!(reserved(&pod), "8080,15001,15006,15053");
    manager.del(&who).unwrap();
    assert_eq!(reserved(&pod), "8080");
    assert!(!pod.has("::6"));
}

#[test]
fn detach_releases_the_reserved_ports() {
    let node = Node::new("reserve-detach");
    let mut manager = node.start();
    let (who, pod) = (attachment("a", "eth0"), Namespace::with(&ADDRESSES));
    manager.add(request(&who, &pod, &ADDRESSES)).unwrap();
    assert_eq!(reserved(&pod), PORTS);
    let (pins, store, records, pending_dels) = manager.into_parts();
    crate::pods::detach(pins, &store, &records, &pending_dels).unwrap();
    assert_eq!(reserved(&pod), "");
}

/// A list with the proxy's ports would be longer than the kernel accepts at once.
#[test]
fn refused_reservation_prevents_neither_takeover_nor_del() {
    let node = Node::new("reserve-refused");
    let (who, pod) = (attachment("a", "eth0"), Namespace::with(&ADDRESSES));
    let ports: Vec<_> = (0..929).map(|index| (1 + 2 * index).to_string()).collect();
    let long = ports.join(",");
    pod.output(&format!(
        "sysctl -w net.ipv4.ip_local_reserved_ports={long}"
    ));
    node.start().add(request(&who, &pod, &ADDRESSES)).unwrap();
    let manager = &mut node.start();
    manager.survey_and_resync();
    manager.del(&who).unwrap();
    assert_eq!(reserved(&pod), long);
    let repairs = manager.read().unwrap().repairs;
    assert!(repairs.iter().all(|(_, count)| count == 0));
}

#[test]
fn kernel_selects_no_port_of_the_proxy() {
    let node = Node::new("reserve-select");
    let manager = &mut node.start();
    let (who, pod) = (attachment("a", "eth0"), Namespace::with(&ADDRESSES));
    pod.ip("link set lo up");
    pod.output("sysctl -w net.ipv4.ip_local_port_range=15000\t60999");
    let unbound = || {
        let done = python(&pod, UNBOUND).output().expect("nsenter");
        String::from_utf8(done.stdout).expect("text")
    };
    assert_eq!(unbound(), "True\nTrue\n");
    manager.add(request(&who, &pod, &ADDRESSES)).unwrap();
    assert_eq!(unbound(), "False\nFalse\n");
}

#[test]
fn foreign_listener_that_ended_is_forgotten() {
    let node = Node::new("forget");
    let manager = &mut node.start();
    let (who, pod) = (attachment("a", "eth0"), Namespace::with(&ADDRESSES));
    let mut process = listener(&pod);
    manager.add(request(&who, &pod, &ADDRESSES)).unwrap();
    let found = |manager: &crate::pods::manager::PodManager| {
        let uid = manager.datapath.foreign_listener(pod.cookie()).unwrap();
        let counted = manager.namespaces.get(pod.cookie()).unwrap();
        (uid, counted.foreign_listeners())
    };
    assert_eq!(found(manager), (Some(APP), 1));
    manager.survey_and_resync();
    assert_eq!(found(manager), (Some(APP), 1));
    process.kill().unwrap();
    process.wait().unwrap();
    manager.survey_and_resync();
    assert_eq!(found(manager), (None, 0));
}
