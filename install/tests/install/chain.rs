//! The configuration as libcni reads it (through cnitool), with real plugins in real namespaces.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread::sleep,
    time::Duration,
};

use crate::host::{Host, built_plugin};

/// A network namespace that lasts as long as this does.
struct Namespace(Child);

impl Namespace {
    fn new() -> Self {
        let mut command = Command::new("unshare");
        let process = command.args(["--net", "sleep", "60"]).spawn().unwrap();
        let namespace = Self(process);
        let identity = |path: &Path| fs::read_link(path).ok();
        while identity(&namespace.path()) == identity(Path::new("/proc/self/ns/net")) {
            sleep(Duration::from_millis(5));
        }
        namespace
    }

    fn path(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.0.id()).into()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A tool that the set-up has built or installed.
fn tool(variable: &str, default: &str) -> OsString {
    env::var_os(variable).unwrap_or_else(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        root.join(default).into()
    })
}

/// Runs a verb of the network `old` for a Pod, on a node that is a namespace of its own.
fn cnitool(host: &Host, verb: &str, node: &Namespace, pod: &Namespace) -> Output {
    let mut path = host.path("bin").into_os_string();
    path.push(":");
    path.push(tool("CNI_PLUGINS", "/usr/lib/cni"));
    // libcni keeps results in one place of the machine, which nobody else is to see.
    Command::new("unshare")
        .args(["--mount", "sh", "-ec"])
        .arg("mkdir -p /var/lib/cni; mount -t tmpfs results /var/lib/cni; exec nsenter \"$@\"")
        .arg("nsenter")
        .arg(format!("--net={}", node.path().display()))
        .arg(tool("CNITOOL", "target/tools/bin/cnitool"))
        .args([OsStr::new(verb), OsStr::new("old"), pod.path().as_os_str()])
        .env("NETCONFPATH", &host.conf)
        .env("CNI_PATH", path)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[test]
fn a_runtime_runs_the_list_that_replaced_a_conf_and_del_needs_no_daemon() {
    let host = Host::new();
    let (data, socket) = (host.path("ipam"), host.path("nobody.sock"));
    let conf = format!(
        r#"{{"cniVersion":"0.4.0","name":"old","type":"ptp",
            "ipam":{{"type":"host-local","dataDir":"{}","subnet":"10.99.0.0/24"}}}}"#,
        data.display()
    );
    host.write("10-ptp.conf", &conf);
    fs::copy(built_plugin(), host.path("image/sluice-cni")).unwrap();
    let arguments = ["--socket", socket.to_str().unwrap()];
    assert!(host.run("install", &arguments).status.success());

    let (node, pod) = (Namespace::new(), Namespace::new());
    let added = cnitool(&host, "add", &node, &pod);
    let said = String::from_utf8(added.stderr).unwrap();
    assert!(!added.status.success());
    assert!(
        said.contains(socket.to_str().unwrap()),
        "ptp, then Sluice: {said}"
    );
    let deleted = cnitool(&host, "del", &node, &pod);
    assert!(
        deleted.status.success(),
        "{}",
        String::from_utf8_lossy(&deleted.stderr)
    );

    assert!(host.run("uninstall", &[]).status.success());
    assert_eq!(host.read("10-ptp.conf"), conf);
    let added = cnitool(&host, "add", &node, &pod);
    assert!(
        added.status.success(),
        "{}",
        String::from_utf8_lossy(&added.stderr)
    );
    assert!(cnitool(&host, "del", &node, &pod).status.success());
}
