//! The fuzz targets of the daemon, and the properties that they check.

use serde::{Serialize, de::DeserializeOwned};
use sluice_api::{AddRequest, Attachment, GcRequest};

use crate::{bpf, config::Config, netns, pods};

/// The body of any request.
///
/// # Panics
///
/// If a parsed request does not survive a round trip.
pub fn request(body: &[u8]) {
    again::<AddRequest>(body);
    again::<Attachment>(body);
    again::<GcRequest>(body);
}

fn again<T: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(body: &[u8]) {
    let Ok(one) = serde_json::from_slice::<T>(body) else {
        return;
    };
    let written = serde_json::to_vec(&one).unwrap_or_default();
    assert_eq!(serde_json::from_slice::<T>(&written).ok(), Some(one));
}

/// A Pod's annotations: the mesh's name, then `KEY=VALUE`, one on each line.
pub fn annotations(text: &str) {
    pods::fuzz::annotations(text);
}

/// A Pod's record.
pub fn record(text: &[u8]) {
    pods::fuzz::record(text);
}

/// The configuration file.
///
/// # Panics
///
/// If the selected mesh has another name.
pub fn configuration(text: &str) {
    let Ok(config) = toml::from_str::<Config>(text) else {
        return;
    };
    if let Ok(chosen) = config.choose_mesh(None) {
        assert_eq!(chosen.name, config.mesh);
    }
}

/// Replies of the kernel over netlink: the first byte selects the protocol.
pub fn netlink(reply: &[u8]) {
    netns::fuzz::netlink(reply);
}

/// The kernel's type information.
pub fn btf(bytes: &[u8]) {
    bpf::fuzz_btf(bytes);
}

/// A sequence of requests to the Pod manager, with real programs, maps and namespaces. Needs root.
///
/// # Panics
///
/// If an answer, or the kernel state afterwards, differs from the model.
pub fn sequence(bytes: &[u8]) {
    pods::fuzz::sequence(bytes);
}
