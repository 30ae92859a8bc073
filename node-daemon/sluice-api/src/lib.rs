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
mod connection;
mod log_filter;
mod manifest;
pub mod owned;
mod pods;
mod request;
mod sidecar;
mod status;
pub mod text;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use audit::{
    AuditRequest, AuditResponse, ConnectionView, Connections, ConnectionsRequest, Finding,
    FindingKind,
};
pub use connection::{
    Connection, EventView, Events, EventsRequest, ExplainRequest, ExplainResponse,
};
pub use log_filter::check_log_filter;
pub use manifest::{Container, ContainerRole, Manifest};
pub use pods::{BeforeProxyView, PodCounters, PodView, RefusedAdd};
pub use request::{
    AddRequest, AddResponse, Attachment, Check, DelResponse, GcRequest, PodAddress, PodName,
    ValidAttachment,
};
pub use sidecar::{INTERCEPT, ISTIO_STATUS, has_no_sidecar_annotation, not_redirected_by_istio};
pub use status::{
    Feature, ForeignProgramView, MAX_MEASURE_SECONDS, ProgramRuns, ProgramView, ProgramsRequest,
    Status, ZtunnelView,
};

/// Default path of the daemon's socket.
pub const SOCKET: &str = "/run/sluice/sluiced.sock";
/// The uninstall marker beside the socket: the last daemon of the node has removed the data path, and
/// asks the installer to uninstall the plugin as well.
#[must_use]
pub fn uninstall_marker(socket: &Path) -> PathBuf {
    socket.with_file_name("uninstall-requested")
}

/// The directory of pending DELs: the plugin stores one file with an [`Attachment`] for each DEL that
/// no daemon answered. The daemon makes it, replays them at its start and in each resync, and removes it when
/// Sluice is uninstalled.
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
