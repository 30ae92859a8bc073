//! The attempts end as they must, and the threat model names attempts that exist.

use std::{collections::BTreeSet, fs, process::Command};

use serde_json::Value;
use sluice_testbed::workspace;

/// An attempt that passes Sluice fails the run, unless the table gives the reason.
#[test]
fn sluice_stops_every_listed_attempt() {
    let output = conformance(&["attack", "--json"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("no report ({error}): {said}"));
    let attempts = report["attempts"].as_array().unwrap();
    assert!(attempts.len() >= 80, "{}", attempts.len());
    let failed: Vec<_> = attempts.iter().filter(|one| one["holds"] != true).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert_eq!(report["left_behind"], Value::Array(Vec::new()));
    assert!(output.status.success(), "{said}");
}

/// In `docs/security.md`, every word in backquotes after `attack:` is the name of an attempt.
#[test]
fn threat_model_names_existing_attempts() {
    let root = workspace::root();
    let text = fs::read_to_string(root.join("docs/security.md")).unwrap();
    let output = conformance(&["attack", "--list"]).output().unwrap();
    let list = String::from_utf8(output.stdout).unwrap();
    let known: BTreeSet<&str> = list
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    let named: BTreeSet<&str> = text
        .split("`attack:")
        .skip(1)
        .filter_map(|rest| rest.split('`').next())
        .collect();
    assert!(named.len() >= 20, "only {} attempts are named", named.len());
    let unknown: Vec<_> = named.difference(&known).collect();
    assert!(unknown.is_empty(), "no such attempts: {unknown:?}");
}

fn conformance(arguments: &[&str]) -> Command {
    workspace::command(env!("CARGO_BIN_EXE_sluice-conformance"), arguments)
}
