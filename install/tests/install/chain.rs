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
pub(crate) struct Namespace(Child);

impl Namespace {
    pub(crate) fn new() -> Self {
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
pub(crate) fn tool(variable: &str, default: &str) -> OsString {
    env::var_os(variable).unwrap_or_else(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        root.join(default).into()
    })
}

/// Runs a verb of a network, whose configuration is in a directory, for a Pod whose annotations name
/// no sidecar, on a node that is a namespace of its own. What libcni and host-local keep is in the
/// host's directory `cni`.
pub(crate) fn cnitool(
    host: &Host,
    conf: &Path,
    (verb, network): (&str, &str),
    node: &Namespace,
    pod: &Namespace,
) -> Output {
    let mut path = host.path("bin").into_os_string();
    for directory in [
        host.path("vendor").into_os_string(),
        tool("CNI_PLUGINS", "/usr/lib/cni"),
    ] {
        path.push(":");
        path.push(directory);
    }
    let kept = host.path("cni");
    fs::create_dir_all(&kept).unwrap();
    Command::new("unshare")
        .args(["--mount", "sh", "-ec"])
        .arg("mkdir -p /var/lib/cni; mount --bind \"$0\" /var/lib/cni; exec nsenter \"$@\"")
        .arg(&kept)
        .arg(format!("--net={}", node.path().display()))
        .arg(tool("CNITOOL", "target/tools/bin/cnitool"))
        .args([
            OsStr::new(verb),
            OsStr::new(network),
            pod.path().as_os_str(),
        ])
        .env("NETCONFPATH", conf)
        .env("CNI_PATH", path)
        .env("CAP_ARGS", r#"{"io.kubernetes.cri.pod-annotations":{}}"#)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[test]
fn runtime_runs_the_list_in_place_of_a_conf() {
    let host = Host::new();
    let (data, socket) = (host.path("ipam"), host.path("missing.sock"));
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
    let status = host.run("status", &[]).stdout;
    let said = String::from_utf8(status).unwrap();
    assert!(said.contains(socket.to_str().unwrap()), "{said}");
    let added = cnitool(&host, &host.conf, ("add", "old"), &node, &pod);
    let said = String::from_utf8(added.stderr).unwrap();
    assert!(added.status.success(), "ptp, then Sluice: {said}");
    let deleted = cnitool(&host, &host.conf, ("del", "old"), &node, &pod);
    assert!(
        deleted.status.success(),
        "{}",
        String::from_utf8_lossy(&deleted.stderr)
    );

    fs::remove_dir_all(host.path("cni")).unwrap();
    assert!(host.run("uninstall", &[]).status.success());
    assert_eq!(host.read("10-ptp.conf"), conf);
    let added = cnitool(&host, &host.conf, ("add", "old"), &node, &pod);
    assert!(
        added.status.success(),
        "{}",
        String::from_utf8_lossy(&added.stderr)
    );
    assert!(
        cnitool(&host, &host.conf, ("del", "old"), &node, &pod)
            .status
            .success()
    );
}
