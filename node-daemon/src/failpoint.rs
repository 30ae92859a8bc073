//! Crashes at chosen moments, for tests that are built with the feature `failpoints`.
//!
//! Every moment after which the kernel or a record is another than before passes the one
//! failpoint `crash`: `FAILPOINTS='crash=3*off->return'` kills the daemon at the fourth.

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
