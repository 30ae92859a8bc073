//! Tests of the plugin with the daemon: the sequences of ADD and DEL that runtimes produce.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::mpsc,
    thread,
};

use nix::{
    sched::{CloneFlags, unshare},
    unistd::gettid,
};
use serde_json::json;
use sluice_api::{PodView, path, pending_dels_dir};

use crate::node::{Daemon, Pod};

/// The number of concurrent Pods.
const CROWD: u8 = 200;

/// The plugin that was built beside the daemon, or the one that is named.
fn plugin() -> PathBuf {
    let beside = Path::new(env!("CARGO_BIN_EXE_sluiced")).with_file_name("sluice-cni");
    let plugin = std::env::var_os("SLUICE_CNI").map_or(beside, Into::into);
    assert!(
        plugin.exists(),
        "cargo build -p sluice-cni makes {}",
        plugin.display()
    );
    plugin
}

/// Runs the plugin as the last of a chain that assigned an address.
fn call(daemon: &Daemon, verb: &str, container: &str, netns: &str, address: &str) -> Output {
    let interface = if netns.starts_with("/proc") {
        "lo"
    } else {
        "eth0"
    };
    let conf = json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "type": "sluice-cni",
        "socket": daemon.socket,
        "timeoutSeconds": 30,
        "runtimeConfig": { "io.kubernetes.cri.pod-annotations": { "sidecar.istio.io/status": "{}" } },
        "prevResult": {
            "cniVersion": "1.0.0",
            "interfaces": [{ "name": interface, "sandbox": netns }],
            "ips": [{ "address": format!("{address}/24"), "interface": 0 }],
        },
    });
    let mut process = Command::new(plugin())
        .env_clear()
        .env("CNI_COMMAND", verb)
        .env("CNI_CONTAINERID", container)
        .env("CNI_NETNS", netns)
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", "/opt/cni/bin")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = process.stdin.take().unwrap();
    stdin.write_all(conf.to_string().as_bytes()).unwrap();
    drop(stdin);
    process.wait_with_output().unwrap()
}

#[track_caller]
fn succeeds(daemon: &Daemon, verb: &str, container: &str, netns: &str, address: &str) {
    let output = call(daemon, verb, container, netns, address);
    assert!(output.status.success(), "{verb} {container}: {output:?}");
}

fn known(daemon: &Daemon) -> Vec<String> {
    let pods: Vec<PodView> = daemon.get(path::PODS).ok();
    pods.into_iter()
        .map(|pod| pod.attachment.container_id)
        .collect()
}

#[test]
fn pending_dels_are_replayed_on_start() {
    let mut daemon = Daemon::start("pending-del");
    let stays = Pod::new("pending-del-1", &["10.1.0.1/24"]);
    let goes = Pod::new("pending-del-2", &["10.1.0.2/24"]);
    succeeds(&daemon, "ADD", "stays", &stays.path(), "10.1.0.1");
    succeeds(&daemon, "ADD", "goes", &goes.path(), "10.1.0.2");
    daemon.crash();
    succeeds(&daemon, "DEL", "goes", &goes.path(), "10.1.0.2");
    succeeds(&daemon, "DEL", "goes", "", "10.1.0.2");
    succeeds(&daemon, "DEL", "never-came", "", "10.1.0.3");
    let left = pending_dels_dir(&daemon.socket);
    assert_eq!(
        fs::metadata(&left).unwrap().permissions().mode() & 0o777,
        0o700
    );
    assert_eq!(fs::read_dir(&left).unwrap().count(), 2);
    fs::write(left.join("nonsense.json"), "{").unwrap();
    daemon.restart();
    assert_eq!(known(&daemon), ["stays"]);
    assert_eq!(fs::read_dir(&left).unwrap().count(), 0);
}

#[test]
fn add_removes_the_pending_del() {
    let mut daemon = Daemon::start("revived");
    let pod = Pod::new("revived", &["10.1.0.1/24"]);
    daemon.crash();
    succeeds(&daemon, "DEL", "pod", &pod.path(), "10.1.0.1");
    // No daemon can enroll it, but its pending DEL is withdrawn.
    let waits = call(&daemon, "ADD", "pod", &pod.path(), "10.1.0.1");
    assert!(
        String::from_utf8(waits.stdout)
            .unwrap()
            .contains("\"code\":11")
    );
    assert_eq!(
        fs::read_dir(pending_dels_dir(&daemon.socket))
            .unwrap()
            .count(),
        0
    );
    daemon.restart();
    succeeds(&daemon, "ADD", "pod", &pod.path(), "10.1.0.1");
    assert_eq!(known(&daemon), ["pod"]);
}

#[test]
fn add_and_del_are_idempotent_in_any_order() {
    let daemon = Daemon::start("orders");
    let pod = Pod::new("orders", &["10.1.0.1/24"]);
    for verb in ["DEL", "ADD", "ADD", "DEL", "DEL", "ADD"] {
        succeeds(&daemon, verb, "pod", &pod.path(), "10.1.0.1");
    }
    assert_eq!(known(&daemon), ["pod"]);
}

#[test]
fn released_address_can_be_assigned_again() {
    let daemon = Daemon::start("reused");
    for round in 0..10 {
        let first = Pod::new(&format!("reused-{round}"), &["10.1.0.1/24"]);
        let (old, new) = (format!("old-{round}"), format!("new-{round}"));
        succeeds(&daemon, "ADD", &old, &first.path(), "10.1.0.1");
        drop(first);
        let second = Pod::new(&format!("reuser-{round}"), &["10.1.0.1/24"]);
        succeeds(&daemon, "ADD", &new, &second.path(), "10.1.0.1");
        // The DEL of the old Pod arrives after the new Pod got the address.
        succeeds(&daemon, "DEL", &old, "", "10.1.0.1");
        assert_eq!(known(&daemon), [&*new]);
        let check = call(&daemon, "CHECK", &new, &second.path(), "10.1.0.1");
        assert!(check.status.success(), "{check:?}");
        succeeds(&daemon, "DEL", &new, "", "10.1.0.1");
    }
}

#[test]
fn two_hundred_concurrent_pods_are_added_and_deleted() {
    let daemon = Daemon::start("crowd");
    thread::scope(|scope| {
        let (ready, homes) = mpsc::channel();
        let mut ends = Vec::new();
        for number in 0..CROWD {
            let (end, ended) = mpsc::channel::<()>();
            ends.push(end);
            let ready = ready.clone();
            // A namespace is a thread that has unshared it.
            scope.spawn(move || {
                unshare(CloneFlags::CLONE_NEWNET).unwrap();
                let address = format!("10.2.0.{number}");
                let added = Command::new("ip")
                    .args(["address", "add", &format!("{address}/24"), "dev", "lo"])
                    .status();
                assert!(added.unwrap().success());
                let netns = format!("/proc/{}/task/{}/ns/net", std::process::id(), gettid());
                ready.send((number, netns, address)).unwrap();
                let _dropped = ended.recv();
            });
        }
        let homes: Vec<_> = homes.iter().take(CROWD.into()).collect();
        for (verb, count) in [("ADD", usize::from(CROWD)), ("DEL", 0)] {
            thread::scope(|crowd| {
                for (number, netns, address) in &homes {
                    let (daemon, container) = (&daemon, format!("pod-{number}"));
                    crowd.spawn(move || succeeds(daemon, verb, &container, netns, address));
                }
            });
            assert_eq!(known(&daemon).len(), count);
        }
        drop(ends);
    });
}
