//! Tests of virtual interfaces, behind which another host is.

use std::process::Command;

use sluice_api::{AddResponse, DelResponse, path};

use crate::{
    node::{Daemon, Pod},
    pods::{add, annotated},
    wait,
};

/// Connects to a host beyond the Pod once, and prints `open` or the error.
const CALL: &str = "
try:
    socket.create_connection(('10.9.9.9', 80), timeout=5)
    print('open')
except OSError as error:
    print(error.strerror or type(error).__name__)";

/// A Pod that names `vm0`, with a proxy.
pub(super) fn pod(daemon: &Daemon, test: &str) -> Pod {
    let mut home = Pod::new(test, &["10.1.0.1/24"]);
    home.listen(&[15001, 15006]);
    home.join(daemon);
    home.sysctl("net.ipv4.ip_forward=1");
    // Each refusal is an ICMP error, also after many others.
    home.sysctl("net.ipv4.icmp_ratelimit=0");
    home.configure("route add default dev eth0");
    let mut request = add("a", &home.path(), &["10.1.0.1"]);
    request.annotations = Some(annotated(&[("istio.io/reroute-virtual-interfaces", "vm0")]));
    assert!(daemon.post(path::ADD, &request).ok::<AddResponse>().meshed);
    home
}

/// Ends the Pod.
pub(super) fn delete(daemon: &Daemon, home: &Pod) {
    let request = add("a", &home.path(), &["10.1.0.1"]);
    let _deleted: DelResponse = daemon.post(path::DEL, &request.attachment).ok();
}

/// Connects a host to `vm0` of the Pod.
fn connect(home: &Pod, guest: &Pod) {
    let name = guest.path();
    let name = name.rsplit('/').next().expect("a name");
    home.configure(&format!(
        "link add vm0 type veth peer name vm0 netns {name}"
    ));
    for (pod, own) in [(home, "172.31.1.1/24"), (guest, "172.31.1.2/24")] {
        pod.configure(&format!("address add {own} dev vm0"));
        pod.configure("link set vm0 up");
    }
    guest.configure("route add default via 172.31.1.1");
}

pub(super) fn await_open(daemon: &Daemon, guest: &Pod) {
    wait::until(
        || guest.run(daemon, 0, CALL) == "open\n",
        || "the proxy gets no connection",
    );
}

/// The output of a program inside a Pod.
fn shown(pod: &Pod, words: &str) -> String {
    let network = format!("--net={}", pod.path());
    let mut command = Command::new("nsenter");
    let output = command.arg(network).args(words.split(' ')).output();
    String::from_utf8(output.expect("it runs").stdout).expect("text")
}

/// Rules, filters and settings of Sluice inside a Pod.
pub(super) fn parts(home: &Pod) -> [bool; 3] {
    [
        shown(home, "ip rule").contains("prohibit"),
        shown(home, "tc qdisc show dev vm0").contains("clsact"),
        shown(home, "sysctl -n net.ipv4.conf.vm0.route_localnet") == "1\n",
    ]
}

#[test]
fn later_interface_is_rerouted_until_the_del() {
    let daemon = Daemon::start("virtual");
    let home = pod(&daemon, "virtual");
    let guest = Pod::new("guest", &[]);
    connect(&home, &guest);
    await_open(&daemon, &guest);
    let metrics = daemon.get(path::METRICS).body;
    let line = "sluice_decisions_total{reason=\"forwarded_to_proxy\"} ";
    assert!(!metrics.contains(&format!("{line}0")), "{metrics}");
    assert_eq!(parts(&home), [true; 3]);
    // Docker removes its bridge, and makes it anew.
    home.configure("link delete vm0");
    connect(&home, &guest);
    await_open(&daemon, &guest);
    delete(&daemon, &home);
    assert_eq!(parts(&home), [false; 3]);
}

#[test]
fn removed_programs_let_no_connection_pass() {
    let mut daemon = Daemon::start("unguarded");
    let home = pod(&daemon, "unguarded");
    let guest = Pod::new("unguarded-guest", &[]);
    connect(&home, &guest);
    await_open(&daemon, &guest);
    daemon.crash();
    assert_eq!(guest.run(&daemon, 0, CALL), "open\n");
    shown(&home, "tc filter del dev vm0 ingress");
    assert_eq!(guest.run(&daemon, 0, CALL), "No route to host\n");
    daemon.restart();
    assert_eq!(guest.run(&daemon, 0, CALL), "open\n");
    assert!(daemon.stop().is_some());
    assert!(daemon.detach().status.success());
    assert_eq!(parts(&home), [false; 3]);
}

#[test]
fn setting_of_another_owner_is_kept() {
    let daemon = Daemon::start("localnet");
    let home = pod(&daemon, "localnet");
    let guest = Pod::new("localnet-guest", &[]);
    // KubeVirt enables it for its own rules.
    home.sysctl("net.ipv4.conf.default.route_localnet=1");
    connect(&home, &guest);
    await_open(&daemon, &guest);
    delete(&daemon, &home);
    assert_eq!(parts(&home), [false, false, true]);
}
