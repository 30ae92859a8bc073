//! `sluice-cni`: the CNI plugin, as the runtime calls it.
#![forbid(unsafe_code)]

use std::{
    io::{self, Read as _, Write as _},
    process::ExitCode,
};

use cni_plugin::{Invocation, MAX_STDIN, describe, respond};

fn main() -> ExitCode {
    if std::env::args_os().len() > 1 || !Invocation::requested() {
        eprint!("{}", describe());
        return ExitCode::SUCCESS;
    }
    let mut stdin = Vec::new();
    // One byte more than allowed tells "too long" from "just so long".
    let read = io::stdin()
        .lock()
        .take(MAX_STDIN + 1)
        .read_to_end(&mut stdin);
    let response = respond(&Invocation::from_environment(), read.map(|_| stdin));
    let printed = io::stdout().lock().write_all(response.stdout.as_bytes());
    if response.succeeded && printed.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
