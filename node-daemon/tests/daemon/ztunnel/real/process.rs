//! A ztunnel process with its defaults, in a network namespace of its own.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::network::{NAMES, VIPS, address};
use crate::wait;

const PATIENCE: Duration = Duration::from_mins(1);

/// A running ztunnel.
pub(super) struct Process {
    child: Child,
    log: PathBuf,
}

/// The mesh as istiod would describe it: both Pods speak HBONE, and one serves a Service.
fn mesh() -> String {
    let workload = |index: usize| {
        let name = NAMES[index];
        let [v4, v6] = [false, true].map(|v6| address(index, v6));
        let service = if name == "server" {
            "\n    \"shop/server.shop.svc.cluster.local\":\n      80: 8080"
        } else {
            " {}"
        };
        format!(
            "- uid: cluster1//v1/Pod/shop/{name}\n  name: {name}\n  namespace: shop\n  \
             serviceAccount: baker\n  workloadIps: [\"{v4}\", \"{v6}\"]\n  protocol: HBONE\n  \
             node: local\n  network: \"\"\n  services:{service}\n"
        )
    };
    let [v4, v6] = VIPS;
    format!(
        "workloads:\n{}{}services:\n- name: server\n  namespace: shop\n  \
         hostname: server.shop.svc.cluster.local\n  vips: [\"/{v4}\", \"/{v6}\"]\n  \
         ports:\n    80: 8080\n",
        workload(0),
        workload(1)
    )
}

impl Process {
    /// Starts a ztunnel that gets its Pods from an agent at `socket`. `members` is the file of a cgroup.
    pub(super) fn start(binary: &Path, directory: &Path, socket: &Path, members: &str) -> Self {
        let number = fs::read_dir(directory).unwrap().count();
        let log = directory.join(format!("ztunnel-{number}.log"));
        let config = directory.join(format!("mesh-{number}.yaml"));
        fs::write(&config, mesh()).unwrap();
        let output = File::create(&log).unwrap();
        let script = "echo 0 >\"$1\"; ip link set lo up; exec \"$2\"";
        let child = Command::new("unshare")
            .args(["--net", "sh", "-c", script, "sh", members])
            .arg(binary)
            .env("LOCAL_XDS_PATH", &config)
            .env("XDS_ADDRESS", "")
            .env("FAKE_CA", "true")
            .env("NODE_NAME", "local")
            .env("INPOD_UDS", socket)
            .env("RUST_LOG", "info")
            .env("NO_COLOR", "1")
            .stdout(output.try_clone().unwrap())
            .stderr(Stdio::from(output))
            .spawn()
            .unwrap();
        Self { child, log }
    }

    /// Everything that it logged.
    pub(super) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Ends it as Kubernetes does, and waits.
    pub(super) fn stop(mut self) {
        let pid = i32::try_from(self.child.id()).unwrap();
        kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
        let has_ended = || self.child.try_wait().unwrap().is_some();
        let log = || fs::read_to_string(&self.log).unwrap();
        wait::until_within(PATIENCE, has_ended, || {
            format!("ztunnel does not end: {}", log())
        });
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}
