//! Crashes at chosen moments, for tests that are built with the feature `failpoints`.
//!
//! The one failpoint `crash` is passed before and after everything that changes the disk:
//! `FAILPOINTS='crash=3*off->return'` kills the installer at the fourth.

use fail::fail_point;

/// A moment at which the power could fail.
pub(crate) fn hit() {
    fail_point!("crash", |_| {
        let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
    });
}
