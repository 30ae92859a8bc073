//! A short round of restarts and crashes under load, through the built binaries.
#![expect(clippy::unwrap_used, reason = "tests say what they expect by failing")]

mod binaries;

use serde_json::Value;

#[test]
fn traffic_neither_fails_nor_goes_past_the_proxies_while_the_daemon_is_restarted_and_killed() {
    let arguments = ["chaos", "--json", "--restarts", "3", "--kills", "2"];
    let output = binaries::conformance(&arguments).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["passed"], true, "{report:#}");
    assert!(output.status.success());
    assert_eq!(report["programs_replaced"], 5);
}
