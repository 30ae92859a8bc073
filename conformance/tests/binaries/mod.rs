//! The suite with the built binaries, as `make` names them.

use std::{path::Path, process::Command};

const NEEDED: [(&str, &str); 5] = [
    (
        "SLUICE_CNI",
        "target/x86_64-unknown-linux-musl/release/sluice-cni",
    ),
    ("SLUICED", "target/release/sluiced"),
    ("ENVOY", "target/tools/bin/envoy"),
    ("CNITOOL", "target/tools/bin/cnitool"),
    ("CNI_PLUGINS", "/usr/lib/cni"),
];

/// `sluice-conformance` with these arguments.
pub(crate) fn conformance(arguments: &[&str]) -> Command {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluice-conformance"));
    command.current_dir(root).args(arguments);
    for (variable, default) in NEEDED {
        let path = std::env::var_os(variable).map_or_else(|| root.join(default), Into::into);
        assert!(
            path.exists(),
            "{} is missing: run make build",
            path.display()
        );
        command.env(variable, path);
    }
    command
}
