//! Tests of the limits for one peer or one Pod, and of untrusted text in output.

use std::{
    fs,
    io::Write as _,
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    time::{Duration, Instant},
};

use sluice_api::{AddResponse, PodView, code, path, text::LONGEST};

use crate::{
    client::{connect, exchange, read},
    node::{Daemon, Pod},
    pods::{add, annotated},
};

/// The untrusted text.
const HOSTILE: &str = "a\nERROR forged\u{1b}[2J\u{9b}2J\u{202e}\u{200b}\u{2028}";

/// An ADD of a Pod without a sidecar, which must not be delayed.
fn add_succeeds(daemon: &Daemon, container: &str) {
    let mut request = add(container, "/nowhere", &[]);
    request.annotations = Some(std::collections::BTreeMap::new());
    let begin = Instant::now();
    let added: AddResponse = daemon.post(path::ADD, &request).ok();
    assert!(!added.meshed);
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
}

fn half_a_body(daemon: &Daemon) -> UnixStream {
    let mut stream = connect(&daemon.socket);
    let head = b"POST /v1/add HTTP/1.1\r\nHost: node\r\nContent-Length: 1000000\r\n\r\n{";
    stream.write_all(head).unwrap();
    stream
}

#[test]
fn add_succeeds_beside_silent_connections() {
    let daemon = Daemon::start("silent");
    let _silent: Vec<_> = (0..200).map(|_| connect(&daemon.socket)).collect();
    add_succeeds(&daemon, "a");
    let _half: Vec<_> = (0..200).map(|_| half_a_body(&daemon)).collect();
    add_succeeds(&daemon, "b");
    let drip = |_| {
        let mut stream = connect(&daemon.socket);
        stream.write_all(b"POST /v1/add HTTP/1.1\r\nX:").unwrap();
        stream
    };
    let mut dripping: Vec<_> = (0..200).map(drip).collect();
    for stream in &mut dripping {
        // Writes to evicted connections fail.
        drop(stream.write_all(b"x"));
    }
    add_succeeds(&daemon, "c");
}

#[test]
fn add_succeeds_beside_many_watches() {
    let daemon = Daemon::start("watches");
    let body = r#"{"cursor":0}"#;
    let head = "POST /v1/events HTTP/1.1\r\nHost: node\r\nContent-Length: ";
    let watch = |_| {
        let mut stream = connect(&daemon.socket);
        write!(stream, "{head}{}\r\n\r\n{body}", body.len()).unwrap();
        stream
    };
    let mut watches: Vec<_> = (0..100).map(watch).collect();
    add_succeeds(&daemon, "a");
    let api_error = read(watches.pop().unwrap()).api_error(503);
    assert_eq!(api_error.code, code::TRY_AGAIN_LATER);
    assert!(
        api_error.message.contains("16 watches"),
        "{}",
        api_error.message
    );
}

#[test]
fn connection_serves_one_request() {
    let daemon = Daemon::start("pipeline");
    let one = "GET /healthz HTTP/1.1\r\nHost: node\r\n\r\n";
    let reply = exchange(connect(&daemon.socket), &one.repeat(100));
    assert_eq!((reply.status, &*reply.body), (200, "alive\n"));
    let metrics = daemon.get(path::METRICS).body;
    let counted = "api_requests_total{path=\"/healthz\",code=\"200\"} 1\n";
    assert!(metrics.contains(counted), "{metrics}");
}

#[test]
fn long_headers_are_refused() {
    let daemon = Daemon::start("header");
    let long = format!(
        "GET /healthz HTTP/1.1\r\nX: {}\r\n\r\n",
        "x".repeat(1 << 20)
    );
    assert!(matches!(
        exchange(connect(&daemon.socket), &long).status,
        0 | 431
    ));
    let many = format!("GET /healthz HTTP/1.1\r\n{}\r\n", "X: x\r\n".repeat(1000));
    assert!(matches!(
        exchange(connect(&daemon.socket), &many).status,
        0 | 431
    ));
    assert_eq!(daemon.get("/healthz").status, 200);
}

#[test]
fn list_beyond_the_share_is_refused_at_add() {
    let daemon = Daemon::start("shares");
    let ports = |count: u32| {
        let ports: Vec<_> = (1..=count).map(|port| (2 * port).to_string()).collect();
        ports.join(",")
    };
    let key = "traffic.sidecar.istio.io/excludeOutboundPorts";
    let mut last = Vec::new();
    // Without shares, the lists of these Pods would fill the map.
    for index in 0..20 {
        let address = format!("10.9.{index}.1");
        let pod = Pod::new(&format!("shares{index}"), &[&format!("{address}/24")]);
        let mut request = add(&format!("c{index}"), &pod.path(), &[&address]);
        request.annotations = Some(annotated(&[(key, &ports(16_000))]));
        let api_error = daemon.post(path::ADD, &request).api_error(422);
        assert_eq!(api_error.code, code::POD_REFUSED);
        for part in [key, "16001 entries", "'ports'", "512"] {
            assert!(
                api_error.message.contains(part),
                "{part}: {}",
                api_error.message
            );
        }
        assert!(
            api_error.details.contains("8000-8999"),
            "{}",
            api_error.details
        );
        // A full share, and many neighboring Pods.
        let ports = if index % 2 == 0 {
            ports(500)
        } else {
            "1000-65535".into()
        };
        request.annotations = Some(annotated(&[(key, &ports)]));
        assert!(daemon.post(path::ADD, &request).ok::<AddResponse>().meshed);
        last.push((pod, request));
    }
    for (_, request) in &last {
        assert_eq!(daemon.post(path::CHECK, &request.attachment).status, 204);
    }
}

#[test]
fn addresses_beyond_the_share_are_refused() {
    let daemon = Daemon::start("addresses");
    let pod = Pod::new("addresses", &["10.1.0.1/24"]);
    let many: Vec<_> = (0..33).map(|index| format!("10.1.0.{index}")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    let api_error = daemon.post(path::ADD, &add("a", &pod.path(), &many));
    let api_error = api_error.api_error(422);
    assert_eq!(api_error.code, code::ADDRESS_REFUSED);
    assert!(
        api_error.message.contains("33 addresses"),
        "{}",
        api_error.message
    );
}

#[test]
fn hostile_text_is_one_escaped_line_everywhere() {
    let mut daemon = Daemon::start("text");
    let long = HOSTILE.repeat(1000);
    let mut request = add("a", "/nowhere", &[]);
    request.pod.name.clone_from(&long);
    request.attachment.ifname = HOSTILE.into();
    request.annotations = Some(std::collections::BTreeMap::new());
    daemon.post(path::ADD, &request).ok::<AddResponse>();
    assert_eq!(daemon.get(path::PODS).ok::<Vec<PodView>>().len(), 1);

    request.attachment.container_id = "b".into();
    request.annotations = Some(annotated(&[(
        "traffic.sidecar.istio.io/excludeInboundPorts",
        &long,
    )]));
    let item = daemon.post(path::ADD, &request).api_error(422);
    request.annotations = Some(annotated(&[(
        &format!("traffic.sidecar.istio.io/{HOSTILE}"),
        "x",
    )]));
    let key = daemon.post(path::ADD, &request).api_error(422);
    request.annotations = Some(annotated(&[]));
    request.netns = format!("/{HOSTILE}");
    let netns = daemon.post(path::ADD, &request).api_error(422);
    let unknown = daemon.get(&format!("/{}", "x".repeat(5000))).api_error(404);
    assert!(item.message.contains("is not a port"), "{}", item.message);
    for api_error in [item, key, netns, unknown] {
        is_safe(&api_error.message);
        is_safe(&api_error.details);
    }

    let table = daemon.ask(&["pods"]);
    assert_eq!(table.lines().count(), 2, "{table}");
    table.lines().for_each(is_safe);
    let json = daemon.ask(&["pods", "--json"]);
    assert_eq!(json.lines().count(), 1);
    let again: Vec<PodView> = serde_json::from_str(&json).unwrap();
    assert_eq!(again[0].pod.name, long);
    assert!(
        json.trim_end()
            .chars()
            .all(|one| (' '..='~').contains(&one)),
        "{json}"
    );

    let written = daemon.final_log();
    assert!(written.contains("a\\nERROR forged\\u{1b}[2J"), "{written}");
    for line in written.lines() {
        assert!(!line.starts_with("ERROR"), "{written}");
        // A line has a few fields.
        line.chars()
            .for_each(|one| assert!((' '..='~').contains(&one) || one == '…', "{line:?}"));
        assert!(line.chars().count() < 6 * LONGEST, "{line}");
    }
}

fn is_safe(line: &str) {
    for one in line.chars() {
        assert!((' '..='~').contains(&one) || one == '…', "{line:?}");
    }
    assert!(line.chars().count() <= LONGEST, "{}", line.len());
}

#[test]
fn directories_of_others_stop_the_start() {
    let mut daemon = Daemon::start("owner");
    daemon.crash();
    for (name, part) in [("run", "for the socket"), ("pods", "cannot use")] {
        let directory = daemon.directory.path().join(name);
        let mode = |bits| fs::set_permissions(&directory, fs::Permissions::from_mode(bits));
        mode(0o777).unwrap();
        let (code, said) = daemon.rival();
        mode(0o755).unwrap();
        assert_eq!(code, Some(1));
        assert!(said.contains(part) && said.contains("mode 0777"), "{said}");
    }
    daemon.restart();
}
