//! Checks of the node that need no daemon.

use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use nix::{
    sys::statfs::{BPF_FS_MAGIC, statfs},
    unistd::geteuid,
};
use sluice_abi::ABI_VERSION;

use super::check::Check;
use crate::{
    bpf, cgroup,
    config::{self, Config},
    kernel::{self, Release},
    privileges,
};

/// The share of a limit, in percent, from which memory or a map is nearly used up.
const NEARLY: u64 = 90;
/// The part of the node's memory that should be available: one in 20.
const SCARCE: u64 = 20;

pub(super) fn privileges() -> Check {
    match privileges::missing() {
        Ok(None) if geteuid().is_root() => Check::ok("privileges", "root, with every capability"),
        Ok(Some((capability, reason))) => Check::problem(
            "privileges",
            format!("{capability} is missing: it is needed {reason}"),
            "run this command as root, and in a container add the capability",
        ),
        Ok(None) => Check::problem(
            "privileges",
            "not root",
            "run this command as root: the daemon's socket is root's",
        ),
        Err(error) => Check::problem("privileges", error.to_string(), ""),
    }
}

pub(super) fn kernel() -> Check {
    let release = Release::running();
    if let Err(error) = kernel::require_socket_diagnostics() {
        return Check::problem(
            "kernel",
            format!("Linux {release}: {error}"),
            "the daemon does not start without it",
        );
    }
    if release.is_before(kernel::OLDEST) {
        // A distribution's kernel may have backports.
        return Check::warning(
            "kernel",
            format!("Linux {release} is older than 5.15"),
            "'sluiced check-kernel' finds out whether it has what the programs need",
        );
    }
    Check::ok("kernel", format!("Linux {release}"))
}

pub(super) fn cgroup(named: Option<PathBuf>) -> Check {
    match named.map_or_else(cgroup::find, Ok) {
        Ok(path) if path.join("cgroup.procs").exists() => {
            Check::ok("cgroup", format!("cgroup2 at {}", path.display()))
        }
        Ok(path) => Check::problem(
            "cgroup",
            format!("{} is not a cgroup2 directory", path.display()),
            "name one with --cgroup, or mount the hierarchy: mount -t cgroup2 none /sys/fs/cgroup",
        ),
        Err(error) => Check::problem(
            "cgroup",
            error.to_string(),
            "mount -t cgroup2 none /sys/fs/cgroup",
        ),
    }
}

pub(super) fn bpffs(directory: &Path) -> Check {
    let mut existing = directory.ancestors().filter(|path| path.exists());
    let found = existing.next().and_then(|path| statfs(path).ok());
    if found.is_some_and(|found| found.filesystem_type() == BPF_FS_MAGIC) {
        return Check::ok("bpffs", format!("mounted at {}", directory.display()));
    }
    Check::problem(
        "bpffs",
        format!("{} is not in a BPF file system", directory.display()),
        "mount -t bpf bpf /sys/fs/bpf; without it the data path ends with the daemon",
    )
}

pub(super) fn configuration(config: Result<&Config, &config::Error>) -> Check {
    match config {
        Ok(config) => Check::ok("configuration", format!("mesh {}", config.mesh)),
        Err(error) => {
            let source = std::error::Error::source(error).map(|source| format!(": {source}"));
            Check::problem(
                "configuration",
                format!("{error}{}", source.unwrap_or_default()),
                "correct the file: the daemon does not start with it",
            )
        }
    }
}

/// A clock that runs behind the program's own file makes certificates of the API server invalid.
pub(super) fn clock() -> Check {
    let program = fs::metadata("/proc/self/exe").and_then(|file| file.modified());
    match program {
        Ok(built) if SystemTime::now() < built => Check::warning(
            "clock",
            "the clock is behind the date of the program's file",
            "synchronize the clock (NTP): certificates of the API server look invalid",
        ),
        _ => Check::ok("clock", "plausible"),
    }
}

pub(super) fn node_memory() -> Check {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let (total, available) = (kib(&text, "MemTotal:"), kib(&text, "MemAvailable:"));
    let (Some(total), Some(available)) = (total, available) else {
        return Check::skipped("node memory", "/proc/meminfo is not readable", "");
    };
    let found = format!("{} of {} MiB available", available / 1024, total / 1024);
    if available < total / SCARCE {
        return Check::warning(
            "node memory",
            found,
            "free memory: maps and sockets need kernel memory",
        );
    }
    Check::ok("node memory", found)
}

/// `NAME: 12 kB` in a file of `/proc`.
fn kib(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// The daemon's memory, and the limit of its cgroup.
pub(super) fn daemon_memory(pid: i32) -> Check {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let (Some(now), Some(peak)) = (kib(&status, "VmRSS:"), kib(&status, "VmHWM:")) else {
        return Check::skipped(
            "daemon memory",
            "the daemon's process is not visible here",
            "",
        );
    };
    let limit = memory_limit(pid);
    let text = limit.map_or_else(
        || "no limit".to_owned(),
        |limit| format!("limit {} MiB", limit >> 20),
    );
    let found = format!(
        "{} MiB, at most {} MiB so far, {text}",
        now / 1024,
        peak / 1024
    );
    if limit.is_some_and(|limit| now * 1024 * 100 > limit * NEARLY) {
        return Check::warning(
            "daemon memory",
            found,
            "raise the memory limit of the container 'sluiced' (chart value resources)",
        );
    }
    Check::ok("daemon memory", found)
}

/// The memory limit of a process's cgroup in bytes, with cgroup2 or v1.
fn memory_limit(pid: i32) -> Option<u64> {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let limit = |line: &str| {
        let mut fields = line.splitn(3, ':').skip(1);
        let file = match (fields.next()?, fields.next()?) {
            ("", path) => cgroup::find()
                .ok()?
                .join(path.trim_start_matches('/'))
                .join("memory.max"),
            ("memory", path) => {
                PathBuf::from(format!("/sys/fs/cgroup/memory{path}/memory.limit_in_bytes"))
            }
            _ => return None,
        };
        let limit: u64 = fs::read_to_string(file).ok()?.trim().parse().ok()?;
        // Version 1 has a number near 2^63 for no limit.
        (limit < 1 << 60).then_some(limit)
    };
    groups.lines().find_map(limit)
}

/// The generations of maps that are pinned.
pub(super) fn generations(directory: &Path, running: bool) -> Check {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with('v'))
        .collect();
    found.sort_unstable();
    let (own, names) = (format!("v{ABI_VERSION}"), found.join(", "));
    match (&*found, running) {
        ([], true) => Check::problem(
            "pins",
            format!("the daemon runs, and {} has no maps", directory.display()),
            "name the daemon's directory with --bpffs, or restart the daemon",
        ),
        ([], false) => Check::ok("pins", "none: no Pod is intercepted"),
        ([_, _, ..], _) => Check::problem(
            "pins",
            format!("an upgrade is half done: generations {names} exist"),
            "start the daemon again: it completes the move of the Pods and removes the old generation",
        ),
        ([one], true) if *one != own => Check::warning(
            "pins",
            format!("the daemon uses {one}, and this program knows {own}"),
            "use the program of the daemon's own version",
        ),
        ([one], true) => Check::ok("pins", format!("generation {one}")),
        ([one], false) => Check::warning(
            "pins",
            format!("generation {one} is active without a daemon: Pods stay intercepted"),
            "start the daemon, of this or another version; 'sluiced detach' ends interception",
        ),
    }
}

/// The number of entries of the pinned maps.
pub(super) fn map_fill(directory: &Path) -> Check {
    let maps = directory.join(format!("v{ABI_VERSION}/maps"));
    if !maps.exists() {
        return Check::skipped("map fill", "no maps of this version are pinned", "");
    }
    let fill = match bpf::fill(&maps) {
        Ok(fill) => fill,
        Err(error) => return Check::skipped("map fill", error.to_string(), ""),
    };
    let is_full = |one: &&bpf::Fill| one.used as u64 * 100 >= one.limit as u64 * NEARLY;
    let words = |one: &bpf::Fill| format!("{} {}/{}", one.map, one.used, one.limit);
    let crowded: Vec<_> = fill.iter().filter(is_full).map(words).collect();
    if crowded.is_empty() {
        let used: Vec<_> = fill.iter().filter(|one| one.used > 0).map(words).collect();
        let found = if used.is_empty() {
            "every map is empty".to_owned()
        } else {
            used.join(", ")
        };
        return Check::ok("map fill", found);
    }
    Check::problem(
        "map fill",
        format!("maps are nearly full: {}", crowded.join(", ")),
        "new Pods may be refused: fewer Pods on this node, or shorter lists in their annotations",
    )
}
