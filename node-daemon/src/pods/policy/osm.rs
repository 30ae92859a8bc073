//! Open Service Mesh's injection annotation, which has several spellings.

use super::{Error, subject::PodAnnotations};

const INJECTION: &str = "openservicemesh.io/sidecar-injection";

/// Why a Pod is not intercepted, if so.
pub(super) fn not_intercepted(pod: &PodAnnotations<'_>) -> Result<Option<&'static str>, Error> {
    let value = pod.annotation(INJECTION).unwrap_or_default();
    match &*value.to_ascii_lowercase() {
        "enabled" | "yes" | "true" => Ok(None),
        "disabled" | "no" | "false" => Ok(Some("interception disabled by annotation")),
        _ => Err(Error::Item {
            key: INJECTION,
            item: value.to_owned(),
            allowed: "enabled, yes or true, nor disabled, no or false",
        }),
    }
}
