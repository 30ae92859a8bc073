//! The reasons to reject a Pod.

use super::MAX_ITEMS;

/// The annotations are not supported.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// The runtime did not pass the annotations.
    #[error("the runtime did not pass the Pod's annotations")]
    NotHandedOver,
    /// Labels select the mesh's Pods, and the manifest is not known.
    #[error("the Pod's labels are not known, which select the mesh's Pods")]
    NoLabels,
    /// An item of a list.
    #[error("annotation {key}: '{item}' is not {allowed}")]
    Item {
        /// The annotation.
        key: &'static str,
        /// The item.
        item: String,
        /// The accepted values.
        allowed: &'static str,
    },
    /// A list that is too long.
    #[error("annotation {key}: {count} items are too many, {MAX_ITEMS} can be listed")]
    TooMany {
        /// The annotation.
        key: &'static str,
        /// Its length.
        count: usize,
    },
    /// An annotation that changes interception in an unsupported way.
    #[error("annotation {key}: '{value}' is not supported, only '{allowed}' is")]
    Unsupported {
        /// The annotation.
        key: String,
        /// Its value.
        value: String,
        /// The supported value.
        allowed: &'static str,
    },
    /// The proxy cannot run in the Pod's user namespace.
    #[error("the proxy's user {uid} has no number outside the Pod's user namespace")]
    NoUser {
        /// The uid inside the Pod.
        uid: u32,
    },
    /// An annotation that holds a whole configuration.
    #[error("annotation {key}: {problem}")]
    Malformed {
        /// The annotation.
        key: &'static str,
        /// The problem.
        problem: String,
    },
    /// An unknown annotation with Sluice's own prefix.
    #[error("annotation {key}: unknown; the nearest known one is {nearest}")]
    NotOwn {
        /// The annotation.
        key: String,
        /// The known annotation.
        nearest: &'static str,
    },
    /// An unknown annotation with a strict prefix.
    #[error("annotation {key}: unknown; its effect would be ignored")]
    NotKnown {
        /// The annotation.
        key: String,
    },
}
