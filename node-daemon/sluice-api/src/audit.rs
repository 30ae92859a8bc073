//! The requests about existing connections: audit and list.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// Body of `POST /v1/audit`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditRequest {
    /// Only this Pod, named as in an [`ExplainRequest`](crate::ExplainRequest).
    #[serde(default)]
    pub pod: Option<String>,
    /// End the findings: their processes and peers see a reset.
    #[serde(default)]
    pub kill: bool,
}

/// Response to `POST /v1/audit`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditResponse {
    /// The number of Pods that were examined.
    pub pods: usize,
    /// The number of their TCP connections.
    pub connections: u64,
    /// The duration in milliseconds.
    pub millis: u64,
    /// The connections that bypass the proxy against a rule.
    pub findings: Vec<Finding>,
    /// The number of findings that are not listed.
    pub more: u64,
    /// Pods that could not be examined, and connections that could not be ended.
    pub problems: Vec<String>,
}

/// The kind of a [`Finding`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// The rule redirects such a connection, and it is not redirected.
    Bypass,
    /// A process with the proxy's user, or its group, that does not belong to the proxy. The rule would
    /// redirect any other user.
    ProxyUser,
}

impl FindingKind {
    /// Every kind.
    pub const ALL: [Self; 2] = [Self::Bypass, Self::ProxyUser];

    /// The name in JSON and metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Bypass => "bypass",
            Self::ProxyUser => "proxy_user",
        }
    }
}

/// A connection that bypasses the proxy against a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The Pod, as `NAMESPACE/NAME`.
    pub pod: String,
    /// The kind.
    pub kind: FindingKind,
    /// Whether the Pod's process accepted the connection; otherwise it connected.
    pub accepted: bool,
    /// The rule that it violates, as in the metrics.
    pub rule: String,
    /// The Pod's end.
    pub local: SocketAddr,
    /// The peer's end.
    pub peer: SocketAddr,
    /// The socket's owner on the host.
    pub uid: u32,
    /// The process, as numbered for the daemon, if it was found.
    pub pid: Option<i32>,
    /// Its name.
    pub process: Option<String>,
    /// The connection is at least this old: milliseconds since its last data or acknowledgement.
    pub age_ms: u64,
    /// Whether this request ended it.
    pub ended: bool,
}

/// Body of `POST /v1/connections`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConnectionsRequest {
    /// Only this Pod, named as in an [`ExplainRequest`](crate::ExplainRequest).
    #[serde(default)]
    pub pod: Option<String>,
}

/// Response to `POST /v1/connections`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connections {
    /// The connections.
    pub connections: Vec<ConnectionView>,
    /// The number of connections that are not listed.
    pub more: u64,
}

/// A TCP connection of a Pod's process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionView {
    /// The Pod, as `NAMESPACE/NAME`.
    pub pod: String,
    /// Whether the process accepted the connection; otherwise it connected.
    pub accepted: bool,
    /// The Pod's end.
    pub local: SocketAddr,
    /// The peer. For a redirected connection: the requested destination; absent if only the socket
    /// knows it.
    pub peer: Option<SocketAddr>,
    /// The path: `sidecar`, `direct`, `bypass` or `proxy_user`.
    pub path: String,
    /// The rule of a connection that is not redirected, as in the metrics; else empty.
    pub rule: String,
    /// Whether sockmap redirection carries it now.
    pub accelerated: bool,
    /// Bytes that the peer acknowledged over TCP. Redirected bytes of an accelerated connection are not
    /// included.
    pub sent: u64,
    /// Bytes received over TCP, likewise.
    pub received: u64,
    /// The socket's owner on the host.
    pub uid: u32,
    /// The process, as numbered for the daemon, if it was found.
    pub pid: Option<i32>,
    /// Its name.
    pub process: Option<String>,
}
