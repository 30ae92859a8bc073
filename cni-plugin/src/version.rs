//! The versions of the CNI spec, with their result forms and verbs.

use crate::{
    Error,
    spec::{SUPPORTED, Verb},
};

/// The version for a missing or empty `cniVersion` (libcni's `ConfigDecoder`).
pub(crate) const UNSTATED: &str = SUPPORTED[0];

/// The form of a result. libcni rejects a result in the form of another version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// `ip4`, `ip6` and `dns`; no interface is named (0.1.0, 0.2.0).
    TwoAddresses,
    /// `interfaces` and `ips`, each with its family (0.3.0 to 0.4.0).
    Families,
    /// `interfaces` and `ips` (from 1.0.0 on).
    Current,
}

impl Form {
    /// The form for a version, if the version is supported.
    pub(crate) fn of(version: &str) -> Option<Self> {
        match version {
            "0.1.0" | "0.2.0" => Some(Self::TwoAddresses),
            "0.3.0" | "0.3.1" | "0.4.0" => Some(Self::Families),
            "1.0.0" | "1.1.0" => Some(Self::Current),
            _ => None,
        }
    }
}

/// Rejects an unsupported version, and a verb that the version lacks.
pub(crate) fn check(version: &str, verb: Verb) -> Result<(), Error> {
    let since = match verb {
        Verb::Check => "0.4.0",
        Verb::Gc | Verb::Status => "1.1.0",
        Verb::Add | Verb::Del | Verb::Version => SUPPORTED[0],
    };
    let position = |wanted: &str| SUPPORTED.iter().position(|one| *one == wanted);
    match position(version) {
        None => Err(Error::Version {
            version: version.to_owned(),
        }),
        Some(at) if Some(at) < position(since) => Err(Error::VerbTooNew {
            verb,
            since,
            version: version.to_owned(),
        }),
        Some(_) => Ok(()),
    }
}
