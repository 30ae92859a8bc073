//! Tests of the socket: peers, timeouts, limits and error answers.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    thread,
    time::{Duration, Instant},
};

use sluice_api::{MAX_BODY, Status, code, path};

use crate::{
    client::{connect, exchange, read, send},
    node::Daemon,
};

#[test]
fn socket_is_for_root_and_removed_at_the_end() {
    let mut daemon = Daemon::start("mode");
    let there = fs::metadata(&daemon.socket).unwrap();
    assert!(there.file_type().is_socket());
    assert_eq!(there.permissions().mode() & 0o777, 0o600);
    assert_eq!(daemon.stop(), Some(0));
    // The plugin stores DELs there until the next daemon starts.
    let left: Vec<_> = fs::read_dir(daemon.directory.path().join("run"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["pending-del"]);
}

#[test]
fn second_daemon_is_refused_and_stale_socket_replaced() {
    let mut daemon = Daemon::start("rival");
    let (code, said) = daemon.rival();
    assert_eq!(code, Some(1));
    assert!(said.contains("a daemon already serves"), "{said}");
    assert_eq!(daemon.get("/healthz").status, 200);
    daemon.crash();
    daemon.restart();
    assert_eq!(daemon.get("/healthz").status, 200);
}

#[test]
fn other_users_are_refused_on_an_open_socket() {
    let daemon = Daemon::start("peer");
    fs::set_permissions(&daemon.socket, fs::Permissions::from_mode(0o777)).unwrap();
    let socket = daemon.socket.clone();
    let asked = thread::spawn(move || {
        // The system call changes only this thread; the C library's wrapper changes all threads.
        // SAFETY: the call has three integer arguments.
        let changed = unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) };
        assert_eq!(changed, 0);
        send(&socket, "GET", path::STATUS, "")
    });
    let api_error = asked.join().unwrap().api_error(403);
    assert!(api_error.message.contains("65534"), "{}", api_error.message);
}

#[test]
fn unknown_paths_and_methods_are_rejected() {
    let daemon = Daemon::start("routes");
    assert_eq!(
        daemon.get("/v2/status").api_error(404).code,
        code::DECODE_FAILURE
    );
    let wrong = daemon.get(path::ADD);
    assert_eq!(wrong.api_error(405).code, code::DECODE_FAILURE);
    assert!(wrong.head.contains("allow: POST"), "{}", wrong.head);
}

#[test]
fn malformed_bodies_name_the_position() {
    let daemon = Daemon::start("json");
    for (body, complaint) in [
        ("{", "EOF while parsing"),
        ("{}", "missing field"),
        ("[1]", "invalid type"),
        (
            "{\"network\":\"n\",\"container_id\":\"c\",\"ifname\":\"e\",\"more\":1}",
            "unknown field",
        ),
    ] {
        let reply = send(&daemon.socket, "POST", path::DEL, body);
        let api_error = reply.api_error(400);
        assert_eq!(api_error.code, code::DECODE_FAILURE);
        assert!(
            api_error.message.contains(complaint),
            "{body}: {}",
            api_error.message
        );
    }
}

#[test]
fn a_body_that_is_too_large_is_refused() {
    let daemon = Daemon::start("large");
    let body = " ".repeat(MAX_BODY + 1);
    let reply = send(&daemon.socket, "POST", path::ADD, &body);
    assert_eq!(reply.api_error(413).code, code::DECODE_FAILURE);

    let fits = format!("{}{{}}", " ".repeat(MAX_BODY - 2));
    assert_eq!(send(&daemon.socket, "POST", path::ADD, &fits).status, 400);
}

#[test]
fn slow_requests_time_out() {
    let daemon = Daemon::start("slow");
    let begin = Instant::now();
    let silent = connect(&daemon.socket);
    let mut half_a_header = connect(&daemon.socket);
    half_a_header
        .write_all(b"POST /v1/add HTTP/1.1\r\nHost")
        .unwrap();
    let mut half_a_body = connect(&daemon.socket);
    let head = b"POST /v1/del HTTP/1.1\r\nHost: node\r\nContent-Length: 100\r\n\r\n{";
    half_a_body.write_all(head).unwrap();

    assert_eq!(daemon.get("/healthz").status, 200);
    assert_eq!(read(half_a_body).api_error(408).code, code::IO_FAILURE);
    assert!(matches!(read(half_a_header).status, 0 | 408));
    assert!(matches!(read(silent).status, 0 | 408));
    let took = begin.elapsed();
    assert!((4..12).contains(&took.as_secs()), "{took:?}");
}

#[test]
fn malformed_http_does_not_disturb_the_daemon() {
    let daemon = Daemon::start("garbage");
    for bytes in [
        "\0\0\0\0\r\n\r\n",
        "GET\r\n\r\n",
        "POST /v1/add HTTP/9.9\r\n\r\n",
    ] {
        assert_eq!(exchange(connect(&daemon.socket), bytes).status, 400);
    }
    assert_eq!(daemon.get("/healthz").status, 200);
}

#[test]
fn excess_connections_wait() {
    let daemon = Daemon::start("many");
    let held: Vec<_> = (0..64).map(|_| connect(&daemon.socket)).collect();
    let waiting = connect(&daemon.socket);
    drop(held);
    let reply = exchange(waiting, "GET /healthz HTTP/1.1\r\nHost: node\r\n\r\n");
    assert_eq!(reply.status, 200);
}

#[test]
fn daemon_answers_pending_requests_before_it_stops() {
    let mut daemon = Daemon::start("drain");
    let mut late = connect(&daemon.socket);
    let body = "{\"network\":\"n\",\"container_id\":\"c\",\"ifname\":\"e\"}";
    let head = "POST /v1/del HTTP/1.1\r\nHost: node\r\nContent-Length: ";
    write!(late, "{head}{}\r\n\r\n", body.len()).unwrap();
    // The daemon must have read the header before it is stopped.
    assert_eq!(daemon.get("/healthz").status, 200);
    daemon.terminate();
    thread::sleep(Duration::from_millis(200));
    assert_eq!(exchange(late, body).status, 200);
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn status_and_metrics_report_the_daemon() {
    let daemon = Daemon::start("status");
    let status: Status = daemon.get(path::STATUS).ok();
    assert!(status.ready && !status.programs.is_empty());
    assert_eq!((status.meshed_pods, status.unmeshed_pods), (0, 0));
    assert_eq!((&*status.mesh, &*status.acceleration), ("istio", "proxies"));
    assert!(!status.kernel.is_empty() && !status.features.is_empty());
    let page = daemon.ask(&["status"]);
    for line in ["ready, version", "0 meshed, 0 not intercepted", "connect4"] {
        assert!(page.contains(line), "{line} is not in\n{page}");
    }
    assert_eq!(daemon.ask(&["pods", "--json"]).trim(), "[]");

    daemon.get("/nowhere/in/particular");
    let metrics = daemon.get(path::METRICS).body;
    for line in [
        "sluice_decisions_total{reason=\"outbound_to_proxy\"} 0",
        "sluice_attachments{meshed=\"true\"} 0",
        "sluice_pending_pods 0",
        "sluice_repairs_total{type=\"hooks\"} 0",
        "sluice_api_requests_total{path=\"other\",code=\"404\"} 1",
        "sluice_api_errors_total{path=\"other\",code=\"6\"} 1",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}
