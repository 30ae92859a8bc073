//! Whether a Pod's annotations say that it carries a sidecar.
//!
//! Both sides need it: the daemon to decide, the plugin to let Pods without a sidecar start
//! while the daemon is away.

use std::collections::BTreeMap;

/// What the annotations say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sidecar {
    /// A sidecar was injected.
    Injected,
    /// No sidecar was injected.
    Absent,
    /// One was injected, or is asked for, but the Pod opts out.
    SwitchedOff,
}

/// Istio's injector writes this once it has added the sidecar.
pub const INJECTED: &str = "sidecar.istio.io/status";
/// The Pod's own wish; `false` switches the mesh off.
const INJECT: &str = "sidecar.istio.io/inject";

/// Reads the annotations that tell whether a sidecar is there.
#[must_use]
pub fn sidecar(annotations: &BTreeMap<String, String>) -> Sidecar {
    let off = annotations
        .get(INJECT)
        .is_some_and(|wish| wish.trim() == "false");
    match (annotations.contains_key(INJECTED), off) {
        (_, true) => Sidecar::SwitchedOff,
        (true, false) => Sidecar::Injected,
        (false, false) => Sidecar::Absent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Sidecar {
        sidecar(
            &pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
        )
    }

    #[test]
    fn a_pod_is_meshed_when_it_was_injected_and_not_switched_off() {
        assert_eq!(of(&[(INJECTED, "{}")]), Sidecar::Injected);
        assert_eq!(of(&[(INJECTED, "{}"), (INJECT, "true")]), Sidecar::Injected);
        assert_eq!(
            of(&[(INJECTED, "{}"), (INJECT, " false ")]),
            Sidecar::SwitchedOff
        );
        assert_eq!(of(&[(INJECT, "true")]), Sidecar::Absent);
        assert_eq!(of(&[]), Sidecar::Absent);
    }
}
