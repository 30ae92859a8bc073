//! What an attacker does to the daemon: its process, its socket, its files, its requests.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use serde_json::json;
use sluice_lab::{
    Lab,
    pod_annotations::{self, PodAnnotations},
};
use sluice_testbed::{agent::ExecContext, http, interrupt::Interrupt, process::finish};

use crate::{
    attack::{Outcome, Saw},
    suite::fixture::Fixture,
};

const LIMIT: Duration = Duration::from_secs(10);
const ANSWER: Duration = Duration::from_secs(6);
/// A user of the node who has no part in the lab.
const NOBODY: u32 = 65_534;
/// What containerd and CRI-O give root in a container.
const DEFAULT: &str = "-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,\
                       +net_bind_service,+net_raw,+sys_chroot,+mknod,+audit_write,+setfcap";

/// What is done.
#[derive(Clone, Copy)]
pub(crate) enum Deed {
    /// A shell script of a local user; success is the attacker's.
    User(&'static str),
    /// The same of a container's root who sees the host's `/proc`.
    Container(&'static str),
    /// A request that reports a Pod at this path; `{file}` is a regular file, `{fifo}` a FIFO.
    Netns(&'static str),
    /// This many connections to the socket that send these bytes and wait. The goal is a daemon
    /// that answers no one else.
    Connections(usize, &'static str),
    /// A request line or body of so many bytes.
    Oversized { line: usize, body: usize },
    /// A Pod with this annotation. The goal is text of the attacker in the log, raw.
    Text(&'static str, &'static str),
    /// A Pod with so many ports in its list. The goal is that the next Pod is refused.
    Ports(usize),
}

impl Deed {
    /// Does it; the lab's subject is Sluice.
    pub(crate) fn attempt(&self, stage: &mut Fixture, interrupt: &Interrupt) -> Result<Saw> {
        match self {
            Self::User(script) => run_script(&stage.lab, script, None),
            Self::Container(script) => run_script(&stage.lab, script, Some(DEFAULT)),
            Self::Netns(path) => report_netns(&stage.lab, path),
            Self::Connections(count, bytes) => Ok(occupy(&stage.lab, *count, bytes)),
            Self::Oversized { line, body } => oversize(&stage.lab, *line, *body),
            Self::Text(key, value) => forge(stage, key, value, interrupt),
            Self::Ports(count) => fill(stage, *count, interrupt),
        }
    }
}

fn socket(lab: &Lab) -> std::path::PathBuf {
    lab.file("sluiced.sock")
}

fn daemon(lab: &Lab) -> Result<i32> {
    let stream = UnixStream::connect(socket(lab))?;
    Ok(getsockopt(&stream, PeerCredentials)?.pid())
}

fn goal(reached: bool, detail: impl Into<String>) -> Saw {
    let outcome = if reached {
        Outcome::Passed
    } else {
        Outcome::Stopped
    };
    Saw {
        outcome,
        detail: detail.into(),
    }
}

fn run_script(lab: &Lab, script: &str, capabilities: Option<&str>) -> Result<Saw> {
    let pid = daemon(lab)?;
    let arguments = fs::read_to_string(format!("/proc/{pid}/cmdline"))?;
    let mut words = arguments.split('\0');
    let pins = words.by_ref().skip_while(|word| *word != "--bpffs").nth(1);
    let place = ExecContext {
        user: capabilities.is_none().then_some(NOBODY),
        ..ExecContext::default()
    };
    let mut command = match capabilities {
        Some(set) => {
            let mut command = place.command(Path::new("setpriv"))?;
            command.args(["--bounding-set", set, "--inh-caps", "-all", "sh"]);
            command
        }
        None => place.command(Path::new("/bin/sh"))?,
    };
    command
        .args(["-c", script])
        .env("PID", pid.to_string())
        .env("SOCK", socket(lab))
        .env("STATE", lab.file("sluiced-pods"))
        .env("NODE", lab.node().path())
        .env("PINS", pins.unwrap_or_default());
    let answer = finish(&mut command, "", LIMIT)?;
    let said = String::from_utf8_lossy(&answer.stderr);
    Ok(goal(answer.status.success(), said.trim()))
}

/// Whether the daemon takes a Pod whose namespace is none, and answers afterwards.
fn report_netns(lab: &Lab, path: &str) -> Result<Saw> {
    let (file, fifo) = (lab.file("a-file"), lab.file("a-fifo"));
    fs::write(&file, "")?;
    if !fifo.exists() {
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU)?;
    }
    let netns = path
        .replace("{file}", &file.to_string_lossy())
        .replace("{fifo}", &fifo.to_string_lossy());
    let body = json!({
        "attachment": { "network": lab.name, "container_id": "attacker", "ifname": "eth0" },
        "netns": netns,
        "addresses": [{ "ip": "10.77.250.250", "interface": "eth0" }],
        "annotations": { "sidecar.istio.io/status": "{}" },
    });
    let begin = Instant::now();
    let head = exchange(lab, "/v1/add", &body.to_string())?;
    let alive = http::get(&socket(lab), "/v1/status").is_ok();
    let late = begin.elapsed() > ANSWER;
    ensure!(
        !head.contains("unknown field"),
        "the request is malformed: {head}"
    );
    Ok(goal(head.contains(" 200 ") || late || !alive, head))
}

fn exchange(lab: &Lab, path: &str, body: &str) -> Result<String> {
    let mut stream = UnixStream::connect(socket(lab))?;
    stream.set_read_timeout(Some(ANSWER))?;
    // A daemon that refuses a body may close before it has all of it.
    let _ = write!(
        stream,
        "POST {path} HTTP/1.1\r\nHost: sluice\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    Ok(answer.replace("\r\n", " "))
}

fn occupy(lab: &Lab, count: usize, bytes: &str) -> Saw {
    let mut held = Vec::new();
    for _ in 0..count {
        let Ok(mut stream) = UnixStream::connect(socket(lab)) else {
            break;
        };
        let _ = stream.write_all(bytes.as_bytes());
        held.push(stream);
    }
    // The daemon serves 64 at a time and ends a silent one after 5 s.
    let end = Instant::now() + Duration::from_secs(25);
    let mut answered = false;
    while !answered && Instant::now() < end {
        answered = http::get(&socket(lab), "/v1/status").is_ok();
    }
    goal(!answered, format!("{} connections held", held.len()))
}

fn oversize(lab: &Lab, line: usize, body: usize) -> Result<Saw> {
    let path = format!("/v1/{}", "a".repeat(line));
    let path = if line == 0 { "/v1/add" } else { &path };
    let head = exchange(lab, path, &" ".repeat(body))?;
    let alive = http::get(&socket(lab), "/v1/status").is_ok();
    Ok(goal(!alive || head.contains(" 200 "), head))
}

/// Nothing of the attacker's may stand in the log or in the plugin's answer as a line or an escape
/// of its own.
fn forge(stage: &mut Fixture, key: &str, value: &str, interrupt: &Interrupt) -> Result<Saw> {
    let log = stage.lab.file("sluiced.log");
    let before = fs::read_to_string(&log)?.len();
    let settings = PodAnnotations::default().with(key, value);
    let said = match stage.admit(settings, interrupt) {
        Ok(test_pod) => {
            test_pod.remove(&stage.lab)?;
            "admitted".to_owned()
        }
        Err(error) => format!("{error:#}"),
    };
    let log = fs::read_to_string(&log)?;
    let logged = log.get(before..).unwrap_or_default();
    let raw =
        |text: &str| text.contains('\u{1b}') || text.lines().any(|line| line.starts_with("FORGED"));
    Ok(goal(raw(logged) || raw(&said), said))
}

/// A Pod may spend its own share, not its neighbours'.
fn fill(stage: &mut Fixture, count: usize, interrupt: &Interrupt) -> Result<Saw> {
    // Every second port: neighbours would become one range.
    let ports: Vec<_> = (0..count).map(|one| (1 + 2 * one).to_string()).collect();
    let ports = ports.join(",");
    let large = PodAnnotations::default().with(pod_annotations::EXCLUDE_OUTBOUND_PORTS, &ports);
    let filler = stage.admit(large, interrupt);
    let next = stage.admit(PodAnnotations::default(), interrupt);
    let refused = next.as_ref().err().map(|error| format!("{error:#}"));
    for test_pod in [filler, next].into_iter().flatten() {
        test_pod.remove(&stage.lab)?;
    }
    Ok(goal(refused.is_some(), refused.unwrap_or_default()))
}
