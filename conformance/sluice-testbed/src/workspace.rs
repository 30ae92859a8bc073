//! The checkout and what `make` built in it, for tests that run built binaries.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// The variables by which `make` names the binaries, and the default paths.
const BINARIES: [(&str, &str); 5] = [
    (
        "SLUICE_CNI",
        "target/x86_64-unknown-linux-musl/release/sluice-cni",
    ),
    ("SLUICED", "target/release/sluiced"),
    ("ENVOY", "target/tools/bin/envoy"),
    ("CNITOOL", "target/tools/bin/cnitool"),
    ("CNI_PLUGINS", "/usr/lib/cni"),
];

/// The root of the checkout.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

/// A command that runs a program in the root of the checkout, with the path of each binary under test.
///
/// # Panics
///
/// If one of them was not built.
pub fn command(program: &str, arguments: &[&str]) -> Command {
    let root = root();
    let mut command = Command::new(program);
    command.current_dir(&root).args(arguments);
    for (variable, default) in BINARIES {
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
