//! Tests of the memory of the daemon's cgroup: its own, and what the kernel stores for it.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread::{self, sleep},
    time::Duration,
};

use aya::maps::MapInfo;
use sluice_abi::{ABI_VERSION, maps};
use sluice_api::{AddResponse, path};

use crate::{
    node::{Daemon, Pod},
    pods::add,
};

const MIB: u64 = 1 << 20;
/// The highest use of the cgroup at the start, in MiB, without the kernel's verifier.
const START: u64 = 40;
/// The memory of processes and kernel with [`PODS`] Pods, in MiB.
const STEADY: u64 = 28;
const PODS: usize = 500;

/// A cgroup of the memory controller.
struct MemoryCgroup {
    path: PathBuf,
    is_v1: bool,
}

impl MemoryCgroup {
    /// `limit` is in bytes.
    fn create(test: &str, limit: u64) -> Self {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let mut fields = mounts
            .lines()
            .map(|line| line.split(' ').collect::<Vec<_>>());
        let root = |fields: Vec<&str>| match fields[2] {
            "cgroup" if fields[3].split(',').any(|one| one == "memory") => {
                Some((fields[1].to_owned(), true))
            }
            "cgroup2" => {
                let controllers =
                    fs::read_to_string(format!("{}/cgroup.subtree_control", fields[1]));
                let has_memory =
                    controllers.is_ok_and(|all| all.split_whitespace().any(|one| one == "memory"));
                has_memory.then(|| (fields[1].to_owned(), false))
            }
            _ => None,
        };
        let (root, is_v1) = fields.find_map(root).expect("a memory controller");
        let path = Path::new(&root).join(format!("sluiced-{test}-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        let cgroup = Self { path, is_v1 };
        cgroup.write("memory.limit_in_bytes", "memory.max", &limit.to_string());
        cgroup
    }

    fn write(&self, v1: &str, v2: &str, value: &str) {
        let file = self.path.join(if self.is_v1 { v1 } else { v2 });
        fs::write(file, value).unwrap();
    }

    fn read(&self, v1: &str, v2: &str) -> u64 {
        let file = self.path.join(if self.is_v1 { v1 } else { v2 });
        fs::read_to_string(file).unwrap().trim().parse().unwrap()
    }

    /// The highest use so far, in MiB.
    fn peak(&self) -> u64 {
        self.read("memory.max_usage_in_bytes", "memory.peak") / MIB
    }

    fn usage(&self) -> u64 {
        self.read("memory.usage_in_bytes", "memory.current") / MIB
    }

    /// The memory of processes and of the kernel, in bytes. The page cache is left out: the kernel reclaims it.
    fn sample(&self) -> (u64, u64) {
        let text = fs::read_to_string(self.path.join("memory.stat")).unwrap();
        let value = |v1: &str, v2: &str| -> u64 {
            let name = if self.is_v1 { v1 } else { v2 };
            let mut lines = text.lines().filter_map(|line| line.split_once(' '));
            let found = lines.find(|(key, _)| *key == name);
            found.map_or(0, |(_, value)| value.parse().unwrap())
        };
        let (processes, files) = (value("rss", "anon"), value("cache", "file"));
        let usage = self.read("memory.usage_in_bytes", "memory.current");
        (processes, usage.saturating_sub(processes + files))
    }

    /// The samples while something runs.
    fn samples_during<T>(&self, run: impl FnOnce() -> T) -> (Vec<(u64, u64)>, T) {
        let ended = AtomicBool::new(false);
        thread::scope(|scope| {
            let sampler = scope.spawn(|| {
                let mut samples = Vec::new();
                while !ended.load(Ordering::Relaxed) {
                    samples.push(self.sample());
                    sleep(Duration::from_millis(1));
                }
                samples
            });
            let done = run();
            ended.store(true, Ordering::Relaxed);
            (sampler.join().unwrap(), done)
        })
    }

    /// A program that executes another one in this cgroup.
    fn launcher(&self) -> String {
        format!(
            "echo 0 >'{}/cgroup.procs'; exec \"$@\"",
            self.path.display()
        )
    }
}

impl Drop for MemoryCgroup {
    fn drop(&mut self) {
        drop(fs::remove_dir(&self.path));
    }
}

/// The memory of the chart's daemon, in MiB: requested, and at most.
fn of_chart() -> (u64, u64) {
    let values =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../install/manifests/chart/values.yaml");
    let values = fs::read_to_string(values).unwrap();
    let (_, resources) = values.split_once("\n  sluiced:\n").unwrap();
    let memory = resources.split("memory: ").skip(1).take(2);
    let mib = |text: &str| text.split_once("Mi").unwrap().0.parse().unwrap();
    let found: Vec<u64> = memory.map(mib).collect();
    (found[0], found[1])
}

fn add_pods(daemon: &Daemon, test: &str, count: usize) -> Vec<Pod> {
    let added = |index: usize| {
        let address = format!("10.{}.0.{}", 1 + index / 250, 1 + index % 250);
        let pod = Pod::new(&format!("{test}-{index}"), &[&format!("{address}/24")]);
        let request = add(&index.to_string(), &pod.path(), &[&address]);
        assert!(daemon.post(path::ADD, &request).ok::<AddResponse>().meshed);
        pod
    };
    (0..count).map(added).collect()
}

#[test]
fn daemon_runs_within_the_charts_request() {
    let (request, limit) = of_chart();
    assert!(request <= limit);
    let memory = MemoryCgroup::create("memory", request * MIB);
    let launcher = memory.launcher();
    let launcher = ["sh", "-c", &launcher, "sh"];
    let start = || Daemon::launched(&launcher, "memory", "");
    let (samples, mut daemon) = memory.samples_during(start);
    // What the kernel has released since then was the verifier's.
    let (_, kept) = memory.sample();
    let without_verifier = |(processes, kernel): &(u64, u64)| processes + kernel.min(&kept);
    let start = samples.iter().map(without_verifier).max().unwrap() / MIB;
    let peak = memory.peak();
    let pods = add_pods(&daemon, "memory", 20);
    eprintln!(
        "peak {peak} MiB, {start} MiB without the verifier, now {} MiB with {} Pods",
        memory.usage(),
        pods.len()
    );
    assert!(start <= START, "{start} MiB");
    assert_eq!(daemon.get("/readyz").status, 200);
    assert_eq!(daemon.stop(), Some(0), "not killed for lack of memory");
    drop(daemon);
}

/// The figures in docs/operations.md come from a release build.
#[test]
#[ignore = "makes 500 network namespaces"]
fn daemon_with_500_pods_stays_small() {
    let (request, _) = of_chart();
    let memory = MemoryCgroup::create("memory-500", request * MIB);
    let launcher = memory.launcher();
    let launcher = ["sh", "-c", &launcher, "sh"];
    let mut daemon = Daemon::launched(&launcher, "memory-500", "");
    // The lines about so many Pods are more than a pipe holds.
    let _lines = daemon.log();
    let at_start = memory.sample();
    let pods = add_pods(&daemon, "memory-500", PODS);
    let with_pods = memory.sample();
    eprintln!(
        "bytes of processes and kernel: {at_start:?} at start, {with_pods:?} with {PODS} Pods"
    );
    let usage = (with_pods.0 + with_pods.1) / MIB;
    assert!(usage < STEADY, "{usage} MiB");
    assert_eq!(daemon.stop(), Some(0), "not killed for lack of memory");
    drop((daemon, pods));
}

#[test]
fn maps_of_acceleration_are_small_until_it_is_switched_on() {
    let mut daemon = Daemon::configured("accel-maps", "acceleration = 'off'\n");
    let pod = Pod::new("accel-maps", &["10.1.0.1/24"]);
    let request = add("a", &pod.path(), &["10.1.0.1"]);
    assert!(daemon.post(path::ADD, &request).ok::<AddResponse>().meshed);
    let pins = daemon.pins().join(format!("v{ABI_VERSION}/maps"));
    let entries = |name: &str| MapInfo::from_pin(pins.join(name)).unwrap().max_entries();
    assert_eq!(entries(maps::ACCEL_FLOWS), 1);
    assert_eq!(entries(maps::NODE_CONNS), 1, "ambient mode alone uses it");
    let file = daemon.directory.path().join("sluiced.toml");
    for (mode, wanted) in [
        ("all", maps::MAX_ACCEL_FLOWS),
        ("off", maps::MAX_ACCEL_FLOWS),
    ] {
        fs::write(&file, format!("acceleration = '{mode}'\n")).unwrap();
        daemon.crash();
        daemon.restart();
        assert_eq!(entries(maps::ACCEL_FLOWS) as usize, wanted, "{mode}");
        assert_eq!(daemon.post(path::CHECK, &request.attachment).status, 204);
    }
}
