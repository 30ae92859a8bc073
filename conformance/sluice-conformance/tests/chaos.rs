//! A short round of restarts and crashes under load, through the built binaries.

use std::process::Command;

use serde_json::Value;
use sluice_testbed::workspace;

#[test]
fn chaos_fails_and_bypasses_no_connection() {
    let arguments = ["chaos", "--json", "--restarts", "3", "--kills", "2"];
    let output = conformance(&arguments).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["passed"], true, "{report:#}");
    assert!(output.status.success());
    assert_eq!(report["programs_replaced"]["count"], 3);
    assert_eq!(report["programs_adopted"]["count"], 2);
}

fn conformance(arguments: &[&str]) -> Command {
    workspace::command(env!("CARGO_BIN_EXE_sluice-conformance"), arguments)
}
