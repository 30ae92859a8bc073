//! Answers of the daemon that are errors, malformed or missing.

use std::{
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::node::{Daemon, Node, prev_result};

#[test]
fn status_fails_without_daemon() {
    let node = Node::without_daemon();
    let conf = node.conf("1.1.0");
    let nothing = [
        ("CNI_CONTAINERID", ""),
        ("CNI_NETNS", ""),
        ("CNI_IFNAME", ""),
    ];
    node.run_with("STATUS", &conf, &nothing)
        .fails_with(50, "daemon.sock");
}

#[test]
fn status_of_a_damaged_data_path_warns_of_running_pods() {
    let status = json!({
        "version": "0", "abi": 1, "ready": false, "programs": [], "meshed_pods": 0,
        "unmeshed_pods": 0, "problems": ["hooks of the cgroup are missing: connect4"],
    });
    let node = Node::with(Daemon::Answers(200, status));
    let conf = node.conf("1.1.0");
    node.run("STATUS", &conf).fails_with(51, "connect4");
}

#[test]
fn add_without_daemon_needs_no_sidecar_annotation() {
    let handed_over =
        |annotations: Value| json!({ "io.kubernetes.cri.pod-annotations": annotations });
    for (runtime, succeeds) in [
        (handed_over(json!({"sidecar.istio.io/status": "{}"})), false),
        (
            handed_over(json!({"linkerd.io/proxy-version": "edge-25.8.1"})),
            false,
        ),
        (handed_over(json!({})), true),
        (handed_over(Value::Null), true),
        (json!({}), false),
    ] {
        let node = Node::without_daemon();
        let mut conf = node.conf("1.0.0");
        conf["runtimeConfig"] = runtime;
        let outcome = node.run("ADD", &conf);
        if succeeds {
            outcome.succeeds_with(&prev_result("1.0.0"));
        } else {
            outcome.fails_with(11, "DaemonSet");
        }
    }
}

#[test]
fn malformed_daemon_responses_are_retryable() {
    let nonsense: [&[u8]; 6] = [
        b"",
        b"hello",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n",
    ];
    for bytes in nonsense {
        let node = Node::with(Daemon::Says(bytes));
        let conf = node.conf("1.0.0");
        node.run("ADD", &conf)
            .fails_with(11, "sluiced does not answer");
    }
}

#[test]
fn daemon_that_hangs_fails_after_the_deadline() {
    let node = Node::with(Daemon::Hangs);
    let conf = node.conf("1.0.0");
    let start = Instant::now();
    node.run("ADD", &conf).fails_with(11, "timeoutSeconds");
    assert!(
        start.elapsed() < Duration::from_secs(4),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn daemon_that_accepts_no_connection_fails_after_the_deadline() {
    let node = Node::without_daemon();
    let listener =
        socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    let address = socket2::SockAddr::unix(node.socket()).unwrap();
    listener.bind(&address).unwrap();
    listener.listen(0).unwrap();
    let _first_in_the_queue = UnixStream::connect(node.socket()).unwrap();
    let conf = node.conf("1.0.0");
    let started = Instant::now();
    node.run("ADD", &conf).fails_with(11, "does not answer");
    assert!(started.elapsed() < Duration::from_secs(3));
}

#[test]
fn daemon_error_is_the_plugins_error() {
    let refusal = json!({"code": 102, "message": "10.1.0.5 is not on eth0", "details": "look"});
    let node = Node::with(Daemon::Answers(422, refusal));
    let conf = node.conf("0.4.0");
    let outcome = node.run("ADD", &conf);
    let expected = json!({
        "cniVersion": "0.4.0", "code": 102, "msg": "10.1.0.5 is not on eth0", "details": "look",
    });
    assert!(!outcome.succeeded);
    assert_eq!(outcome.stdout, expected);
}

#[test]
fn request_that_is_too_large_is_named() {
    let annotations: serde_json::Map<String, Value> = (0..100_000)
        .map(|number| (format!("example.com/annotation-{number}"), json!("")))
        .collect();
    // A daemon that would close the connection without reading.
    let node = Node::with(Daemon::Says(b""));
    let mut conf = node.conf("1.0.0");
    conf["runtimeConfig"] = json!({ "io.kubernetes.cri.pod-annotations": annotations });
    node.run("ADD", &conf).fails_with(6, "1048576");
}
