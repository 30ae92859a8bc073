//! The verbs and the versions of the CNI specification.

use std::fmt;

/// Every supported version, oldest first.
pub(crate) const SUPPORTED: [&str; 7] = [
    "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0",
];

/// A CNI verb.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Enroll the Pod.
    Add,
    /// Unenroll the Pod.
    Del,
    /// Compare the Pod with the desired state.
    Check,
    /// Remove every attachment that is not listed.
    Gc,
    /// Report whether an ADD would succeed.
    Status,
    /// Report the supported versions.
    Version,
}

impl fmt::Display for Verb {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        })
    }
}
