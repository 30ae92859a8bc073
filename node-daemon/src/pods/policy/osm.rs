//! Open Service Mesh's marks: the injection annotation of a Pod or of its Kubernetes namespace, which
//! has several spellings, and the label that its injector adds.

use super::{Error, subject::PodAnnotations};

const INJECTION: &str = "openservicemesh.io/sidecar-injection";

/// The label of an injected Pod.
const PROXY_UUID: &str = "osm-proxy-uuid";

/// Whether the injector changed the Pod: without an annotation of its own, that of its Kubernetes
/// namespace selected it.
pub(super) fn is_injected(pod: &PodAnnotations<'_>) -> bool {
    pod.label(PROXY_UUID).is_some()
}

/// Why a Pod is not intercepted, if so.
pub(super) fn not_intercepted(pod: &PodAnnotations<'_>) -> Result<Option<&'static str>, Error> {
    let Some(value) = pod.annotations.get(INJECTION) else {
        return Ok(None);
    };
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
