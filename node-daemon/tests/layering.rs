//! Test of the architecture's layers: the modules that may use certain interfaces.
#![expect(clippy::expect_used, reason = "tests say what they expect by failing")]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Identifiers, and the only directory whose source may contain them.
const LAYERS: [(&[&str], &str); 4] = [
    (&["kube::Client", "k8s_openapi::"], "kube"),
    (&["aya::"], "bpf"),
    (&["setns(", "unshare(", "rtnetlink::"], "netns"),
    (&["hyper::server", "UnixListener"], "api"),
];

/// All source files except tests.
fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.file_stem().is_some_and(|name| name == "tests") {
            continue;
        }
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn restricted_apis_are_used_in_one_module() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
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
        assert!(count > 0, "nobody uses {words:?}");
    }
}
