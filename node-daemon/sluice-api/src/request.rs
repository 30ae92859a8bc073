//! The requests of the plugin: attachments to enroll, delete and check.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};

use crate::Manifest;

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
