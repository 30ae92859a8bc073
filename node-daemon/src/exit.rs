//! Exit codes of the commands, as in `docs/reference/cli.md`. clap exits with 2 for a wrong usage.

/// The daemon is not ready. Also every failure without a code of its own.
pub(crate) const NOT_READY: u8 = 1;
/// The daemon cannot be reached.
pub(crate) const UNREACHABLE: u8 = 3;
