//! The list of Pods, and the Pods that were refused.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{Attachment, PodName};

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
    /// A [`crate::code`].
    pub code: u32,
    /// The reason, as in the metric `sluice_refused_adds_total`.
    pub reason: String,
    /// The error, in one line.
    pub message: String,
    /// Its cause.
    pub details: String,
    /// The remedy.
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
