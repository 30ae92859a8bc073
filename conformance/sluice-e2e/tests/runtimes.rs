//! Real container runtimes call the built plugin.

use sluice_testbed::workspace;

/// containerd's CRI, ctr and podman, from Debian's packages.
#[test]
fn real_runtimes_call_the_plugin() {
    let mut runtimes = workspace::command(env!("CARGO_BIN_EXE_sluice-e2e"), &["runtimes"]);
    let output = runtimes.output().unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
