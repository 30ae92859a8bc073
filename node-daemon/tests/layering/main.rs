//! Tests of the architecture's layers: the modules that may use certain interfaces, and the direction
//! of the dependencies between modules.
#![expect(clippy::expect_used, reason = "tests say what they expect by failing")]

mod module_graph;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use module_graph::ModuleGraph;

/// Identifiers, and the only directory whose source may contain them.
const LAYERS: [(&[&str], &str); 4] = [
    (&["kube::Client", "k8s_openapi::"], "kube"),
    (&["aya::"], "bpf"),
    (&["setns(", "unshare(", "rtnetlink::"], "netns"),
    (&["hyper::server", "UnixListener"], "api"),
];

/// Every crate, from the root of the repository.
const CRATES: [&str; 12] = [
    "ebpf/sluice-abi",
    "ebpf/programs",
    "node-daemon/sluice-api",
    "node-daemon",
    "cni-plugin",
    "install",
    "node-daemon/kubectl-sluice",
    "conformance/sluice-testbed",
    "conformance/sluice-lab",
    "conformance/sluice-conformance",
    "conformance/sluice-bench",
    "conformance/sluice-e2e",
];

/// All source files below a directory except tests.
fn sources(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.file_stem().is_some_and(|name| name == "tests") {
            continue;
        }
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            found.push(path);
        }
    }
    found
}

#[test]
fn restricted_apis_are_used_in_one_module() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = sources(&root);
    for (words, owner) in LAYERS {
        let owned = root.join(owner);
        let mut count = 0;
        for file in &files {
            let text = fs::read_to_string(file).expect("a source file");
            let used = words.iter().find(|word| text.contains(**word));
            count += usize::from(used.is_some());
            assert!(
                used.is_none() || file.starts_with(&owned),
                "{} uses {used:?}, which belongs to {owner}",
                file.display()
            );
        }
        assert!(count > 0, "no module uses {words:?}");
    }
}

#[test]
fn every_workspace_member_is_checked() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
    let text = fs::read_to_string(manifest).expect("the manifest of the workspace");
    let (_, rest) = text.split_once("members = [").expect("a list of members");
    let (list, _) = rest.split_once(']').expect("its end");
    let members = list.split('"').skip(1).step_by(2);
    // It has no code.
    for member in members.filter(|name| *name != "workspace-hack") {
        assert!(CRATES.contains(&member), "{member} is not checked");
    }
}

/// A cycle that contains `start`, if there is one.
fn cycle(edges: &BTreeMap<String, BTreeSet<String>>, start: &str) -> Option<Vec<String>> {
    let mut visited = BTreeSet::new();
    let mut open = vec![vec![start.to_owned()]];
    while let Some(path) = open.pop() {
        for next in path
            .last()
            .and_then(|last| edges.get(last))
            .into_iter()
            .flatten()
        {
            let longer = [path.as_slice(), std::slice::from_ref(next)].concat();
            if next == start {
                return Some(longer);
            }
            if visited.insert(next.clone()) {
                open.push(longer);
            }
        }
    }
    None
}

#[test]
fn module_dependencies_have_no_cycle() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut cycles = Vec::new();
    let mut dependencies = 0;
    for name in CRATES {
        let graph = ModuleGraph::read(&repository.join(name).join("src"));
        let siblings = graph.sibling_edges();
        for (parent, edges) in &siblings {
            dependencies += edges.values().map(BTreeSet::len).sum::<usize>();
            let mut found: Vec<_> = edges.keys().filter_map(|one| cycle(edges, one)).collect();
            found.sort_by_key(Vec::len);
            if !found.is_empty() {
                cycles.push(format!("{name} {}: {found:?}", parent.join("::")));
            }
        }
    }
    assert!(
        dependencies > 100,
        "the scan finds {dependencies} dependencies"
    );
    assert!(cycles.is_empty(), "module cycles:\n{}", cycles.join("\n"));
}
