//! The contract of the node daemon's unix socket: HTTP/1.1, JSON bodies, one version prefix.
//!
//! | method and path | body | answer |
//! |---|---|---|
//! | `POST /v1/add` | [`AddRequest`] | [`AddResponse`] |
//! | `POST /v1/del` | [`Attachment`] | [`DelResponse`] |
//! | `POST /v1/check` | [`Check`] | `204` |
//! | `POST /v1/gc` | [`GcRequest`] | [`DelResponse`] |
//! | `POST /v1/explain` | [`ExplainRequest`] | [`ExplainResponse`] |
//! | `POST /v1/events` | [`EventsRequest`] | [`Events`], when there are some |
//! | `POST /v1/audit` | [`AuditRequest`] | [`AuditResponse`] |
//! | `POST /v1/connections` | [`ConnectionsRequest`] | [`Connections`] |
//! | `POST /v1/programs` | [`ProgramsRequest`] | array of [`ProgramRuns`], after the measurement |
//! | `GET /v1/status` | – | [`Status`] |
//! | `GET /v1/pods` | – | array of [`PodView`] |
//! | `GET /v1/refused` | – | array of [`RefusedAdd`] |
//! | `GET /healthz`, `/readyz`, `/metrics` | – | text |
//!
//! Every answer with a status of 400 or more carries a [`ApiError`].
#![forbid(unsafe_code)]

mod audit;
mod log_filter;
mod manifest;
pub mod owned;
mod sidecar;
pub mod text;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

pub use audit::{
    AuditRequest, AuditResponse, ConnectionView, Connections, ConnectionsRequest, Finding,
    FindingKind,
};
pub use log_filter::check_log_filter;
pub use manifest::{Container, ContainerRole, Manifest};
pub use sidecar::{INTERCEPT, ISTIO_STATUS, has_no_sidecar_annotation, not_redirected_by_istio};

/// Default path of the daemon's socket.
pub const SOCKET: &str = "/run/sluice/sluiced.sock";
/// The uninstall marker beside the socket: the last daemon of the node has removed the data path, and
/// asks the installer to uninstall the plugin as well.
#[must_use]
pub fn uninstall_marker(socket: &Path) -> PathBuf {
    socket.with_file_name("uninstall-requested")
}

/// The directory of pending DELs: the plugin stores one file with an [`Attachment`] for each DEL that
/// no daemon answered. The daemon replays them at its start and in each resync.
#[must_use]
pub fn pending_dels_dir(socket: &Path) -> PathBuf {
    socket.with_file_name("pending-del")
}

/// Maximum size of a request body in bytes.
pub const MAX_BODY: usize = 1 << 20;

/// Paths of the requests.
pub mod path {
    /// `POST`: enroll a Pod.
    pub const ADD: &str = "/v1/add";
    /// `POST`: unenroll a Pod. Succeeds for an unknown Pod.
    pub const DEL: &str = "/v1/del";
    /// `POST`: compare a Pod's kernel state with the desired state.
    pub const CHECK: &str = "/v1/check";
    /// `POST`: remove every attachment that is not listed.
    pub const GC: &str = "/v1/gc";
    /// `POST`: the events since the last request.
    pub const EVENTS: &str = "/v1/events";
    /// `POST`: the verdict for a connection, and its rule.
    pub const EXPLAIN: &str = "/v1/explain";
    /// `POST`: judge the existing connections of meshed Pods.
    pub const AUDIT: &str = "/v1/audit";
    /// `POST`: the existing connections of meshed Pods.
    pub const CONNECTIONS: &str = "/v1/connections";
    /// `POST`: the time that the programs take.
    pub const PROGRAMS: &str = "/v1/programs";
    /// `GET`: readiness for ADD, and the daemon's findings.
    pub const STATUS: &str = "/v1/status";
    /// `GET`: the Pods.
    pub const PODS: &str = "/v1/pods";
    /// `GET`: the latest refused ADDs.
    pub const REFUSED: &str = "/v1/refused";
    /// `GET`: liveness of the daemon.
    pub const HEALTHZ: &str = "/healthz";
    /// `GET`: readiness of the daemon.
    pub const READYZ: &str = "/readyz";
    /// `GET`: metrics, in the `OpenMetrics` text format.
    pub const METRICS: &str = "/metrics";
}

/// CNI error codes (CNI spec 1.1.0, section "Error"; codes from 100 are plugin-specific).
pub mod code {
    /// Unsupported field in the network configuration.
    pub const UNSUPPORTED_FIELD: u32 = 2;
    /// The container does not exist or is unknown.
    pub const UNKNOWN_CONTAINER: u32 = 3;
    /// A required environment variable is missing or invalid.
    pub const INVALID_ENVIRONMENT: u32 = 4;
    /// A file or socket could not be read or written.
    pub const IO_FAILURE: u32 = 5;
    /// The content could not be decoded.
    pub const DECODE_FAILURE: u32 = 6;
    /// The network configuration is invalid.
    pub const INVALID_CONFIG: u32 = 7;
    /// A transient condition: try again later.
    pub const TRY_AGAIN_LATER: u32 = 11;
    /// The Pod's own settings (annotations) are invalid or not supported.
    pub const POD_REFUSED: u32 = 100;
    /// The network namespace cannot be that of a Pod.
    pub const NETNS_REFUSED: u32 = 101;
    /// The reported address is not on the reported interface, or belongs to another Pod.
    pub const ADDRESS_REFUSED: u32 = 102;
    /// The kernel's state differs from the desired state (CHECK).
    pub const STATE_DIFFERS: u32 = 103;
    /// The kernel refused an operation.
    pub const KERNEL_REFUSED: u32 = 104;
}

/// Identity of an attachment of a container to a network (CNI spec 1.1.0, "Section 2").
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attachment {
    /// The network's name.
    pub network: String,
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
}

/// The Pod's name, as far as the runtime passes it (`K8S_POD_*` in `CNI_ARGS`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PodName {
    /// `K8S_POD_NAMESPACE`, or empty.
    #[serde(default)]
    pub namespace: String,
    /// `K8S_POD_NAME`, or empty.
    #[serde(default)]
    pub name: String,
    /// `K8S_POD_UID`, or empty.
    #[serde(default)]
    pub uid: String,
}

/// An address of the Pod from the chain's result, with its interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PodAddress {
    /// The address, without the prefix length.
    pub ip: IpAddr,
    /// The interface inside the Pod's network namespace.
    pub interface: String,
}

/// Body of `POST /v1/add`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddRequest {
    /// Identity of the attachment.
    pub attachment: Attachment,
    /// Path of the Pod's network namespace (`CNI_NETNS`).
    pub netns: String,
    /// The Pod's addresses on this network.
    pub addresses: Vec<PodAddress>,
    /// The Pod's name, if the runtime passed it.
    #[serde(default)]
    pub pod: PodName,
    /// The Pod's annotations; absent if the runtime did not pass them.
    #[serde(default)]
    pub annotations: Option<BTreeMap<String, String>>,
    /// The rest of the Pod's manifest, if the daemon has requested it from the API server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Manifest>,
}

/// Body of `POST /v1/check`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
#[expect(clippy::large_enum_variant, reason = "a request's body, read once")]
pub enum Check {
    /// The attachment as the runtime reports it now: compared with the daemon's record, and the record
    /// with the kernel.
    Reported(AddRequest),
    /// An attachment for which the runtime reports no details.
    Unreported(Attachment),
}

/// Response to `POST /v1/add`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddResponse {
    /// Whether the Pod's traffic is now intercepted.
    pub meshed: bool,
    /// A short explanation.
    pub reason: String,
}

/// Response to `POST /v1/del` and `POST /v1/gc`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DelResponse {
    /// The attachments that were removed.
    pub attachments: Vec<Attachment>,
}

/// Body of `POST /v1/explain`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainRequest {
    /// `NAMESPACE/NAME` of a Pod, one of its addresses, or a prefix of its container ID.
    pub pod: String,
    /// The connection.
    pub connection: Connection,
}

/// The connection of an [`ExplainRequest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Connection {
    /// A process in the Pod connects, or sends a DNS query.
    Outbound {
        /// The destination.
        to: SocketAddr,
        /// The process's UID on the host.
        uid: u32,
        /// The process's GID on the host.
        gid: u32,
        /// Whether the process sends a UDP datagram.
        udp: bool,
    },
    /// A peer connects to the Pod by TCP.
    Inbound {
        /// The peer's address.
        from: IpAddr,
        /// The port of the Pod.
        port: u16,
    },
}

/// Response to `POST /v1/explain`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainResponse {
    /// The Pod.
    pub pod: PodName,
    /// Its container.
    pub container_id: String,
    /// The verdict, in a few words.
    pub outcome: String,
    /// The matching rule, as in the metrics; empty if the Pod is not intercepted.
    pub rule: String,
    /// A description of the rule.
    pub reason: String,
    /// The Pod's setting that matched, if any.
    pub matched: Option<String>,
}

/// Body of `POST /v1/events`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventsRequest {
    /// [`Events::next`] of the previous response. Without it the response is immediate and has no
    /// events.
    #[serde(default)]
    pub cursor: Option<u64>,
    /// Only events of this Pod, named as in an [`ExplainRequest`].
    #[serde(default)]
    pub pod: Option<String>,
}

/// Response to `POST /v1/events`: events, or none after ten seconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Events {
    /// The cursor of the next request.
    pub next: u64,
    /// The number of dropped events: too many for this client.
    pub dropped: u64,
    /// The events, in their order.
    pub events: Vec<EventView>,
}

/// One decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventView {
    /// The time at which the daemon received the event: milliseconds since 1970, UTC.
    pub time: u64,
    /// The Pod, as `NAMESPACE/NAME`.
    pub pod: String,
    /// The connecting process's UID on the host; absent for a remote peer.
    pub uid: Option<u32>,
    /// The connecting process's GID on the host; absent for a remote peer.
    pub gid: Option<u32>,
    /// The connecting end; port 0 if it is not selected yet.
    pub from: SocketAddr,
    /// The original destination.
    pub to: SocketAddr,
    /// The rule that decided, as in the metrics.
    pub rule: String,
    /// The connection was redirected to a proxy that does not listen: it is refused.
    #[serde(default)]
    pub is_refused: bool,
}

/// Body of `POST /v1/gc`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GcRequest {
    /// The network of the list; other networks are not changed.
    pub network: String,
    /// The attachments that still exist.
    pub valid: Vec<ValidAttachment>,
}

/// An element of `cni.dev/valid-attachments`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ValidAttachment {
    /// The container.
    pub container_id: String,
    /// The interface.
    pub ifname: String,
}

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

/// A Pod in the daemon's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodView {
    /// Identity of the attachment.
    pub attachment: Attachment,
    /// The Pod's name.
    pub pod: PodName,
    /// Path of the network namespace from the ADD request.
    pub netns: String,
    /// Cookie of the network namespace, if the Pod is meshed.
    pub cookie: Option<u64>,
    /// Registered listeners of the proxy for inbound connections.
    #[serde(default)]
    pub listeners: usize,
    /// Destinations of the Pod with an alias address: its entries of the map `alias_to_dst`, at most
    /// its share.
    #[serde(default)]
    pub aliases: u64,
    /// Connections without such an entry, because the share is used up or no alias probe was free. They
    /// reach the proxy through socket storage.
    #[serde(default)]
    pub alias_fallbacks: u64,
    /// Seconds since the Pod was enrolled, or since its record was written last.
    #[serde(default)]
    pub age_seconds: u64,
    /// The number of decisions about a meshed Pod since it was enrolled.
    #[serde(default)]
    pub counters: PodCounters,
    /// The Pod's addresses on this network.
    pub addresses: Vec<IpAddr>,
    /// Whether the Pod's traffic is intercepted.
    pub meshed: bool,
    /// A short explanation.
    pub reason: String,
    /// The redirected address families of a meshed Pod: `both` or `ipv4`.
    #[serde(default)]
    pub families: Option<String>,
    /// Outbound connections before the proxy listened, if they may bypass it.
    #[serde(default)]
    pub before_proxy: Option<BeforeProxyView>,
    /// How often a port of the proxy was denied to a process that is not the proxy.
    #[serde(default)]
    pub foreign_uses: u64,
}

/// Outbound connections of a Pod before its proxy listened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BeforeProxyView {
    /// Whether the proxy has not listened yet: connections bypass it.
    pub open: bool,
    /// The number of connections that bypassed it.
    pub connections: u64,
}

/// A Pod that was refused at ADD. Attempts with the same reason are one entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedAdd {
    /// Time of the first attempt, in milliseconds since 1970.
    pub first: u64,
    /// Time of the latest attempt, in milliseconds since 1970.
    pub last: u64,
    /// The number of attempts.
    pub count: u64,
    /// The Pod's name, as far as the runtime passes it.
    pub pod: PodName,
    /// The container of the latest attempt.
    pub container_id: String,
    /// A [`code`].
    pub code: u32,
    /// The reason, as in the metric `sluice_refused_adds_total`.
    pub reason: String,
    /// The error, in one line.
    pub message: String,
    /// Its cause.
    pub details: String,
    /// What to do.
    pub remedy: String,
}

/// The number of decisions about a Pod. DNS queries over UDP are included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodCounters {
    /// Of the Pod, redirected to the proxy.
    pub outbound_to_proxy: u64,
    /// Of the Pod, not redirected; the proxy's own connections are included.
    pub outbound_direct: u64,
    /// To the Pod, accepted by the proxy.
    pub inbound_to_proxy: u64,
    /// To the Pod, accepted by the application, as a rule allows.
    pub inbound_direct: u64,
    /// Refused.
    pub refused: u64,
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

/// Body of every response with a status of 400 or more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiError {
    /// A [`code`].
    pub code: u32,
    /// The error, in one line.
    pub message: String,
    /// The remedy, or more of the cause.
    #[serde(default)]
    pub details: String,
}
