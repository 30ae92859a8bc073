//! Tests of the systemd unit.

use std::{fs, path::Path, process::Command};

#[test]
fn systemd_accepts_the_unit() {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../install/systemd/sluiced.service");
    let text = fs::read_to_string(unit).unwrap();
    assert!(text.contains("ExecStart=/usr/local/bin/sluiced run\n"));
    // systemd also checks that the program exists.
    let text = text.replace("/usr/local/bin/sluiced", env!("CARGO_BIN_EXE_sluiced"));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("sluiced.service");
    fs::write(&file, text).unwrap();
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .arg(&file)
        .output()
        .expect("systemd-analyze");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let of_unit: Vec<_> = said
        .lines()
        .filter(|line| line.contains("sluiced"))
        .collect();
    assert!(output.status.success() && of_unit.is_empty(), "{said}");
}
