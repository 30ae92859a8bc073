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
//! | `GET /v1/status` | – | [`Status`] |
//! | `GET /v1/pods` | – | array of [`PodView`] |
//! | `GET /healthz`, `/readyz`, `/metrics` | – | text |
//!
//! Every answer with a status of 400 or more carries a [`ApiError`].
#![forbid(unsafe_code)]

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

pub use manifest::{Container, ContainerRole, Manifest};
pub use sidecar::{INTERCEPT, ISTIO_STATUS, has_no_sidecar_annotation, not_redirected_by_istio};

/// Where the daemon listens by default.
pub const SOCKET: &str = "/run/sluice/sluiced.sock";
/// What a daemon leaves beside its socket if it has removed the data path because no other daemon
/// comes after it: then the plugin has to go as well.
#[must_use]
pub fn uninstall_marker(socket: &Path) -> PathBuf {
    socket.with_file_name("uninstall-requested")
}

/// Where the plugin leaves the attachments that were to be let go while no daemon ran: a file with
/// an [`Attachment`] for each. The daemon does so at its start, and from time to time.
#[must_use]
pub fn pending_dels_dir(socket: &Path) -> PathBuf {
    socket.with_file_name("pending-del")
}

/// Bytes of the largest request body that is read.
pub const MAX_BODY: usize = 1 << 20;

/// Paths of the requests.
pub mod path {
    /// `POST`: take a Pod into the mesh's data path.
    pub const ADD: &str = "/v1/add";
    /// `POST`: let a Pod go. Succeeds for a Pod that is not known.
    pub const DEL: &str = "/v1/del";
    /// `POST`: compare a Pod's kernel state with what it should be.
    pub const CHECK: &str = "/v1/check";
    /// `POST`: remove every attachment that is not listed.
    pub const GC: &str = "/v1/gc";
    /// `POST`: what the programs have decided since the last question.
    pub const EVENTS: &str = "/v1/events";
    /// `POST`: what would become of a connection, and by which rule.
    pub const EXPLAIN: &str = "/v1/explain";
    /// `GET`: whether an ADD would succeed, and what the daemon found.
    pub const STATUS: &str = "/v1/status";
    /// `GET`: the Pods.
    pub const PODS: &str = "/v1/pods";
    /// `GET`: whether the daemon runs.
    pub const HEALTHZ: &str = "/healthz";
    /// `GET`: whether it can serve Pods.
    pub const READYZ: &str = "/readyz";
    /// `GET`: what it measures, in the `OpenMetrics` text format.
    pub const METRICS: &str = "/metrics";
}

/// CNI error codes (CNI spec 1.1.0, section "Error"; from 100 on they are the plugin's own).
pub mod code {
    /// Unsupported field in the network configuration.
    pub const UNSUPPORTED_FIELD: u32 = 2;
    /// The container does not exist or is not known.
    pub const UNKNOWN_CONTAINER: u32 = 3;
    /// A necessary environment variable is missing or wrong.
    pub const INVALID_ENVIRONMENT: u32 = 4;
    /// A file or socket could not be read or written.
    pub const IO_FAILURE: u32 = 5;
    /// The content could not be decoded.
    pub const DECODE_FAILURE: u32 = 6;
    /// The network configuration is invalid.
    pub const INVALID_CONFIG: u32 = 7;
    /// A transient condition: try again later.
    pub const TRY_AGAIN_LATER: u32 = 11;
    /// The Pod's own settings (annotations) are wrong or not supported.
    pub const POD_REFUSED: u32 = 100;
    /// The network namespace is not one that a Pod can have.
    pub const NETNS_REFUSED: u32 = 101;
    /// The reported address is not on the reported interface, or belongs to another Pod.
    pub const ADDRESS_REFUSED: u32 = 102;
    /// The kernel's state differs from what it should be (CHECK).
    pub const STATE_DIFFERS: u32 = 103;
    /// The kernel refused an operation.
    pub const KERNEL_REFUSED: u32 = 104;
}

/// What identifies one attachment of a container to a network (CNI spec 1.1.0, "Section 2").
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

/// The Pod, as far as the runtime names it (`K8S_POD_*` in `CNI_ARGS`).
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

/// An address that the chain gave to the Pod, with the interface that holds it.
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
    /// The Pod's annotations; absent if the runtime did not hand them over.
    #[serde(default)]
    pub annotations: Option<BTreeMap<String, String>>,
    /// The rest of its manifest, if the API server was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Manifest>,
}

/// Body of `POST /v1/check`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
#[expect(clippy::large_enum_variant, reason = "a request's body, read once")]
pub enum Check {
    /// The attachment as the runtime reports it now: it is compared with what the daemon knows,
    /// and that with the kernel.
    Reported(AddRequest),
    /// An attachment of which nothing is reported.
    Unreported(Attachment),
}

/// Response to `POST /v1/add`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddResponse {
    /// Whether the Pod's traffic is now intercepted.
    pub meshed: bool,
    /// Why, in a few words.
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
    /// `NAMESPACE/NAME` of a Pod, one of its addresses, or the beginning of its container's id.
    pub pod: String,
    /// The connection.
    pub connection: Connection,
}

/// A connection that a [`ExplainRequest`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Connection {
    /// A process in the Pod connects, or sends a DNS query.
    Outbound {
        /// Where to.
        to: SocketAddr,
        /// The process's user, as the host numbers it.
        uid: u32,
        /// Its group, likewise.
        gid: u32,
        /// Whether it sends a datagram.
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

/// Answer to an explain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainResponse {
    /// The Pod.
    pub pod: PodName,
    /// Its container.
    pub container_id: String,
    /// Where the connection goes, in a few words.
    pub outcome: String,
    /// The rule that decides, as metrics have it; empty if the Pod is not intercepted.
    pub rule: String,
    /// What that means.
    pub reason: String,
    /// What of the Pod's own settings matched, if it is one of them.
    pub matched: Option<String>,
}

/// Body of `POST /v1/events`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventsRequest {
    /// [`Events::next`] of the answer before. Without it the response has
    /// no events and comes at once.
    #[serde(default)]
    pub cursor: Option<u64>,
    /// Only those of this Pod, named as in a [`ExplainRequest`].
    #[serde(default)]
    pub pod: Option<String>,
}

/// Response to `POST /v1/events`: decisions, or none after ten seconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Events {
    /// What to ask for next.
    pub next: u64,
    /// Events that were dropped: too many for this client.
    pub dropped: u64,
    /// In their order.
    pub events: Vec<EventView>,
}

/// One decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventView {
    /// When the daemon heard of it: milliseconds since 1970, UTC.
    pub time: u64,
    /// The Pod, as `NAMESPACE/NAME`.
    pub pod: String,
    /// The user of the process that connects, as the host numbers it; absent for a peer.
    pub uid: Option<u32>,
    /// Its group, likewise.
    pub gid: Option<u32>,
    /// The connecting end; port 0 if it is not chosen yet.
    pub from: SocketAddr,
    /// Where it wanted to go.
    pub to: SocketAddr,
    /// The rule that decided, as metrics have it.
    pub rule: String,
}

/// Body of `POST /v1/gc`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GcRequest {
    /// The network to which the list belongs; others are not changed.
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

/// Answer to `GET /v1/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the daemon.
    pub version: String,
    /// Version of the kernel ABI.
    pub abi: u32,
    /// Whether an ADD would succeed.
    pub ready: bool,
    /// Why it would not; after that, problems of single Pods, which do not prevent an ADD.
    #[serde(default)]
    pub problems: Vec<String>,
    /// Name of the mesh whose sidecars the Pods carry.
    #[serde(default)]
    pub mesh: String,
    /// Which connections go from socket to socket: `off`, `proxies` or `all`.
    #[serde(default)]
    pub acceleration: String,
    /// Release of the kernel.
    #[serde(default)]
    pub kernel: String,
    /// Optional kernel features that Sluice uses.
    #[serde(default)]
    pub features: Vec<Feature>,
    /// The programs, by their names.
    #[serde(default)]
    pub programs: Vec<ProgramView>,
    /// Programs of other owners at hooks whose order matters.
    #[serde(default)]
    pub foreign_programs: Vec<ForeignProgramView>,
    /// Pods that are intercepted.
    pub meshed_pods: usize,
    /// Pods that are not intercepted.
    pub unmeshed_pods: usize,
    /// Meshed Pods of which only the addresses are known: their inbound connections are not
    /// intercepted until their network namespaces are found.
    #[serde(default)]
    pub pending_pods: usize,
    /// Network namespaces that are intercepted and have no record.
    #[serde(default)]
    pub orphaned_netns: usize,
}

/// Something that not every kernel has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Feature {
    /// What it is called.
    pub name: String,
    /// Whether this kernel has it.
    pub found: bool,
    /// What is missing without it.
    pub impact_if_missing: String,
}

/// A kernel program, and where it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramView {
    /// Its name.
    pub name: String,
    /// Its id, as `bpftool prog` shows it.
    pub id: u32,
    /// To what it is attached: `cgroup`, `netns`, `map` or `kernel`.
    pub attach_type: String,
    /// To how many of them: one cgroup, one map, the network namespace of each meshed Pod.
    pub attach_count: usize,
}

/// A program of another owner at a cgroup hook that Sluice uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignProgramView {
    /// The name of Sluice's program at the hook.
    pub hook: String,
    /// The program's id, as `bpftool prog` shows it.
    pub id: u32,
    /// Its name, as its owner loaded it.
    pub name: String,
    /// The user who loaded it.
    pub uid: u32,
    /// A cgroup in which it is effective.
    pub cgroup: String,
    /// It runs before Sluice's program: the proxy may learn an address that it wrote.
    pub runs_first: bool,
}

/// A Pod as the daemon knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodView {
    /// Identity of the attachment.
    pub attachment: Attachment,
    /// The Pod's name.
    pub pod: PodName,
    /// Path of the network namespace as it was reported.
    pub netns: String,
    /// Cookie of the network namespace, if the Pod is meshed.
    pub cookie: Option<u64>,
    /// Listening sockets of the proxy that take the Pod's inbound connections.
    #[serde(default)]
    pub listeners: usize,
    /// Destinations of the Pod that have an address at which the proxy is met: entries of the map
    /// `destinations`, of which a Pod has a share.
    #[serde(default)]
    pub aliases: u64,
    /// Connections that got no such entry, because the share is used up or the addresses are taken. They
    /// reach the proxy all the same, each remembered by its socket.
    #[serde(default)]
    pub alias_fallbacks: u64,
    /// The Pod's addresses on this network.
    pub addresses: Vec<IpAddr>,
    /// Whether the Pod's traffic is intercepted.
    pub meshed: bool,
    /// Why.
    pub reason: String,
}

/// Body of every answer with a status of 400 or more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiError {
    /// A [`code`].
    pub code: u32,
    /// What is wrong, in one line.
    pub message: String,
    /// What to do about it, or more of the cause.
    #[serde(default)]
    pub details: String,
}
