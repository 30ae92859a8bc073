//! Remarks for operators: conditions that may need an action.

use std::io;

use crate::{
    conf_files::{Files, Plugins},
    conflist, plan, select,
    spec::Mode,
};

/// Plugins of meshes that redirect a Pod's traffic themselves.
const MESHES: [&str; 4] = ["istio-cni", "linkerd-cni", "kuma-cni", "consul-cni"];

/// Files that some or all runtimes do not use.
pub(crate) fn on_choice(
    files: &Files,
    plugins: &Plugins,
    unreadable: &[(String, io::Error)],
) -> Vec<String> {
    let selection = select::select(files, plugins);
    let unusable = selection.unusable.iter().map(|(name, reason)| {
        format!("{name} is skipped, as kubelet does, but containerd stops at it: {reason}")
    });
    let unread =
        (unreadable.iter()).map(|(name, reason)| format!("{name} cannot be read: {reason}"));
    let doubts = selection
        .doubts
        .iter()
        .map(|(name, doubt)| format!("{name}: {doubt}"));
    // A single candidate whose plugins are in a folder is no ambiguity.
    let matter = selection.candidates.len() > 1;
    unusable
        .chain(unread)
        .chain(doubts.filter(|_| matter))
        .collect()
}

/// Remarks on the networks that get the entry.
pub(crate) fn on_install(files: &Files, plugins: &Plugins, mode: Mode) -> Vec<String> {
    let candidates = select::select(files, plugins).candidates;
    let mut remarks = Vec::new();
    if candidates.is_empty() {
        remarks.push(
            "there is no network configuration yet: 'sluice-install run' adds the entry when one \
             appears"
                .to_owned(),
        );
    }
    if mode == Mode::Standalone && plan::has_multus(files) {
        remarks.push(
            "the mode 'standalone' does not support Multus, which would use the copy as a network and \
             call itself: the entry is placed as in mode 'chained'"
                .to_owned(),
        );
    }
    for name in candidates {
        remarks.extend(conflicts(name, &files[name]));
        if conflist::is_delegating(&files[name]) {
            remarks.push(format!(
                "{name}: Multus passes no annotations to the networks that it delegates to, so the \
                 daemon asks the API server for them"
            ));
        }
    }
    remarks
}

/// Plugins in a network that redirect the same Pods.
pub(crate) fn conflicts(name: &str, text: &str) -> Vec<String> {
    let mut kinds = conflist::all_kinds(text);
    kinds.retain(|kind| MESHES.contains(&&**kind));
    kinds.sort();
    kinds.dedup();
    let remark = |kind: String| {
        format!(
            "{name} also runs {kind}, which redirects the same Pods by rules: a Pod must have one \
             of the two, so remove {kind} from the cluster or keep its Pods out of Sluice's mesh"
        )
    };
    kinds.into_iter().map(remark).collect()
}

/// Remarks on the removal of files that Sluice created.
pub(crate) fn on_removal(current: &Files, pristine: &Files) -> Vec<String> {
    let foreign = plan::with_foreign_plugins(current, pristine).into_iter();
    let remark = |(name, kinds)| {
        format!(
            "{name} is removed, with the plugins that others added to it: {kinds}; their installers \
             must add them to the network's own file"
        )
    };
    foreign.map(remark).collect()
}
