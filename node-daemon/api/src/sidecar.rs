//! What a Pod's annotations tell while the daemon is away.

use std::collections::BTreeMap;

/// The marks of the meshes that the daemon knows without being told.
const MARKS: [&str; 5] = [
    "sidecar.istio.io/status",
    "linkerd.io/proxy-version",
    "kuma.io/sidecar-injected",
    "openservicemesh.io/sidecar-injection",
    "ambient.istio.io/redirection",
];

/// Whether no known mesh has put a sidecar into a Pod. Which mesh the node has, and whether a
/// sidecar is switched off, only the daemon knows: a mark is enough to wait for it.
#[must_use]
pub fn surely_without_sidecar(annotations: &BTreeMap<String, String>) -> bool {
    !MARKS.iter().any(|mark| annotations.contains_key(*mark))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_of_any_mesh_leaves_a_doubt() {
        assert!(surely_without_sidecar(&BTreeMap::new()));
        for mark in MARKS {
            let annotations = BTreeMap::from([(mark.to_owned(), String::new())]);
            assert!(!surely_without_sidecar(&annotations), "{mark}");
        }
    }
}
