//! Exit codes of the commands, as in `docs/reference/cli.md`. clap exits with 2 for a wrong usage.

use std::process::ExitCode;

use crate::client::Unreachable;

/// The daemon is not ready. Also every failure without a code of its own.
pub(crate) const NOT_READY: u8 = 1;
/// The daemon cannot be reached.
const UNREACHABLE: u8 = 3;

/// The code for an error.
pub(crate) fn of(error: &anyhow::Error) -> ExitCode {
    let unreachable = error.downcast_ref::<Unreachable>().is_some();
    ExitCode::from(if unreachable { UNREACHABLE } else { NOT_READY })
}
