//! `sluice-cni`: the executable of the CNI plugin.
#![forbid(unsafe_code)]

use std::{
    io::{self, Write as _},
    process::ExitCode,
    time::Instant,
};

use sluice_cni::{Invocation, describe, read_stdin, run};

fn main() -> ExitCode {
    if std::env::args_os().len() > 1 || !Invocation::requested() {
        eprint!("{}", describe());
        return ExitCode::SUCCESS;
    }
    let started = Instant::now();
    let output = run(
        &Invocation::from_environment(),
        read_stdin(started),
        started,
    );
    if let Err(error) = print(&output.stdout) {
        let _unwritten = writeln!(
            io::stderr(),
            "sluice-cni: cannot write to standard output: {error}"
        );
        return ExitCode::FAILURE;
    }
    if output.succeeded {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Without output, the runtime has no result.
fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}
