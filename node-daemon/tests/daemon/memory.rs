//! Tests of the memory of the daemon's cgroup: its own, and what the kernel stores for it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use aya::maps::MapInfo;
use sluice_abi::{ABI_VERSION, maps};
use sluice_api::{AddResponse, path};

use crate::{
    node::{Daemon, Pod},
    pods::add,
};

const MIB: u64 = 1 << 20;

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

#[test]
fn daemon_runs_within_the_charts_request() {
    let (request, limit) = of_chart();
    assert!(request <= limit);
    let memory = MemoryCgroup::create("memory", request * MIB);
    let launcher = memory.launcher();
    let launcher = ["sh", "-c", &launcher, "sh"];
    let mut daemon = Daemon::launched(&launcher, "memory", "");
    let pods: Vec<_> = (1..=20)
        .map(|index| {
            let address = format!("10.1.0.{index}");
            let pod = Pod::new(&format!("memory-{index}"), &[&format!("{address}/24")]);
            let request = add(&index.to_string(), &pod.path(), &[&address]);
            assert!(daemon.post(path::ADD, &request).ok::<AddResponse>().meshed);
            pod
        })
        .collect();
    eprintln!(
        "peak {} MiB, now {} MiB with {} Pods",
        memory.peak(),
        memory.usage(),
        pods.len()
    );
    assert_eq!(daemon.get("/readyz").status, 200);
    assert_eq!(daemon.stop(), Some(0), "not killed for lack of memory");
    drop(daemon);
}

#[test]
fn maps_of_acceleration_are_small_until_it_is_switched_on() {
    let mut daemon = Daemon::start("accel-maps");
    let pod = Pod::new("accel-maps", &["10.1.0.1/24"]);
    let request = add("a", &pod.path(), &["10.1.0.1"]);
    assert!(daemon.post(path::ADD, &request).ok::<AddResponse>().meshed);
    let pins = daemon.pins().join(format!("v{ABI_VERSION}/maps"));
    let entries = |name: &str| MapInfo::from_pin(pins.join(name)).unwrap().max_entries();
    assert_eq!(entries(maps::ACCEL_FLOWS), 1);
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
