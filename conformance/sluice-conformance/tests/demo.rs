//! The demo's rows as assertions, through the built binaries.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests say what they expect by failing"
)]

use std::process::Command;

use serde_json::Value;
use sluice_testbed::workspace;

fn demo(subject: &str) -> Value {
    let arguments = ["demo", "--json", "--backend", subject];
    let output = conformance(&arguments).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!(
            "no report ({error}): {}",
            String::from_utf8_lossy(&output.stderr)
        )
    });
    assert_eq!(
        report["passed"],
        output.status.success(),
        "the exit status shows the outcome"
    );
    report
}

fn rows(report: &Value) -> &[Value] {
    report["rows"].as_array().unwrap()
}

#[test]
fn demo_passes_and_leaves_nothing() {
    let report = demo("sluice");
    assert_eq!(report["failure"], Value::Null);
    let failed: Vec<_> = rows(&report)
        .iter()
        .filter(|row| row["passed"] != true)
        .collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert_eq!(report["left_behind"], Value::Array(Vec::new()));
    assert!(
        report["bpf_objects"].as_u64().unwrap() > 0,
        "the programs were not even seen"
    );
    assert_eq!(report["passed"], true, "{report:#}");
}

#[test]
fn the_rules_of_a_sidecar_fulfil_the_same_rows() {
    let report = demo("iptables");
    let failed: Vec<_> = rows(&report)
        .iter()
        .filter(|row| row["passed"] != true)
        .collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert_eq!(report["passed"], true, "{report:#}");
}

#[test]
fn without_sluice_the_same_rows_fail() {
    let report = demo("none");
    assert_eq!(report["failure"], Value::Null);
    let passed: Vec<_> = rows(&report)
        .iter()
        .filter(|row| row["passed"] == true)
        .map(|row| row["name"].as_str().unwrap())
        .collect();
    // A connection that the rules do not redirect is the same without them.
    let untouched = |name: &&str| {
        ["by the application", "status", "node → not meshed"]
            .iter()
            .any(|one| name.contains(one))
    };
    assert!(
        passed.iter().all(untouched),
        "passed without interception: {passed:?}"
    );
    assert_eq!(report["left_behind"], Value::Array(Vec::new()));
}

fn conformance(arguments: &[&str]) -> Command {
    workspace::command(env!("CARGO_BIN_EXE_sluice-conformance"), arguments)
}
