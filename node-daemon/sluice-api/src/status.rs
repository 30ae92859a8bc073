//! The status of the daemon, its programs, and the kernel.

use serde::{Deserialize, Serialize};

/// Response to `GET /v1/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the daemon.
    pub version: String,
    /// Version of the kernel ABI.
    pub abi: u32,
    /// Whether an ADD would succeed.
    pub ready: bool,
    /// The reasons why an ADD would fail; then problems of single Pods, which do not prevent an ADD.
    #[serde(default)]
    pub problems: Vec<String>,
    /// Name of the node's mesh.
    #[serde(default)]
    pub mesh: String,
    /// The accelerated connections: `off`, `proxies` or `all`.
    #[serde(default)]
    pub acceleration: String,
    /// The redirected address families: `as-the-proxy-listens`, `both` or `ipv4`.
    #[serde(default)]
    pub families: String,
    /// Release of the kernel.
    #[serde(default)]
    pub kernel: String,
    /// Optional kernel features that Sluice uses.
    #[serde(default)]
    pub features: Vec<Feature>,
    /// The programs, in the order of their names.
    #[serde(default)]
    pub programs: Vec<ProgramView>,
    /// Whether an earlier daemon loaded the programs, and this one found them unchanged.
    #[serde(default)]
    pub programs_adopted: bool,
    /// The connections of ztunnel, if the daemon is its agent on the node.
    #[serde(default)]
    pub ztunnel: Option<ZtunnelView>,
    /// Programs of other owners at hooks whose order matters.
    #[serde(default)]
    pub foreign_programs: Vec<ForeignProgramView>,
    /// ADDs for which the runtime passed annotations, since the daemon's start.
    #[serde(default)]
    pub adds_with_annotations: u64,
    /// ADDs for which it passed none.
    #[serde(default)]
    pub adds_without_annotations: u64,
    /// Pods that are intercepted.
    pub meshed_pods: usize,
    /// Pods that are not intercepted.
    pub unmeshed_pods: usize,
    /// Pending Pods, of which only the addresses are known: their inbound connections are not
    /// intercepted until their network namespaces are found.
    #[serde(default)]
    pub pending_pods: usize,
    /// Meshed Pods whose proxy does not listen. Their connections are refused.
    #[serde(default)]
    pub pods_without_listener: usize,
    /// Network namespaces that are intercepted and have no record.
    #[serde(default)]
    pub orphaned_netns: usize,
}

/// The connections of ztunnel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZtunnelView {
    /// The socket that ztunnel connects to.
    pub socket: String,
    /// The number of connections. There are two during an upgrade of ztunnel.
    pub connections: usize,
    /// The number of Pods that ztunnel serves.
    pub workloads: usize,
    /// The number of Pods that ztunnel returned an error for.
    pub failed: usize,
}

/// An optional kernel feature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Feature {
    /// Its name.
    pub name: String,
    /// Whether this kernel has it.
    pub found: bool,
    /// The impact if it is missing.
    pub impact_if_missing: String,
}

/// A loaded program and its attachments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramView {
    /// Its name.
    pub name: String,
    /// Its ID, as in `bpftool prog`.
    pub id: u32,
    /// The kind of its hooks: `cgroup`, `netns`, `map` or `kernel`.
    pub attach_type: String,
    /// The number of its hooks: one cgroup, one map, the network namespace of each meshed Pod.
    pub attach_count: usize,
}

/// A program of another owner at a cgroup hook that Sluice uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignProgramView {
    /// The name of Sluice's program at the hook.
    pub hook: String,
    /// The program's ID, as in `bpftool prog`.
    pub id: u32,
    /// Its name, as its owner loaded it.
    pub name: String,
    /// The UID that loaded it.
    pub uid: u32,
    /// A cgroup in which it is effective.
    pub cgroup: String,
    /// It runs before Sluice's program: the proxy may receive the address that it wrote.
    pub runs_first: bool,
}

/// Body of `POST /v1/programs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProgramsRequest {
    /// The duration of the measurement in seconds, at most [`MAX_MEASURE_SECONDS`].
    pub seconds: u64,
}

/// Maximum duration of a measurement of programs in seconds.
pub const MAX_MEASURE_SECONDS: u64 = 20;

/// The runs of one program during a measurement. Element of the response to `POST /v1/programs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramRuns {
    /// Its name.
    pub name: String,
    /// Its ID, as in `bpftool prog`.
    pub id: u32,
    /// Their number.
    pub runs: u64,
    /// Their duration in total, in nanoseconds.
    pub nanos: u64,
}
