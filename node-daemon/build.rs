//! Builds the eBPF programs (`ebpf/programs`) into the object `OUT_DIR/sluice.o`.
//!
//! They need `core` for `bpfel-unknown-none`, which no toolchain ships prebuilt: `-Zbuild-std` compiles
//! it, with a rustc that has the sources of `core`. `SLUICE_BPF_TOOLCHAIN` selects that rustc: `debian`
//! (default) or `nightly` (rustup, with the component `rust-src`).
//!
//! The hash of the object is the environment variable `SLUICE_OBJECT_HASH` of the build: the next daemon
//! compares it instead of the object.
//!
//! `SLUICE_BPF_OBJECT` names a prebuilt object. `cargo check` and rust-analyzer then need no BPF
//! toolchain; an empty file is sufficient for them.

use std::{
    env,
    hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail, ensure};

const TARGET: &str = "bpfel-unknown-none";
const TOOLCHAIN: &str = "SLUICE_BPF_TOOLCHAIN";
const OBJECT: &str = "SLUICE_BPF_OBJECT";

fn main() -> anyhow::Result<()> {
    let here = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let root = here
        .parent()
        .context("the crate stands in the workspace's folder")?;
    println!("cargo::rerun-if-env-changed={OBJECT}");
    println!("cargo::rerun-if-env-changed={TOOLCHAIN}");
    let object = match env::var_os(OBJECT).filter(|path| !path.is_empty()) {
        Some(path) => prebuilt(PathBuf::from(path))?,
        None => build(root)?,
    };
    let out = Path::new(&env::var("OUT_DIR")?).join("sluice.o");
    let bytes =
        std::fs::read(&object).with_context(|| format!("cannot read {}", object.display()))?;
    let hash = BuildHasherDefault::<DefaultHasher>::new().hash_one(&bytes);
    println!("cargo::rustc-env=SLUICE_OBJECT_HASH={hash:016x}");
    std::fs::write(&out, bytes).with_context(|| format!("cannot write {}", out.display()))
}

/// Returns the path of a prebuilt object, and warns if the file is empty.
fn prebuilt(object: PathBuf) -> anyhow::Result<PathBuf> {
    println!("cargo::rerun-if-changed={}", object.display());
    let size = std::fs::metadata(&object)
        .with_context(|| format!("{OBJECT} names {}", object.display()))?
        .len();
    if size == 0 {
        println!("cargo::warning={OBJECT} is empty: sluiced compiles, but loads no programs");
    }
    Ok(object)
}

/// Compiles the programs.
fn build(root: &Path) -> anyhow::Result<PathBuf> {
    for input in [
        "ebpf/programs/src",
        "ebpf/programs/Cargo.toml",
        "ebpf/programs/Cargo.lock",
        "ebpf/sluice-abi/src",
    ] {
        // Relative to this package: a target directory may be copied to another checkout.
        println!("cargo::rerun-if-changed=../{input}");
    }
    // One directory for all profiles, so that `core` is compiled once.
    let built = root.join("target/bpf");
    let status = cargo(root, &root.join("target/tools/bin/bpf-linker"))?
        .arg("--target-dir")
        .arg(&built)
        .status()
        .context("cargo does not start")?;
    ensure!(
        status.success(),
        "the BPF programs do not build: 'make setup' installs the BPF toolchain, and {OBJECT}=FILE \
         uses an object that was built before (docs/development.md)"
    );
    strip(&built.join(TARGET).join("release/sluice"))
}

/// The inner cargo, without the host settings of the outer one.
fn cargo(root: &Path, own_linker: &Path) -> anyhow::Result<Command> {
    let linker = if own_linker.exists() {
        own_linker
    } else {
        Path::new("bpf-linker")
    };
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")));
    let mut flags = vec![
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        format!("-Clinker={}", linker.display()),
        // No program contains a BPF-to-BPF call: before Linux 6.2 the verifier treats every scalar of a
        // program with such calls as precise, and explores too many paths. LLVM leaves its own calls of
        // `memset` and `memmove` in place if it must keep the order of copies.
        "-Clink-arg=--llvm-args=--inline-threshold=1000000".to_owned(),
        "-Clink-arg=--disable-expand-memcpy-in-order".to_owned(),
        // The object has the names of its sources: those of every directory are the same.
        format!("--remap-path-prefix={}=/sluice", root.display()),
    ];
    flags.extend(home.map(|home| format!("--remap-path-prefix={}=/cargo", home.display())));
    let mut cargo = Command::new(env::var("CARGO")?);
    for (name, _) in env::vars() {
        if name.starts_with("RUST") || name.starts_with("CARGO_") && name != "CARGO_HOME" {
            cargo.env_remove(name);
        }
    }
    cargo
        .current_dir(root.join("ebpf/programs"))
        .args(["build", "--release", "--locked", "-Zbuild-std=core", "--target", TARGET])
        .env("RUSTC", rustc()?)
        // Debian's rustc is a stable release; -Zbuild-std is the only unstable feature here.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    Ok(cargo)
}

/// Removes the debug information, from which the linker has made the BTF. Nothing reads it, and the names in it depend on
/// the directory of the sources.
fn strip(object: &Path) -> anyhow::Result<PathBuf> {
    let stripped = object.with_extension("stripped.o");
    let status = Command::new("llvm-objcopy")
        .arg("--strip-debug")
        .args([object, &stripped])
        .status()
        .context("llvm-objcopy does not start: 'make setup' installs it")?;
    ensure!(
        status.success(),
        "llvm-objcopy does not strip {}",
        object.display()
    );
    Ok(stripped)
}

/// Finds a rustc that can compile `core`.
fn rustc() -> anyhow::Result<PathBuf> {
    match env::var(TOOLCHAIN).as_deref() {
        Err(_) | Ok("" | "debian") => Ok("/usr/bin/rustc".into()),
        Ok("nightly") => {
            let which = Command::new("rustup")
                .args(["which", "rustc", "--toolchain", "nightly"])
                .output()?;
            ensure!(which.status.success(), "rustup has no toolchain 'nightly'");
            Ok(String::from_utf8(which.stdout)?.trim().into())
        }
        Ok(other) => bail!("{TOOLCHAIN} is '{other}'; it can be 'debian' or 'nightly'"),
    }
}
