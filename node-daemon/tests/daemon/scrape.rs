//! Tests of the HTTP port for collectors.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use sluice_api::path;

use crate::node::Daemon;

/// A daemon that serves metrics, and the address.
pub(crate) fn daemon(test: &str, daemon_config: &str) -> (Daemon, SocketAddr) {
    let mut daemon =
        Daemon::with_arguments(test, daemon_config, &["--metrics-address", "127.0.0.1:0"]);
    let log = daemon.log();
    let line = log.await_line(&["metrics served", "address="]);
    let address = line.split("address=").nth(1);
    (daemon, address.unwrap().trim().parse().unwrap())
}

/// The head and the body of a response.
pub(crate) fn ask(address: SocketAddr, method: &str, path: &str, header: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: node\r\n{header}\r\n"
    )
    .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

#[test]
fn port_serves_metrics_and_health_only() {
    let (daemon, address) = daemon("port", "");
    let accept = "Accept: application/openmetrics-text; version=1.0.0\r\n";
    let (head, body) = ask(address, "GET", path::METRICS, accept);
    assert!(
        head.starts_with("HTTP/1.1 200") && head.contains("openmetrics-text"),
        "{head}"
    );
    assert!(body.ends_with("# EOF\n"));
    let (head, body) = ask(address, "GET", path::METRICS, "");
    assert!(head.contains("text/plain; version=0.0.4"), "{head}");
    assert!(
        body.contains("# TYPE sluice_decisions_total counter"),
        "{body}"
    );
    let version = format!(
        "sluice_build_info{{version=\"{}\"",
        env!("CARGO_PKG_VERSION")
    );
    assert!(body.contains(&version), "{body}");
    assert_eq!(ask(address, "GET", "/healthz", "").1, "alive\n");
    assert_eq!(ask(address, "GET", "/readyz", "").1, "ready\n");
    for path in [
        path::STATUS,
        path::PODS,
        path::REFUSED,
        path::ADD,
        path::DEL,
        path::GC,
    ] {
        for method in ["GET", "POST"] {
            let (head, _) = ask(address, method, path, "Content-Length: 0\r\n");
            assert!(head.starts_with("HTTP/1.1 404"), "{method} {path}: {head}");
        }
    }
    assert!(
        ask(address, "POST", path::METRICS, "")
            .0
            .starts_with("HTTP/1.1 405")
    );
    drop(daemon);
}

#[test]
fn daemon_opens_no_port_by_default() {
    let daemon = Daemon::start("no-port");
    let pid = daemon.pid();
    let sockets = std::process::Command::new("ss")
        .args(["--tcp", "--listening", "--processes", "--no-header"])
        .output()
        .unwrap();
    let sockets = String::from_utf8_lossy(&sockets.stdout).into_owned();
    assert!(!sockets.contains(&format!("pid={pid},")), "{sockets}");
}

#[test]
fn add_succeeds_beside_silent_collectors() {
    let (daemon, address) = daemon("flood", "");
    let silent: Vec<_> = (0..200)
        .map(|_| TcpStream::connect(address).unwrap())
        .collect();
    let begin = Instant::now();
    assert_eq!(daemon.get("/readyz").status, 200);
    assert_eq!(ask(address, "GET", "/healthz", "").1, "alive\n");
    assert!(begin.elapsed() < Duration::from_secs(4));
    drop(silent);
}

#[test]
fn taken_address_does_not_stop_the_daemon() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let config = format!("metrics-address = '{address}'\n");
    let mut daemon = Daemon::configured("taken", &config);
    assert_eq!(daemon.get("/readyz").status, 200);
    let log = daemon.final_log();
    assert!(log.contains("metrics not served; retrying"), "{log}");
}

/// Prometheus itself, of Debian's package.
#[test]
fn prometheus_scrapes_the_daemon() {
    let (_daemon, target) = daemon("prometheus", "");
    let directory = tempfile::tempdir().unwrap();
    let own = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let config = format!(
        "global: {{ scrape_interval: 1s }}\nscrape_configs:\n  - job_name: sluice\n    static_configs:\n      \
         - targets: ['{target}']\n"
    );
    let file = directory.path().join("prometheus.yaml");
    std::fs::write(&file, config).unwrap();
    let mut prometheus = std::process::Command::new("prometheus")
        .arg(format!("--config.file={}", file.display()))
        .arg(format!(
            "--storage.tsdb.path={}",
            directory.path().join("data").display()
        ))
        .arg(format!("--web.listen-address={own}"))
        .arg("--log.level=error")
        .spawn()
        .expect("`setup/prometheus.sh` installs it");
    let end = Instant::now() + Duration::from_mins(1);
    let query = "/api/v1/query?query=sluice_build_info%20and%20on(instance)%20up%20==%201";
    let found = loop {
        let answered = TcpStream::connect(own).is_ok();
        let found = answered.then(|| ask(own, "GET", query, "Connection: close\r\n").1);
        match found {
            Some(body) if body.contains("sluice_build_info") => break Some(body),
            _ if Instant::now() > end => break None,
            _ => thread::sleep(Duration::from_millis(200)),
        }
    };
    prometheus.kill().unwrap();
    prometheus.wait().unwrap();
    let found = found.expect("Prometheus has a sample of the daemon");
    assert!(found.contains(&target.to_string()), "{found}");
}
