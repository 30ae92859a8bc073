//! The daemon's decision on the corpus of Pods, through the built binaries.

use std::{collections::BTreeMap, process::Command};

use serde_json::Value;
use sluice_testbed::workspace;

#[test]
fn daemon_decides_as_each_mesh_does() {
    let output = conformance(&["who", "--json"]).output().unwrap();
    let rows: Vec<Value> = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    let wrong: Vec<_> = rows.iter().filter(|row| row["wrong"] != "").collect();
    assert!(wrong.is_empty() && output.status.success(), "{wrong:#?}");
    let mut meshes = BTreeMap::<_, usize>::new();
    for row in &rows {
        *meshes.entry(row["mesh"].as_str().unwrap()).or_default() += 1;
    }
    assert!(rows.len() >= 150, "{meshes:?}");
    assert_eq!(meshes.len(), 6, "{meshes:?}");
}

fn conformance(arguments: &[&str]) -> Command {
    workspace::command(env!("CARGO_BIN_EXE_sluice-conformance"), arguments)
}
