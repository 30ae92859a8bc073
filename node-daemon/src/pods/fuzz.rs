//! The Pod targets of [`crate::fuzz`].

use std::sync::LazyLock;

use super::{Acceleration, Mesh, MissingAnnotations, NodePolicy, plan, policy, store};
use policy::{Inbound, Verdict};
use store::Changes;

pub(crate) fn annotations(text: &str) {
    // A mesh is never freed.
    static MESHES: LazyLock<[&Mesh; 4]> =
        LazyLock::new(|| ["istio", "linkerd", "kuma", "osm"].map(Mesh::preset));
    let mut lines = text.split('\n');
    let first = lines.next().unwrap_or_default();
    let node_policy = NodePolicy {
        mesh: MESHES[first.len() % MESHES.len()],
        missing_annotations: MissingAnnotations::default(),
        acceleration: Acceleration::Off,
    };
    let mut annotations = policy::minimal_annotations(node_policy.mesh);
    let pairs = lines.filter_map(|line| line.split_once('='));
    annotations.extend(pairs.map(|(key, value)| (key.to_owned(), value.to_owned())));
    let Ok(Verdict::Intercept(policy)) = policy::decide(&node_policy, Some(&annotations)) else {
        return;
    };
    let (Inbound::Exclude(inbound) | Inbound::Include(inbound)) = &policy.inbound;
    for ports in [
        inbound,
        &policy.excluded_outbound,
        &policy.included_outbound,
    ] {
        assert!(ports.iter().all(|(low, high)| low <= high));
    }
    let state = plan::desired(7, &policy.provisional(), &[], Changes::PASSTHROUGH);
    assert!(state.sk_lookup && state.netns_entry.is_some());
}

pub(crate) fn record(text: &[u8]) {
    let Ok(record) = store::decode(text) else {
        return;
    };
    let written = serde_json::to_vec(&record).unwrap_or_default();
    assert_eq!(store::decode(&written).ok(), Some(record));
}

pub(crate) use super::manager::fuzz::sequence;
