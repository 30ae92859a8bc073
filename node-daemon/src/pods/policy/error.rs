//! Why a Pod is refused.

use super::MAX_ITEMS;

/// The annotations cannot be followed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// The runtime did not hand them over.
    #[error("the runtime did not pass the Pod's annotations")]
    NotHandedOver,
    /// An item of a list.
    #[error("annotation {key}: '{item}' is not {allowed}")]
    Item {
        /// The annotation.
        key: &'static str,
        /// The item.
        item: String,
        /// What it may be.
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
    /// An annotation that would change interception in a way that is not built.
    #[error("annotation {key}: '{value}' is not supported, only '{allowed}' is")]
    Unsupported {
        /// The annotation.
        key: String,
        /// Its value.
        value: String,
        /// What it may be.
        allowed: &'static str,
    },
    /// The Pod has a user namespace in which the proxy cannot run.
    #[error("the proxy's user {uid} has no number outside the Pod's user namespace")]
    NoUser {
        /// As the Pod numbers it.
        uid: u32,
    },
    /// An annotation that holds a whole configuration.
    #[error("annotation {key}: {problem}")]
    Malformed {
        /// The annotation.
        key: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// An annotation that nobody here knows, among those that are about traffic.
    #[error("annotation {key}: unknown; its effect would be ignored")]
    NotKnown {
        /// The annotation.
        key: String,
    },
}
