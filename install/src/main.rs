//! See [`sluice_install`].
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    sluice_install::main()
}
