//! The part of [`crate::fuzz`] that is about Pods.

use std::sync::LazyLock;

use super::{Acceleration, Mesh, Rules, WhenUnknown, plan, policy, store};
use policy::{Inbound, Verdict};

pub(crate) fn annotations(text: &str) {
    // A mesh is never freed.
    static MESHES: LazyLock<[&Mesh; 4]> =
        LazyLock::new(|| ["istio", "linkerd", "kuma", "osm"].map(Mesh::preset));
    let mut lines = text.split('\n');
    let first = lines.next().unwrap_or_default();
    let rules = Rules {
        mesh: MESHES[first.len() % MESHES.len()],
        when_unknown: WhenUnknown::default(),
        acceleration: Acceleration::Off,
    };
    let mut annotations = policy::injected(rules.mesh);
    let pairs = lines.filter_map(|line| line.split_once('='));
    annotations.extend(pairs.map(|(key, value)| (key.to_owned(), value.to_owned())));
    let Ok(Verdict::Mesh(settings)) = policy::decide(&rules, Some(&annotations)) else {
        return;
    };
    let (Inbound::AllBut(inbound) | Inbound::Only(inbound)) = &settings.inbound;
    for ports in [
        inbound,
        &settings.excluded_outbound,
        &settings.included_outbound,
    ] {
        assert!(ports.iter().all(|(low, high)| low <= high));
    }
    let held = plan::wanted(7, &settings, &[], true);
    assert!(held.steered && held.process.is_some());
}

pub(crate) fn record(text: &[u8]) {
    let Ok(record) = store::decode(text) else {
        return;
    };
    let written = serde_json::to_vec(&record).unwrap_or_default();
    assert_eq!(store::decode(&written).ok(), Some(record));
}

pub(crate) use super::owner::fuzz::sequence;
