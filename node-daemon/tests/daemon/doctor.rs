//! Tests of the doctor: each situation of docs/troubleshooting.md is made, and named.

use std::{
    collections::BTreeMap,
    fs,
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::Deserialize;
use sluice_abi::{ABI_VERSION, AliasUsage};
use sluice_api::{AddRequest, AddResponse, PodView, path};

use crate::{
    audit::{self, APPLICATION, CLIENT, Process},
    balancer::{self, Balancer},
    node::{Daemon, Pod},
    pods::{add, annotated},
};

#[derive(Debug, Deserialize)]
#[expect(clippy::struct_field_names, reason = "the keys of the JSON")]
struct Check {
    check: String,
    level: String,
    found: String,
    remedy: String,
}

/// The results, and the exit code.
fn doctor(daemon: &Daemon) -> (Vec<Check>, Option<i32>) {
    let output = daemon.examine("doctor").arg("--json").output().unwrap();
    let checks: Vec<Check> = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (checks, output.status.code())
}

/// Asserts that one check has a level, and names something.
fn named(daemon: &Daemon, check: &str, level: &str, part: &str) {
    let (checks, code) = doctor(daemon);
    let found = checks
        .iter()
        .find(|one| one.check == check && one.found.contains(part));
    let found = found.unwrap_or_else(|| panic!("{check} does not name '{part}': {checks:#?}"));
    assert_eq!(found.level, level, "{found:?}");
    assert!(!found.remedy.is_empty(), "{found:?}");
    let any = |level| checks.iter().any(|one| one.level == level);
    let expected = match (any("problem"), any("warning")) {
        (true, _) => 1,
        (false, true) => 4,
        (false, false) => 0,
    };
    assert_eq!(code, Some(expected), "{checks:#?}");
}

#[test]
fn healthy_node_has_no_problem() {
    let daemon = Daemon::start("doctor");
    let (pod, _peer, _proxy) = audit::pair(&daemon, "doctor");
    audit::mesh(&daemon, &pod);
    let (checks, _) = doctor(&daemon);
    let bad = |one: &&Check| one.level != "ok" && one.level != "skipped";
    // The node's own clock, memory and CNI chain are not this test's.
    let bad: Vec<_> = checks
        .iter()
        .filter(bad)
        .filter(|one| !["clock", "node memory", "CNI chain"].contains(&&*one.check))
        .collect();
    assert!(bad.is_empty(), "{bad:#?}");
    let text = daemon.examine("doctor").output().unwrap();
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("a proxy listens in all of 1 Pods"), "{text}");
    assert!(text.contains("connections follow the rules"), "{text}");
}

#[test]
fn pods_that_were_refused_are_named() {
    let daemon = Daemon::start("doctor-refused");
    let pod = Pod::new("doctor-refused", &["10.1.0.1/24"]);
    let mut request = add("a", &pod.path(), &["10.1.0.1"]);
    let wrong = [("traffic.sidecar.istio.io/excludeOutboundPorts", "none")];
    request.annotations = Some(annotated(&wrong));
    daemon.post(path::ADD, &request).api_error(422);
    named(&daemon, "refused Pods", "warning", "code 100");
}

#[test]
fn bypass_is_named() {
    let daemon = Daemon::start("doctor-bypass");
    let (pod, _peer, _proxy) = audit::pair(&daemon, "doctor-bypass");
    let _client = Process::start(&pod, &daemon, APPLICATION, CLIENT).done();
    audit::mesh(&daemon, &pod);
    named(&daemon, "bypass", "problem", "shop/pod-a with 10.1.0.9:80");
}

#[test]
fn crashed_sidecar_is_named() {
    let mut daemon = Daemon::start("doctor-sidecar");
    let pod = Pod::new("doctor-sidecar", &["10.1.0.1/24"]);
    let request = add("a", &pod.path(), &["10.1.0.1"]);
    assert!(daemon.post(path::ADD, &request).ok::<AddResponse>().meshed);
    named(&daemon, "sidecars", "warning", "shop/pod-a");
    // The Pod's record is older than the grace period.
    daemon.age_records(Duration::from_mins(10));
    named(&daemon, "sidecars", "problem", "shop/pod-a");
    daemon.stop();
}

#[test]
fn slow_adds_are_named() {
    let config = "missing-annotations = \"intercept\"\nkubeconfig = \"/nowhere\"";
    let daemon = Daemon::configured("doctor-slow", config);
    let pod = Pod::new("doctor-slow", &["10.1.0.1/24"]);
    let request = AddRequest {
        annotations: None,
        ..add("a", &pod.path(), &["10.1.0.1"])
    };
    let begin = Instant::now();
    daemon.post(path::ADD, &request);
    if begin.elapsed() > Duration::from_secs(1) {
        named(&daemon, "latency", "warning", "an ADD takes");
    }
    named(&daemon, "annotations", "warning", "passed none with 1 ADDs");
}

#[test]
fn half_done_upgrade_is_named() {
    let mut daemon = Daemon::start("doctor-upgrade");
    daemon.crash();
    named(&daemon, "daemon", "problem", "does not run");
    let generation = format!("generation v{ABI_VERSION}");
    named(&daemon, "pins", "warning", &generation);
    fs::create_dir(daemon.pins().join("v1")).unwrap();
    named(&daemon, "pins", "problem", "half done");
    daemon.restart();
    let (checks, _) = doctor(&daemon);
    let pins = checks.iter().find(|one| one.check == "pins").unwrap();
    assert_eq!(pins.level, "ok", "{pins:?}");
}

#[test]
fn hung_daemon_is_named() {
    let daemon = Daemon::start("doctor-hung");
    let pid = Pid::from_raw(i32::try_from(daemon.pid()).unwrap());
    kill(pid, Signal::SIGSTOP).unwrap();
    named(&daemon, "daemon", "problem", "does not answer");
    kill(pid, Signal::SIGCONT).unwrap();
}

#[test]
fn foreign_programs_are_named() {
    let daemon = Daemon::start("doctor-foreign");
    let balancer = Balancer::attach(daemon.cgroup());
    let (checks, _) = doctor(&daemon);
    let order = checks.iter().find(|one| one.check == "hook order").unwrap();
    assert!(order.found.contains("'balance_connect'"), "{order:?}");
    drop(balancer);
    // A program that detaches Sluice's.
    assert!(balancer::clear(daemon.cgroup()) > 0);
    named(
        &daemon,
        "readiness",
        "problem",
        "hooks of the cgroup are missing",
    );
}

#[test]
fn full_map_is_named() {
    let daemon = Daemon::start("doctor-map");
    let pod = Pod::new("doctor-map", &["10.1.0.1/24"]);
    let request = add("a", &pod.path(), &["10.1.0.1"]);
    assert!(daemon.post(path::ADD, &request).ok::<AddResponse>().meshed);
    let pods: Vec<PodView> = daemon.get(path::PODS).ok();
    let map = daemon
        .pins()
        .join(format!("v{ABI_VERSION}/maps/alias_usage"));
    let map = aya::maps::Map::HashMap(aya::maps::MapData::from_pin(map).unwrap());
    let mut map: aya::maps::HashMap<_, u64, AliasUsage> = map.try_into().unwrap();
    let usage = AliasUsage {
        held: 4096,
        fallbacks: 17,
    };
    map.insert(pods[0].cookie.unwrap(), usage, 0).unwrap();
    named(
        &daemon,
        "map shares",
        "warning",
        "17 connections had no alias address",
    );
}

#[test]
fn bug_report_has_every_part_and_no_secret() {
    let daemon = Daemon::start("bug-report");
    let pod = Pod::new("bug-report", &["10.1.0.1/24"]);
    let mut request = add("a", &pod.path(), &["10.1.0.1"]);
    let secret = BTreeMap::from([("example.com/token".to_owned(), "hunter2".to_owned())]);
    let annotations = request.annotations.get_or_insert_default();
    annotations.extend(secret);
    assert!(daemon.post(path::ADD, &request).ok::<AddResponse>().meshed);
    let archive = daemon.directory.path().join("report.tar.gz");
    let mut report = daemon.examine("bug-report");
    report.arg("--output").arg(&archive).env("TOKEN", "hunter2");
    let output = report.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let tar = |arguments: &[&str]| {
        let output = Command::new("tar")
            .args(arguments)
            .arg("--file")
            .arg(&archive)
            .output();
        String::from_utf8_lossy(&output.unwrap().stdout).into_owned()
    };
    let names = tar(&["--list", "--gzip"]);
    for name in [
        "doctor.txt",
        "status.json",
        "pods.json",
        "metrics.txt",
        "audit.json",
        "connections.json",
        "programs.json",
        "sluiced.toml",
        "pins.txt",
        "maps/process_ip.txt",
        "host-mounts",
        "logs/journal.log",
    ] {
        assert!(
            names.contains(&format!("sluice-bug-report/{name}\n")),
            "{names}"
        );
    }
    let content = tar(&["--extract", "--gzip", "--to-stdout"]);
    assert!(content.contains("shop") && content.contains("root_connect4"));
    assert!(!content.contains("hunter2"));
    // An existing file stays.
    sleep(Duration::from_millis(10));
    assert!(!report.output().unwrap().status.success());
}
