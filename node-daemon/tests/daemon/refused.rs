//! Tests of refused ADDs: their record, their log line, their counter, their Event.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::Value;
use sluice_api::{AddResponse, EventView, Events, EventsRequest, RefusedAdd, Status, path};

use crate::{
    api_server::ApiServer,
    node::{Daemon, Pod},
    pods::{add, annotated},
    wait,
};

#[test]
fn refused_pod_is_recorded_with_reason_and_remedy() {
    let mut daemon = Daemon::start("refused");
    assert!(
        daemon
            .ask(&["pods", "--refused"])
            .starts_with("no Pod was refused")
    );
    let mut wrong = add("one", "/nowhere", &[]);
    let key = "traffic.sidecar.istio.io/excludeInboundPorts";
    wrong.annotations = Some(annotated(&[(key, "x\u{1b}")]));
    daemon.post(path::ADD, &wrong).api_error(422);
    wrong.attachment.container_id = "another".into();
    daemon.post(path::ADD, &wrong).api_error(422);
    daemon
        .post(path::ADD, &add("two", "/nowhere", &[]))
        .api_error(422);

    let refused: Vec<RefusedAdd> = daemon.get(path::REFUSED).ok();
    let seen: Vec<_> = refused
        .iter()
        .map(|one| (&*one.pod.name, &*one.reason, one.count))
        .collect();
    assert_eq!(
        seen,
        [("pod-two", "netns", 1), ("pod-one", "pod_settings", 2)]
    );
    assert_eq!(refused[1].container_id, "another");
    let page = daemon.ask(&["pods", "--refused"]);
    for part in [
        "shop/pod-one: pod_settings (code 100), 2 times",
        key,
        "\n  remedy  change",
    ] {
        assert!(page.contains(part), "{part} is not in\n{page}");
    }
    let metrics = daemon.get(path::METRICS).body;
    for line in [
        "sluice_refused_adds_total{reason=\"pod_settings\"} 2",
        "sluice_refused_adds_total{reason=\"netns\"} 1",
    ] {
        assert!(metrics.contains(line), "{metrics}");
    }
    let log = daemon.final_log();
    let line = log
        .lines()
        .find(|line| line.contains("shop/pod-one"))
        .unwrap();
    for part in [
        "pod refused",
        "reason=\"pod_settings\"",
        key,
        "remedy=\"change the Pod's",
    ] {
        assert!(line.contains(part), "{part} is not in {line}");
    }
}

#[test]
fn refused_pod_gets_an_event() {
    let server = ApiServer::start(vec![]);
    let directory = tempfile::tempdir().unwrap();
    let config = server.kubeconfig(directory.path(), "first") + "pod-events = true\n";
    let daemon = Daemon::configured("event", &config);
    let mut request = add("one", "/nowhere", &[]);
    request.pod.uid = "7".into();
    for container in ["a", "b", "c"] {
        request.attachment.container_id = container.into();
        daemon.post(path::ADD, &request).api_error(422);
    }
    wait::until(|| !server.events().is_empty(), || "no Event");
    sleep(Duration::from_millis(200));
    let events = server.events();
    assert_eq!(
        events.len(),
        1,
        "repeated attempts make one Event: {events:?}"
    );
    let (namespace, event): &(String, Value) = &events[0];
    assert_eq!(namespace, "shop");
    assert_eq!(event["involvedObject"]["name"], "pod-one");
    assert_eq!(event["involvedObject"]["uid"], "7");
    assert_eq!(
        (&event["type"], &event["reason"]),
        (&"Warning".into(), &"SluiceRefusedPod".into())
    );
    assert!(
        event["message"].as_str().unwrap().contains("(netns)"),
        "{event}"
    );
}

#[test]
fn silent_api_server_does_not_delay_refusals() {
    let server = ApiServer::start(vec![]);
    let directory = tempfile::tempdir().unwrap();
    let config = server.kubeconfig(directory.path(), "first") + "pod-events = true\n";
    let daemon = Daemon::configured("event-silent", &config);
    let begin = Instant::now();
    for index in 0..20 {
        let mut request = add(&index.to_string(), "/nowhere", &[]);
        request.pod.name = format!("silent-{index}");
        daemon.post(path::ADD, &request).api_error(422);
    }
    // Each Event waits for 10 s.
    assert!(begin.elapsed() < Duration::from_mins(1));
    assert_eq!(daemon.get(path::REFUSED).ok::<Vec<RefusedAdd>>().len(), 20);
}

#[test]
fn crashed_sidecar_is_shown() {
    let daemon = Daemon::start("crashed");
    let mut pod = Pod::new("crashed", &["10.1.0.1/24"]);
    pod.listen(&[15001, 15006]);
    let request = add("one", &pod.path(), &["10.1.0.1"]);
    assert!(daemon.post(path::ADD, &request).ok::<AddResponse>().meshed);
    let gauge = || {
        let metrics = daemon.get(path::METRICS).body;
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix("sluice_pods_without_listener "));
        line.unwrap().parse::<usize>().unwrap()
    };
    let mut cursor = daemon
        .post(path::EVENTS, &question(None))
        .ok::<Events>()
        .next;
    let rule = "outbound_to_proxy".to_owned();
    assert_eq!(gauge(), 0);
    assert_eq!(
        connect(&daemon, &pod, &mut cursor),
        ("0\n".to_owned(), vec![(rule.clone(), false)])
    );
    pod.end();
    assert_eq!(gauge(), 1);
    assert_eq!(
        connect(&daemon, &pod, &mut cursor),
        ("111\n".to_owned(), vec![(rule, true)]),
        "ECONNREFUSED"
    );
    let status: Status = daemon.get(path::STATUS).ok();
    assert_eq!(status.pods_without_listener, 1);
    assert!(
        status.ready,
        "a crashed sidecar does not make the node unready"
    );
}

fn question(cursor: Option<u64>) -> EventsRequest {
    EventsRequest { cursor, pod: None }
}

/// The result of a connect, and what a watcher sees of it.
fn connect(daemon: &Daemon, pod: &Pod, cursor: &mut u64) -> (String, Vec<(String, bool)>) {
    let program = "one = socket.socket()\none.settimeout(1)\n\
                   print(one.connect_ex(('10.1.0.9', 8080)))";
    let errno = pod.run(daemon, 1000, program);
    let batch: Events = daemon.post(path::EVENTS, &question(Some(*cursor))).ok();
    *cursor = batch.next;
    let shown = |event: &EventView| (event.rule.clone(), event.is_refused);
    (errno, batch.events.iter().map(shown).collect())
}
