//! Versions of the CNI spec, and what came with each.

use crate::{Error, error::Verb};

/// Every version that the plugin speaks, oldest first.
pub(crate) const SUPPORTED: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// Refuses a version that is not supported, and a verb that the version does not have.
pub(crate) fn check(version: &str, verb: Verb) -> Result<(), Error> {
    let since = match verb {
        Verb::Check => "0.4.0",
        Verb::Gc | Verb::Status => "1.1.0",
        Verb::Add | Verb::Del | Verb::Version => SUPPORTED[0],
    };
    let place = |wanted: &str| SUPPORTED.iter().position(|one| *one == wanted);
    match place(version) {
        None => Err(Error::Version {
            version: version.to_owned(),
        }),
        Some(at) if Some(at) < place(since) => Err(Error::VerbTooNew {
            verb,
            since,
            version: version.to_owned(),
        }),
        Some(_) => Ok(()),
    }
}
