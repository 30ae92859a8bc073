//! Tests of the daemon's privileges, and of attacks on it.

use sluice_api::{AddResponse, PodCounters, PodView, code, path};

use crate::{
    node::{Daemon, Pod},
    pods::add,
};

/// `CAP_DAC_READ_SEARCH`, `CAP_NET_ADMIN`, `CAP_SYS_PTRACE` and `CAP_SYS_ADMIN`
/// (`linux/capability.h`).
const NEEDED: u64 = 1 << 2 | 1 << 12 | 1 << 19 | 1 << 21;

/// A process for which all directories are read-only, except the test's own.
pub(crate) const READ_ONLY: [&str; 8] = [
    "unshare",
    "--mount",
    // Later mounts of namespaces must propagate.
    "--propagation",
    "slave",
    "sh",
    "-c",
    "mount --bind \"$DIRECTORY\" \"$DIRECTORY\" && mount -o remount,bind,ro / \
     && ! touch /read-only 2>/dev/null && exec \"$@\"",
    "sh",
];

/// Traffic that other systems interpret as control messages: kmesh enrolls the source of a
/// connection to 0.0.0.1:929 and unenrolls it at 0.0.0.2:930, or by one address and two ports;
/// Merbridge resolves a namespace by a connection to port 39807 from 127.128.0.0/16, and binds
/// proxies to 127.0.0.6.
const TRICKS: &str = "
import socket
v4 = [(to, port) for to in ('0.0.0.1', '0.0.0.2', '127.128.0.1', '127.0.0.6', VICTIM)
      for port in (929, 930, 39807, 15001, 15006)]
v6 = [(to, port) for to in ('::1', '::6', '::ffff:0.0.0.1', '::ffff:' + VICTIM)
      for port in (929, 930, 39807, 15001, 15006)]
for family, targets, sources in ((socket.AF_INET, v4, ('', '127.128.0.1', '127.0.0.6')),
                                 (socket.AF_INET6, v6, ('', '::ffff:127.128.0.1', '::6'))):
    for source in sources:
        for target in targets:
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                trick = socket.socket(family, kind)
                trick.settimeout(0.01)
                try:
                    trick.bind((source, 39807 if kind == socket.SOCK_DGRAM else 0))
                    trick.connect(target)
                    trick.send(b'enrol me')
                except OSError:
                    pass
                trick.close()
print('tried')
";

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let lines = status.lines().filter_map(|line| line.split_once(":\t"));
    let mut found = lines.filter(|(key, _)| *key == name);
    found.next().expect("a field").1
}

#[test]
fn daemon_threads_have_the_required_capabilities_only() {
    let daemon = Daemon::start("caps");
    let threads = daemon.threads();
    assert!(threads.len() > 1);
    for status in threads {
        let mask = |name| u64::from_str_radix(field(&status, name), 16).unwrap();
        assert_eq!((mask("CapPrm"), mask("CapEff")), (NEEDED, NEEDED));
        assert_eq!((mask("CapInh"), mask("CapAmb")), (0, 0));
        assert_eq!(field(&status, "NoNewPrivs"), "1");
        // A seccomp filter denies every execve.
        assert_eq!(field(&status, "Seccomp"), "2");
    }
}

#[test]
fn missing_capability_is_named_with_its_use() {
    let daemon = Daemon::start("lacks");
    for (name, complaint) in [
        ("net_admin", "CAP_NET_ADMIN, to attach"),
        ("sys_admin", "CAP_SYS_ADMIN, to load"),
        ("sys_ptrace", "CAP_SYS_PTRACE, to see"),
        ("dac_read_search", "CAP_DAC_READ_SEARCH, to find"),
    ] {
        let without = format!("--bounding-set=-{name}");
        let (code, said) = daemon.rival_launched(&["setpriv", &without]);
        assert_eq!(code, Some(1));
        assert!(said.contains(complaint), "{said}");
    }
}

#[test]
fn the_daemon_works_on_a_read_only_root() {
    let daemon = Daemon::launched(&READ_ONLY, "readonly", "");
    let pod = Pod::new("readonly", &["10.1.0.1/24", "fd00::1/64"]);
    let request = add("a", &pod.path(), &["10.1.0.1", "fd00::1"]);
    assert!(daemon.post(path::ADD, &request).ok::<AddResponse>().meshed);
    assert_eq!(daemon.post(path::CHECK, &request.attachment).status, 204);
    assert_eq!(daemon.post(path::DEL, &request.attachment).status, 200);
}

#[test]
fn netns_of_another_pod_is_rejected() {
    let daemon = Daemon::start("occupied");
    let pod = Pod::new("occupied", &["10.1.0.1/24", "10.1.0.2/24"]);
    let first = add("one", &pod.path(), &["10.1.0.1"]);
    let second = add("two", &pod.path(), &["10.1.0.2"]);
    assert!(daemon.post(path::ADD, &first).ok::<AddResponse>().meshed);
    let api_error = daemon.post(path::ADD, &second).api_error(422);
    assert_eq!(api_error.code, code::NETNS_REFUSED);
    assert!(
        api_error.message.contains("shop/pod-one"),
        "{}",
        api_error.message
    );

    let mut another_network = first.clone();
    another_network.attachment.network = "more".to_owned();
    assert!(
        daemon
            .post(path::ADD, &another_network)
            .ok::<AddResponse>()
            .meshed
    );
    for attachment in [&first.attachment, &another_network.attachment] {
        assert_eq!(daemon.post(path::DEL, attachment).status, 200);
    }
    assert!(daemon.post(path::ADD, &second).ok::<AddResponse>().meshed);
}

#[test]
fn connections_from_pods_cannot_change_enrollment() {
    let daemon = Daemon::start("tricks");
    let victim = Pod::new("tricks-victim", &["10.1.0.1/24", "fd00::1/64"]);
    let stranger = Pod::new("tricks", &["10.1.0.2/24"]);
    // Even a namespace that assigns itself the other Pod's address.
    let thief = Pod::new("tricks-thief", &["10.1.0.1/24", "fd00::1/64"]);
    let request = add("a", &victim.path(), &["10.1.0.1", "fd00::1"]);
    assert!(daemon.post(path::ADD, &request).ok::<AddResponse>().meshed);
    // The victim's connections use alias addresses, and are counted.
    let pods = || {
        let mut pods: Vec<PodView> = daemon.get(path::PODS).ok();
        for pod in &mut pods {
            pod.aliases = 0;
            pod.age_seconds = 0;
            pod.counters = PodCounters::default();
        }
        pods
    };
    let before = pods();
    let tricks = format!("VICTIM = '10.1.0.1'\n{TRICKS}");
    for pod in [&stranger, &thief, &victim] {
        for uid in [0, 1337] {
            assert_eq!(pod.run(&daemon, uid, &tricks), "tried\n");
        }
    }
    assert_eq!(pods(), before);
    assert_eq!(daemon.post(path::CHECK, &request.attachment).status, 204);
    // The programs processed these connections.
    let decisions = daemon.get(path::METRICS).body;
    let seen = "sluice_decisions_total{reason=\"outbound_to_proxy\"} ";
    assert!(decisions.contains(seen) && !decisions.contains(&format!("{seen}0\n")));
}
