//! Situations on nodes, each a directory below `tests/golden`:
//!
//! | name | meaning |
//! |---|---|
//! | `before` | the configuration directory before the installation |
//! | `after` | the same after it; as `before` if there is none |
//! | `restored` | the same after the uninstall; as `before` if there is none |
//! | `arguments` | of the installation, beside the paths |
//! | `expected_output` | parts of what the installer must say, one a line |
//! | `fails` | the installation is refused |
//! | `network` | the network that a runtime uses; see `layouts` |

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::host::{Host, copy};

pub(crate) fn situations() -> Vec<PathBuf> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut situations: Vec<_> = fs::read_dir(golden)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    situations.sort();
    situations
}

/// A host in the situation's state of this name.
pub(crate) fn host(situation: &Path, state: &str) -> Host {
    let host = Host::new();
    let named = situation.join(state);
    let state = if named.exists() {
        named
    } else {
        situation.join("before")
    };
    copy(&state, &host.conf);
    host
}

pub(crate) fn text(situation: &Path, name: &str) -> String {
    fs::read_to_string(situation.join(name)).unwrap_or_default()
}

/// The expected content of the directory after the installation.
fn compare(host: &Host, situation: &Path) {
    let expected = self::host(situation, "after").tree();
    assert_eq!(host.tree(), expected, "{}", situation.display());
}

fn check(situation: &Path) {
    let name = situation.file_name().unwrap().display();
    let host = host(situation, "before");
    let before = host.tree();
    let arguments = text(situation, "arguments");
    let arguments: Vec<&str> = arguments.split_whitespace().collect();

    let installed = host.run("install", &arguments);
    let said = String::from_utf8(installed.stderr).unwrap();
    let is_refused = situation.join("fails").exists();
    assert_eq!(installed.status.success(), !is_refused, "{name}: {said}");
    for part in text(situation, "expected_output").lines() {
        assert!(said.contains(part), "{name} does not say '{part}': {said}");
    }
    compare(&host, situation);

    // A second installation finds nothing to do.
    host.run("install", &arguments);
    compare(&host, situation);

    host.succeed("uninstall");
    if situation.join("restored").exists() {
        host.assert_clean(&self::host(situation, "restored").tree());
    } else {
        host.assert_clean(&before);
    }
}

#[test]
fn golden_directories_are_restored_to_the_byte() {
    let situations = situations();
    assert!(situations.len() > 75, "{}", situations.len());
    for situation in situations {
        check(&situation);
    }
}
