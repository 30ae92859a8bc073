//! `sluiced bug-report`: one archive with everything that explains a node's state, and no secret.
//!
//! Left out: environments, tokens, kubeconfigs, annotations of Pods other than those in the settings, and
//! contents of connections. Every part is bounded; one that cannot be collected says why.

use std::{
    fs::{self, File},
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use flate2::{Compression, write::GzEncoder};
use hyper::Method;
use sluice_abi::ABI_VERSION;
use sluice_api::{AuditRequest, ConnectionsRequest, ProgramsRequest, path};

use crate::{
    bpf, client,
    config::{BugReportArgs, DoctorArgs},
    doctor,
};

/// The limit of a part in bytes.
const PART: usize = 4 << 20;
/// The limit of a log file in bytes, from its end, and of log files.
const LOG: u64 = 1 << 20;
const LOGS: usize = 16;
/// The limit of entries of a map.
const ENTRIES: usize = 1000;
/// Timeout for each answer of the daemon.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Files of the host that describe it.
const FILES: [&str; 5] = [
    "/proc/version",
    "/proc/meminfo",
    "/proc/loadavg",
    "/proc/sys/net/ipv4/ip_local_port_range",
    "/etc/os-release",
];
/// The directory of container logs (`/var/log/pods/NAMESPACE_POD_UID/CONTAINER/N.log`).
const POD_LOGS: &str = "/var/log/pods";

/// The archive in progress.
struct Archive {
    tar: tar::Builder<GzEncoder<File>>,
    time: u64,
}

/// Writes the archive, and prints its path.
pub(crate) fn run(args: &BugReportArgs) -> anyhow::Result<()> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let path = args
        .output
        .clone()
        .unwrap_or_else(|| format!("sluice-bug-report-{}.tar.gz", now.as_secs()).into());
    let file =
        File::create_new(&path).with_context(|| format!("cannot create {}", path.display()))?;
    let mut archive = Archive {
        tar: tar::Builder::new(GzEncoder::new(file, Compression::default())),
        time: now.as_secs(),
    };
    archive.doctor(&args.doctor)?;
    archive.daemon(&args.doctor.client.socket)?;
    archive.configuration(&args.doctor)?;
    archive.maps(&args.doctor.paths.bpffs)?;
    archive.host()?;
    archive.logs()?;
    archive.tar.into_inner()?.finish()?.sync_all()?;
    client::print(path.display().to_string().as_bytes())
}

impl Archive {
    /// Adds a part, or the reason why it is missing.
    fn add(&mut self, name: &str, content: anyhow::Result<Vec<u8>>) -> anyhow::Result<()> {
        let mut content = content.unwrap_or_else(|error| format!("missing: {error:#}\n").into());
        content.truncate(PART);
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(self.time);
        let path = Path::new("sluice-bug-report").join(name);
        Ok(self.tar.append_data(&mut header, path, &*content)?)
    }

    fn doctor(&mut self, args: &DoctorArgs) -> anyhow::Result<()> {
        let checks = doctor::checks(args);
        self.add("doctor.txt", Ok(doctor::page(&checks).into()))?;
        self.add(
            "doctor.json",
            serde_json::to_vec(&checks).map_err(Into::into),
        )
    }

    fn daemon(&mut self, socket: &Path) -> anyhow::Result<()> {
        for (name, path) in [
            ("status.json", path::STATUS),
            ("pods.json", path::PODS),
            ("metrics.txt", path::METRICS),
        ] {
            let answer = client::call(socket, Method::GET, path, Vec::new(), TIMEOUT);
            self.add(name, answer.map(Into::into))?;
        }
        let audit = serde_json::to_vec(&AuditRequest::default())?;
        let connections = serde_json::to_vec(&ConnectionsRequest::default())?;
        let programs = serde_json::to_vec(&ProgramsRequest { seconds: 2 })?;
        for (name, path, body) in [
            ("audit.json", path::AUDIT, audit),
            ("connections.json", path::CONNECTIONS, connections),
            ("programs.json", path::PROGRAMS, programs),
        ] {
            let answer = client::call(socket, Method::POST, path, body, TIMEOUT);
            self.add(name, answer.map(Into::into))?;
        }
        Ok(())
    }

    /// The daemon's configuration: its keys hold paths and names, and no secret.
    fn configuration(&mut self, args: &DoctorArgs) -> anyhow::Result<()> {
        let named = args.config.clone();
        let path = named.unwrap_or_else(|| PathBuf::from(crate::config::DEFAULT));
        self.add("sluiced.toml", read(&path))?;
        let versions = format!("sluiced {} ABI {ABI_VERSION}\n", env!("CARGO_PKG_VERSION"));
        self.add("version.txt", Ok(versions.into()))
    }

    fn maps(&mut self, bpffs: &Path) -> anyhow::Result<()> {
        self.add("pins.txt", Ok(pins(bpffs).join("\n").into()))?;
        let maps = bpffs.join(format!("v{ABI_VERSION}/maps"));
        for (name, lines) in bpf::dump(&maps, ENTRIES) {
            let text = lines.map(|lines| lines.join("\n").into_bytes());
            self.add(&format!("maps/{name}.txt"), text.map_err(Into::into))?;
        }
        for (name, arguments) in [
            ("bpf/programs.txt", ["prog", "show"]),
            ("bpf/links.txt", ["link", "show"]),
            ("bpf/cgroups.txt", ["cgroup", "tree"]),
        ] {
            self.add(name, output("bpftool", &arguments))?;
        }
        Ok(())
    }

    fn host(&mut self) -> anyhow::Result<()> {
        for path in FILES {
            let name = format!("host{}", path.replace('/', "-"));
            self.add(&name, read(Path::new(path)))?;
        }
        let mounts = read(Path::new("/proc/self/mountinfo")).map(|table| {
            let text = String::from_utf8_lossy(&table).into_owned();
            let ours = |line: &&str| {
                [" - bpf ", " - cgroup", " nsfs "]
                    .iter()
                    .any(|one| line.contains(one))
            };
            text.lines()
                .filter(ours)
                .collect::<Vec<_>>()
                .join("\n")
                .into_bytes()
        });
        self.add("host-mounts", mounts)?;
        self.add("sluice-install.txt", output("sluice-install", &["status"]))
    }

    /// The daemon's and the installer's logs, from the end.
    fn logs(&mut self) -> anyhow::Result<()> {
        let mut found = Vec::new();
        for pod in fs::read_dir(POD_LOGS).into_iter().flatten().flatten() {
            if !pod.file_name().to_string_lossy().contains("_sluice") {
                continue;
            }
            for container in fs::read_dir(pod.path()).into_iter().flatten().flatten() {
                let files = fs::read_dir(container.path())
                    .into_iter()
                    .flatten()
                    .flatten();
                found.extend(files.map(|file| (container.file_name(), file.path())));
            }
        }
        for (index, (container, file)) in found.iter().take(LOGS).enumerate() {
            let name = format!("logs/{}-{index}.log", container.to_string_lossy());
            self.add(&name, tail(file))?;
        }
        let journal = ["--unit", "sluiced", "--lines", "5000", "--no-pager"];
        self.add("logs/journal.log", output("journalctl", &journal))
    }
}

/// The paths below a directory, at most [`ENTRIES`].
fn pins(directory: &Path) -> Vec<String> {
    let mut waiting = vec![directory.to_owned()];
    let mut found = Vec::new();
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            if found.len() == ENTRIES {
                return found;
            }
            found.push(entry.path().display().to_string());
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                waiting.push(entry.path());
            }
        }
    }
    found
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    let mut content = Vec::new();
    file.take(PART as u64).read_to_end(&mut content)?;
    Ok(content)
}

fn tail(path: &Path) -> anyhow::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG)))?;
    let mut content = Vec::new();
    file.take(LOG).read_to_end(&mut content)?;
    Ok(content)
}

/// The output of a program, which inherits no environment but the path.
fn output(program: &str, arguments: &[&str]) -> anyhow::Result<Vec<u8>> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let output = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("PATH", path)
        .output()
        .with_context(|| program.to_owned())?;
    let mut text = output.stdout;
    text.write_all(&output.stderr)?;
    Ok(text)
}
