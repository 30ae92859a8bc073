//! Attempts on the daemon: its process, its socket, its files, its requests.

use std::{
    fs,
    io::Write as _,
    os::unix::{fs::symlink, net::UnixStream},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use sluice_lab::{Lab, pod_annotations::PodAnnotations};
use sluice_testbed::{agent::ExecContext, http, interrupt::Interrupt, process::finish};

use crate::{
    attack::{
        Saw, goal, neighbours, pod,
        request::{ANSWER, exchange, report, socket},
        swap,
    },
    suite::fixture::Fixture,
};

const LIMIT: Duration = Duration::from_secs(10);
/// A user of the node without processes in the lab.
const LOCAL_USER: u32 = 65_534;
/// The capabilities of root in a container of containerd and CRI-O.
const DEFAULT: &str = "-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,\
                       +net_bind_service,+net_raw,+sys_chroot,+mknod,+audit_write,+setfcap";

/// The attempt.
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
    /// A Pod that connects to so many destinations. The goal is that the next Pod is refused, or that
    /// its connections fail.
    Destinations(u32),
    /// The plugin's process: success of the script is the attacker's.
    Plugin(&'static str),
    /// A path that leads to a Pod's namespace and to the host's in turn. The goal is the host's
    /// namespace in the list of Pods.
    SwappedNetns(usize),
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
            Self::Ports(count) => neighbours::fill_list(stage, *count, interrupt),
            Self::Destinations(count) => neighbours::fill_aliases(stage, *count, interrupt),
            Self::Plugin(script) => attack_plugin(&stage.lab, script),
            Self::SwappedNetns(count) => swap::swap_netns(&stage.lab, *count),
        }
    }
}

fn daemon(lab: &Lab) -> Result<i32> {
    let stream = UnixStream::connect(socket(lab))?;
    Ok(getsockopt(&stream, PeerCredentials)?.pid())
}

fn run_script(lab: &Lab, script: &str, capabilities: Option<&str>) -> Result<Saw> {
    attack_process(lab, script, capabilities, daemon(lab)?)
}

/// A plugin that waits for its standard input, as between its start and the runtime's request.
fn attack_plugin(lab: &Lab, script: &str) -> Result<Saw> {
    let plugin = std::env::var_os("SLUICE_CNI").context("SLUICE_CNI is not set")?;
    let mut process = Command::new(plugin)
        .env("CNI_COMMAND", "ADD")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let saw = i32::try_from(process.id())
        .map_err(anyhow::Error::from)
        .and_then(|pid| attack_process(lab, script, Some(DEFAULT), pid));
    process.kill()?;
    process.wait()?;
    saw
}

fn attack_process(lab: &Lab, script: &str, capabilities: Option<&str>, target: i32) -> Result<Saw> {
    let pid = daemon(lab)?;
    let arguments = fs::read_to_string(format!("/proc/{pid}/cmdline"))?;
    let mut words = arguments.split('\0');
    let pins = words.by_ref().skip_while(|word| *word != "--bpffs").nth(1);
    let place = ExecContext {
        user: capabilities.is_none().then_some(LOCAL_USER),
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
        .env("PID", target.to_string())
        .env("SOCK", socket(lab))
        .env("STATE", lab.file("sluiced-pods"))
        .env("NODE", lab.node().path())
        .env("PINS", pins.unwrap_or_default());
    let answer = finish(&mut command, "", LIMIT)?;
    let said = String::from_utf8_lossy(&answer.stderr);
    Ok(pod::ended(answer.status, said.trim()))
}

/// Whether the daemon takes a Pod whose namespace is none, and answers afterwards.
fn report_netns(lab: &Lab, path: &str) -> Result<Saw> {
    let (file, fifo) = (lab.file("a-file"), lab.file("a-fifo"));
    let ring = lab.file("a-loop");
    fs::write(&file, "")?;
    if fs::symlink_metadata(&ring).is_err() {
        symlink(&ring, &ring)?;
    }
    if !fifo.exists() {
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU)?;
    }
    let netns = path
        .replace("{loop}", &ring.to_string_lossy())
        .replace("{file}", &file.to_string_lossy())
        .replace("{fifo}", &fifo.to_string_lossy());
    let begin = Instant::now();
    let head = exchange(lab, "/v1/add", &report(lab, &netns))?;
    let alive = http::get(&socket(lab), "/v1/status").is_ok();
    let late = begin.elapsed() > ANSWER;
    ensure!(
        !head.contains("unknown field"),
        "the request is malformed: {head}"
    );
    Ok(goal(head.contains(" 200 ") || late || !alive, head))
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
