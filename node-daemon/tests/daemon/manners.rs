//! Tests of the command line: exit codes, messages, signals, log formats.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Output},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use sluice_api::{AddResponse, code, path};

use crate::{node::Daemon, pods::add};

fn sluiced(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sluiced"))
        .args(arguments)
        .output()
        .expect("it runs")
}

/// The exit code and the error of a command.
fn outcome(output: &Output) -> (Option<i32>, String) {
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), error)
}

fn send(daemon: &Daemon, signal: Signal) {
    let pid = i32::try_from(daemon.pid()).unwrap();
    kill(Pid::from_raw(pid), signal).unwrap();
}

#[test]
fn wrong_log_filter_is_a_usage_error() {
    for (arguments, part) in [
        (&["run", "--log", "inof"][..], "'inof' is neither a level"),
        (
            &["run", "--log", "json"],
            "off, error, warn, info, debug, trace",
        ),
        (&["run", "--log-format", "xml"], "text, json"),
        (&["run", "--metrics-address", "15014"], "IP:PORT or :PORT"),
        (&["status", "--timeout", "0"], "--timeout"),
    ] {
        let (code, error) = outcome(&sluiced(arguments));
        assert_eq!(code, Some(2), "{error}");
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn missing_daemon_exits_with_3() {
    for command in ["status", "pods"] {
        let output = sluiced(&[command, "--socket", "/nowhere/sluiced.sock"]);
        let (code, error) = outcome(&output);
        assert_eq!(code, Some(3), "{error}");
        assert!(
            error.contains("no daemon serves /nowhere/sluiced.sock: start it"),
            "{error}"
        );
    }
}

#[test]
fn error_for_other_users_names_root() {
    let daemon = Daemon::start("denied");
    let binary = daemon.directory.path().join("sluiced");
    fs::copy(env!("CARGO_BIN_EXE_sluiced"), &binary).unwrap();
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).unwrap();
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&binary)
        .args(["status", "--socket"])
        .arg(&daemon.socket)
        .output()
        .unwrap();
    let (code, error) = outcome(&output);
    assert_eq!(code, Some(3), "{error}");
    assert!(
        error.contains("user 65534") && error.contains("as root"),
        "{error}"
    );
}

#[test]
fn hung_daemon_exits_with_3_after_the_timeout() {
    let daemon = Daemon::start("hung");
    send(&daemon, Signal::SIGSTOP);
    let socket = daemon.socket.to_str().unwrap();
    let begin = Instant::now();
    let outcomes = [&["status"][..], &["status", "--live"], &["pods"]].map(|command| {
        let arguments = [command, &["--timeout", "1", "--socket", socket]].concat();
        outcome(&sluiced(&arguments))
    });
    let took = begin.elapsed();
    send(&daemon, Signal::SIGCONT);
    for (code, error) in outcomes {
        assert_eq!(code, Some(3), "{error}");
        assert!(error.contains("did not answer within 1 s"), "{error}");
    }
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert_eq!(daemon.ask(&["status", "--live"]), "alive\n");
}

#[test]
fn status_of_a_daemon_that_is_not_ready_exits_with_1() {
    let daemon = Daemon::start("unready");
    let socket = daemon.socket.to_str().unwrap();
    assert_eq!(
        sluiced(&["status", "--socket", socket]).status.code(),
        Some(0)
    );
    // Records cannot be written to a directory that is gone.
    let state = daemon.directory.path().join("pods");
    fs::rename(&state, daemon.directory.path().join("away")).unwrap();
    let output = sluiced(&["status", "--socket", socket]);
    assert_eq!(output.status.code(), Some(1));
    let page = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(page.contains("not ready"), "{page}");
    assert_eq!(
        sluiced(&["status", "--json", "--socket", socket])
            .status
            .code(),
        Some(1)
    );
    assert_eq!(
        sluiced(&["status", "--live", "--socket", socket])
            .status
            .code(),
        Some(0)
    );
}

#[test]
fn directory_that_is_no_cgroup_is_named() {
    for command in ["run", "check-kernel"] {
        let (code, error) = outcome(&sluiced(&[command, "--cgroup", "/tmp"]));
        assert_eq!(code, Some(1));
        assert!(
            error.contains("/tmp is not in a cgroup2 file system"),
            "{error}"
        );
    }
}

#[test]
fn signals_reload_or_are_ignored() {
    let mut daemon = Daemon::configured("signals", "log = 'info'\n");
    let log = daemon.log();
    send(&daemon, Signal::SIGUSR1);
    log.await_line(&["signal ignored", "SIGUSR1"]);
    send(&daemon, Signal::SIGUSR2);
    log.await_line(&["signal ignored", "SIGUSR2"]);

    let file = daemon.directory.path().join("sluiced.toml");
    let mut unknown = add("a", "/nowhere", &[]);
    unknown.annotations = None;
    daemon.post(path::ADD, &unknown).api_error(503);
    fs::write(
        &file,
        "log = 'debug'\nmissing-annotations = 'bypass'\nmesh = 'kuma'\n",
    )
    .unwrap();
    send(&daemon, Signal::SIGHUP);
    log.await_line(&["configuration reloaded", "log, missing-annotations"]);
    log.await_line(&["need a restart", "mesh"]);
    assert!(!daemon.post(path::ADD, &unknown).ok::<AddResponse>().meshed);

    fs::write(&file, "log = 'loud'\n").unwrap();
    send(&daemon, Signal::SIGHUP);
    log.await_line(&["configuration not reloaded", "'loud' is neither a level"]);
    assert_eq!(daemon.get("/healthz").status, 200);
}

#[test]
fn log_lines_are_json_objects() {
    let mut daemon = Daemon::with_arguments("json-log", "", &["--log-format", "json"]);
    let mut request = add("a", "/nowhere", &[]);
    request.pod.name = "a\u{202e}b".into();
    daemon.post(path::ADD, &request).api_error(422);
    let written = daemon.final_log();
    let lines: Vec<serde_json::Value> = written
        .lines()
        .map(|line| serde_json::from_str(line).expect(line))
        .collect();
    let refused = lines
        .iter()
        .find(|line| line["message"] == "pod refused")
        .unwrap();
    assert_eq!(refused["pod"], "shop/a\\u{202e}b");
    assert_eq!(refused["code"], code::NETNS_REFUSED);
    assert_eq!(
        (&refused["level"], &refused["reason"]),
        (&"WARN".into(), &"netns".into())
    );
}

#[test]
fn completions_and_pages_are_generated() {
    let output = sluiced(&["completions", "bash"]);
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains("complete -F _sluiced"));
    let directory = tempfile::tempdir().unwrap();
    let pages = directory.path().to_str().unwrap();
    assert!(sluiced(&["man", pages]).status.success());
    assert!(Path::new(pages).join("sluiced-run.1").exists());
}

/// A pipe holds 64 KiB. Each of these lines has more than 1 KiB.
#[test]
fn daemon_serves_while_its_log_is_not_read() {
    let mut daemon = Daemon::start("stalled-log");
    for index in 0..100 {
        let name = format!("{index}-{}", "x".repeat(2000));
        let request = add(&index.to_string(), &name, &["10.1.0.1"]);
        assert_ne!(daemon.post(path::ADD, &request).status, 200);
    }
    let page = daemon.get("/metrics").body;
    let dropped = page
        .lines()
        .find_map(|line| line.strip_prefix("sluice_dropped_log_lines_total "));
    let dropped: u64 = dropped.expect("the metric").parse().expect("a number");
    assert!((10..100).contains(&dropped), "{dropped}");
    assert_eq!(daemon.stop(), Some(0));
}

/// As `sluiced status | head -1`.
#[test]
fn command_ends_silently_when_its_reader_ends() {
    let daemon = Daemon::start("broken-pipe");
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = Command::new(env!("CARGO_BIN_EXE_sluiced"))
        .args(["status", "--socket"])
        .arg(&daemon.socket)
        .stdout(writer)
        .output()
        .expect("it runs");
    assert_eq!(outcome(&output), (Some(0), String::new()));
}
