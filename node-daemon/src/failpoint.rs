//! Crashes at defined points, for tests that are built with the feature `failpoints`.
//!
//! Every change of the kernel state or of a record is followed by the failpoint `crash`:
//! `FAILPOINTS='crash=3*off->return'` kills the daemon at the fourth.

use nix::{
    sys::signal::{Signal, raise},
    unistd::pause,
};

/// As `kill -9` from outside.
pub(crate) fn now() -> ! {
    let _ = raise(Signal::SIGKILL);
    loop {
        pause();
    }
}
