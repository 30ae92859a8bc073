//! Questions about connections: the explanation of a decision, and the decisions as they are made.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::PodName;

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
