//! The suite is right about the control and the reference, and Sluice does as the reference.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests say what they expect by failing"
)]

use std::process::{Command, Output};

use serde_json::Value;
use sluice_testbed::workspace;

fn suite(arguments: &[&str]) -> (Value, Output) {
    let output = conformance(arguments).output().unwrap();
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!(
            "no report ({error}): {}",
            String::from_utf8_lossy(&output.stderr)
        )
    });
    (report, output)
}

/// The control must fail what needs interception, the reference and Sluice must pass everything; of
/// three seeds no connection may differ from the reference unless that is meant.
#[test]
fn sluice_matches_the_rules() {
    let seeds = ["--seed", "1", "--seed", "2", "--seed", "3"];
    let (report, output) = suite(&[&["run", "--format", "json"], &seeds[..]].concat());
    for subject in ["none", "iptables", "sluice"] {
        let outcomes = report["backends"][subject].as_array().unwrap();
        let wrong = |outcome: &&Value| outcome["as_it_should"] == false;
        let wrong: Vec<_> = outcomes.iter().filter(wrong).collect();
        assert!(wrong.is_empty(), "{subject}: {wrong:#?}");
    }
    let unknown = |one: &&Value| one["meant"].is_null();
    let listed: Vec<_> = report["listed"]
        .as_array()
        .unwrap()
        .iter()
        .filter(unknown)
        .collect();
    assert!(listed.is_empty(), "listed cases differ: {listed:#?}");
    for generated in report["generated"].as_array().unwrap() {
        let (seed, shrunk) = (&generated["seed"], generated["shrunk"].as_array().unwrap());
        assert!(
            shrunk.is_empty(),
            "seed {seed} shows differences: {shrunk:#?}"
        );
    }
    assert_eq!(report["left_behind"], Value::Array(Vec::new()));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

/// Else a difference between two subjects would mean nothing.
#[test]
fn the_reference_does_not_differ_from_itself() {
    let (report, output) = suite(&[
        "diff", "--other", "iptables", "--case", "inbound", "--cases", "900", "--seed", "4",
        "--format", "json",
    ]);
    let connections = &report["generated"][0]["comparison"]["connections"];
    assert!(connections.as_u64().unwrap() >= 900, "{connections}");
    assert!(output.status.success(), "{report:#}");
}

fn conformance(arguments: &[&str]) -> Command {
    workspace::command(env!("CARGO_BIN_EXE_sluice-conformance"), arguments)
}

/// Programs at the sockets that translate Services must change neither a decision nor what is seen,
/// whenever and wherever they are attached.
#[test]
fn socket_balancer_changes_no_decision() {
    for (order, place) in [("before", "root"), ("after", "root"), ("restart", "child")] {
        let (report, output) = suite(&[
            "diff",
            "--balancer",
            order,
            "--balancer-at",
            place,
            "--case",
            "services",
            "--cases",
            "300",
            "--seed",
            "5",
            "--format",
            "json",
        ]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{order} {place}: {said}{report:#}");
    }
}
