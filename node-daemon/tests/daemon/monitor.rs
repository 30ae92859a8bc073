//! Tests of `sluiced monitor`: watchers see the decisions.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use sluice_api::{
    AddResponse, DelResponse, EventView, Events, EventsRequest, PodCounters, PodView, ProgramRuns,
    ProgramsRequest, path,
};

use crate::{
    node::{Daemon, Pod},
    pods::add,
};

const CONNECT: &str = "
one = socket.socket()
one.settimeout(0.2)
one.connect_ex(('10.1.0.9', 8080))
print('tried')";

fn ask(daemon: &Daemon, cursor: Option<u64>, pod: Option<&str>) -> Events {
    let pod = pod.map(str::to_owned);
    daemon
        .post(path::EVENTS, &EventsRequest { cursor, pod })
        .ok()
}

#[test]
fn events_are_filtered_by_pod() {
    let daemon = Daemon::start("watch");
    let (one, two) = (
        Pod::new("watch-1", &["10.1.0.1/24"]),
        Pod::new("watch-2", &["10.1.0.2/24"]),
    );
    for (name, pod, address) in [("one", &one, "10.1.0.1"), ("two", &two, "10.1.0.2")] {
        let request = add(name, &pod.path(), &[address]);
        assert!(daemon.post(path::ADD, &request).ok::<AddResponse>().meshed);
        // No watcher is connected.
        assert_eq!(pod.run(&daemon, 1000, CONNECT), "tried\n");
    }
    let begin = ask(&daemon, None, None);
    assert_eq!((begin.next, begin.events), (0, vec![]));
    assert_eq!(one.run(&daemon, 1000, CONNECT), "tried\n");
    assert_eq!(two.run(&daemon, 1337, CONNECT), "tried\n");

    let seen = |pod| {
        let mut seen = Vec::new();
        let mut cursor = 0;
        while cursor < 2 {
            let Events {
                next,
                dropped,
                events,
            } = ask(&daemon, Some(cursor), pod);
            assert_eq!(dropped, 0);
            seen.extend(
                events
                    .into_iter()
                    .map(|event| (event.pod, event.uid, event.rule)),
            );
            cursor = next;
        }
        seen
    };
    let first = (
        "shop/pod-one".to_owned(),
        Some(1000),
        "outbound_to_proxy".to_owned(),
    );
    let second = (
        "shop/pod-two".to_owned(),
        Some(1337),
        "outbound_by_proxy".to_owned(),
    );
    thread::scope(|scope| {
        let all = scope.spawn(|| seen(None));
        let some = scope.spawn(|| seen(Some("10.1.0.2")));
        assert_eq!(all.join().unwrap(), [first, second.clone()]);
        assert_eq!(some.join().unwrap(), [second]);
    });
    let unknown = EventsRequest {
        cursor: None,
        pod: Some("shop/unknown".to_owned()),
    };
    let api_error = daemon.post(path::EVENTS, &unknown).api_error(404);
    assert!(api_error.message.contains("shop/unknown"));
}

#[test]
fn monitor_prints_events_until_terminated() {
    let daemon = Daemon::start("watch-line");
    let pod = Pod::new("watch-line", &["10.1.0.1/24"]);
    let request = add("one", &pod.path(), &["10.1.0.1"]);
    assert!(daemon.post(path::ADD, &request).ok::<AddResponse>().meshed);
    for json in [false, true] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sluiced"));
        command
            .args([
                "monitor",
                "--pod",
                "shop/pod-one",
                "--uid",
                "1000",
                "--dest",
                "10.1.0.9:8080",
            ])
            .args(["--reason", "outbound_to_proxy", "--socket"])
            .arg(&daemon.socket)
            .args(json.then_some("--json"))
            .stdout(Stdio::piped());
        let mut monitor = command.spawn().unwrap();
        let mut lines = BufReader::new(monitor.stdout.take().unwrap()).lines();
        if !json {
            assert!(lines.next().unwrap().unwrap().starts_with("TIME"));
        }
        let seen = AtomicBool::new(false);
        thread::scope(|scope| {
            // Repeated until the watcher is connected.
            scope.spawn(|| {
                while !seen.load(Ordering::Relaxed) {
                    assert_eq!(pod.run(&daemon, 1000, CONNECT), "tried\n");
                }
            });
            let line = lines.next();
            seen.store(true, Ordering::Relaxed);
            let line = line.unwrap().unwrap();
            if json {
                let event: EventView = serde_json::from_str(&line).unwrap();
                assert_eq!(event.to, "10.1.0.9:8080".parse().unwrap());
            } else {
                assert!(
                    line.contains("shop/pod-one") && line.contains("10.1.0.9:8080"),
                    "{line}"
                );
            }
        });
        let pid = i32::try_from(monitor.id()).unwrap();
        kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
        monitor.wait().unwrap();
    }
}

#[test]
fn pods_show_their_connections_by_path() {
    let daemon = Daemon::start("pod-counters");
    let pod = Pod::new("pod-counters", &["10.1.0.1/24"]);
    let request = add("one", &pod.path(), &["10.1.0.1"]);
    assert!(daemon.post(path::ADD, &request).ok::<AddResponse>().meshed);
    let counters = || daemon.get(path::PODS).ok::<Vec<PodView>>()[0].counters;
    assert_eq!(counters(), PodCounters::default());
    for uid in [1000, 1000, 1337] {
        assert_eq!(pod.run(&daemon, uid, CONNECT), "tried\n");
    }
    let expected = PodCounters {
        outbound_to_proxy: 2,
        outbound_direct: 1,
        ..PodCounters::default()
    };
    assert_eq!(counters(), expected);
    assert!(daemon.ask(&["pods"]).contains("2/1"));
    let page = daemon.get(path::METRICS).body;
    for (result, count) in [
        ("outbound_to_proxy", 2),
        ("outbound_direct", 1),
        ("refused", 0),
    ] {
        let series = format!(
            r#"sluice_pod_decisions_total{{namespace="shop",pod="pod-one",result="{result}"}} {count}"#
        );
        assert!(page.lines().any(|line| line == series), "{series}\n{page}");
    }
    // A new enrollment starts at zero.
    let _deleted: DelResponse = daemon.post(path::DEL, &request.attachment).ok();
    assert!(daemon.post(path::ADD, &request).ok::<AddResponse>().meshed);
    assert_eq!(counters(), PodCounters::default());
}

#[test]
fn status_measures_the_programs() {
    let daemon = Daemon::start("programs");
    let pod = Pod::new("programs", &["10.1.0.1/24"]);
    let request = add("one", &pod.path(), &["10.1.0.1"]);
    assert!(daemon.post(path::ADD, &request).ok::<AddResponse>().meshed);
    let two = ProgramsRequest { seconds: 2 };
    let runs: Vec<ProgramRuns> = thread::scope(|scope| {
        let measured = scope.spawn(|| daemon.post(path::PROGRAMS, &two).ok());
        while !measured.is_finished() {
            assert_eq!(pod.run(&daemon, 1000, CONNECT), "tried\n");
        }
        measured.join().unwrap()
    });
    let connect = runs.iter().find(|one| one.name == "root_connect4").unwrap();
    assert!(connect.runs > 0 && connect.nanos > 0, "{runs:?}");
    let printed = daemon.ask(&["status", "--programs", "1"]);
    assert!(printed.contains("root_connect4"), "{printed}");
}
