//! The node's mounts: its writes go to tmpfs and end with it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use serde_json::{Value, json};
use sluice_testbed::process::{finish, output};

use crate::kubernetes::cgroups::{Hierarchy, hierarchies};

/// The sysctls that the kubelet changes. They belong to no namespace, so files cover them on the
/// node.
pub(crate) const SYSCTLS: [&str; 6] = [
    "/proc/sys/vm/overcommit_memory",
    "/proc/sys/vm/panic_on_oom",
    "/proc/sys/kernel/panic",
    "/proc/sys/kernel/panic_on_oops",
    "/proc/sys/kernel/keys/root_maxkeys",
    "/proc/sys/kernel/keys/root_maxbytes",
];

/// The runtime's directory of plugins.
pub(crate) const CNI_BIN: &str = "/opt/cni/bin";
/// The runtime's directory of network configurations.
pub(crate) const CNI_CONF: &str = "/etc/cni/net.d";
/// The node's address.
pub(crate) const ADDRESS: &str = "192.0.2.10";
/// The API server's address in the cluster: as there is no kube-proxy, the node has it itself.
pub(crate) const API: &str = "10.96.0.1";
/// The test's files on the node.
pub(crate) const LAB: &str = "/run/lab";

const CGROUPS: &str = "/sys/fs/cgroup";
/// The version of CNI with STATUS and GC.
pub(crate) const CNI_CURRENT: &str = "1.1.0";
const NETWORK: &str = "/etc/cni/net.d/10-bridge.conflist";
/// The same network for a runtime of another handler, which passes no annotations: the plugin's
/// entry has no such capability.
pub(crate) const RUNTIME_WITHOUT_ANNOTATIONS_CONF: &str = "/etc/cni/quiet.d";
const PLUGINS: [&str; 4] = ["bridge", "host-local", "loopback", "portmap"];
const LIMIT: Duration = Duration::from_secs(10);

/// Mounts the file systems of the namespaces that this process is the first of.
pub(crate) fn setup_mounts(cni_plugins: &Path) -> Result<()> {
    let cgroups = hierarchies()?;
    attach("proc", "/proc", "proc", "")?;
    for point in ["/run", "/var/lib", "/var/log", "/opt"] {
        attach("tmpfs", point, "tmpfs", "mode=755")?;
    }
    fs::create_dir_all(LAB)?;
    writable_etc()?;
    whole_proc()?;
    mask_sysctls()?;
    attach("sysfs", "/sys", "sysfs", "")?;
    attach("bpf", "/sys/fs/bpf", "bpf", "")?;
    attach("tmpfs", CGROUPS, "tmpfs", "mode=755")?;
    for hierarchy in &cgroups {
        mount_again(hierarchy)?;
    }
    // Later mounts, such as a Pod's namespace, must propagate to running containers.
    let shared = MsFlags::MS_SHARED | MsFlags::MS_REC;
    mount(None::<&str>, "/", None::<&str>, shared, None::<&str>)?;
    links()?;
    network(cni_plugins)
}

fn attach(source: &str, point: &str, kind: &str, options: &str) -> Result<()> {
    mount(
        Some(source),
        point,
        Some(kind),
        MsFlags::empty(),
        Some(options),
    )
    .with_context(|| format!("cannot mount {kind} at {point}"))
}

/// An overlay: the machine's `/etc` below, the node's changes above.
fn writable_etc() -> Result<()> {
    let (upper, work) = (format!("{LAB}/etc/upper"), format!("{LAB}/etc/work"));
    fs::create_dir_all(&upper)?;
    fs::create_dir_all(&work)?;
    let options = format!("lowerdir=/etc,upperdir={upper},workdir={work}");
    attach("overlay", "/etc", "overlay", &options)
}

/// In a user namespace the kernel mounts proc only where another one is visible that nothing covers.
fn whole_proc() -> Result<()> {
    let point = format!("{LAB}/proc");
    fs::create_dir(&point)?;
    attach("proc", &point, "proc", "")
}

fn mask_sysctls() -> Result<()> {
    for sysctl in SYSCTLS {
        let file = Path::new(LAB).join(sysctl.trim_start_matches('/').replace('/', "."));
        fs::write(&file, fs::read(sysctl)?)?;
        let bind = MsFlags::MS_BIND;
        mount(Some(&file), sysctl, None::<&str>, bind, None::<&str>)
            .with_context(|| format!("cannot cover {sysctl}"))?;
    }
    Ok(())
}

/// In this cgroup namespace the hierarchy begins at the node's own cgroup.
fn mount_again(hierarchy: &Hierarchy) -> Result<()> {
    let Hierarchy {
        point,
        kind,
        options,
    } = hierarchy;
    fs::create_dir_all(point)?;
    attach("cgroup", &point.to_string_lossy(), kind, options)
}

/// A node without an uplink: the other end of its link has no route.
fn links() -> Result<()> {
    for command in [
        "link set lo up",
        &format!("address add {API}/32 dev lo"),
        "link add node0 type veth peer name uplink",
        "link set uplink up",
        "link set node0 up",
        &format!("address add {ADDRESS}/24 dev node0"),
        "route add default dev node0",
    ] {
        output(Command::new("ip").args(command.split(' ')), LIMIT)?;
    }
    Ok(())
}

/// The primary network, as it is before Sluice is installed.
fn network(cni_plugins: &Path) -> Result<()> {
    fs::create_dir_all(CNI_BIN)?;
    fs::create_dir_all(CNI_CONF)?;
    fs::create_dir_all("/run/netns")?;
    for plugin in PLUGINS {
        fs::copy(
            cni_plugins.join(plugin),
            PathBuf::from(CNI_BIN).join(plugin),
        )
        .with_context(|| format!("cannot place the plugin {plugin}"))?;
    }
    let mut network: Value = serde_json::from_str(include_str!("network.json"))?;
    if supports_current_spec(&Path::new(CNI_BIN).join("bridge"))? {
        // A runtime selects the newest that it knows.
        network["cniVersions"] = json!(["0.4.0", "1.0.0", CNI_CURRENT]);
    }
    fs::write(NETWORK, serde_json::to_string_pretty(&network)?)?;
    let mut quiet = network;
    let plugins = quiet["plugins"].as_array_mut().context("no plugins")?;
    plugins.push(json!({ "type": "sluice-cni" }));
    fs::create_dir_all(RUNTIME_WITHOUT_ANNOTATIONS_CONF)?;
    fs::write(
        Path::new(RUNTIME_WITHOUT_ANNOTATIONS_CONF).join("10-bridge.conflist"),
        quiet.to_string(),
    )?;
    Ok(())
}

/// Whether a plugin knows the version of CNI with STATUS and GC.
fn supports_current_spec(plugin: &Path) -> Result<bool> {
    let mut command = Command::new(plugin);
    let Output { stdout, .. } = finish(command.env("CNI_COMMAND", "VERSION"), "{}", LIMIT)?;
    let said: Value = serde_json::from_slice(&stdout).context("no versions of CNI")?;
    let versions = said["supportedVersions"]
        .as_array()
        .context("no versions")?;
    Ok(versions.contains(&CNI_CURRENT.into()))
}
