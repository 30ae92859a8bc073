//! Waits for an effect of the daemon, of the kernel or of another process.

use std::{
    fmt::Display,
    thread::sleep,
    time::{Duration, Instant},
};

/// Less than the daemon's interval between two repairs, which would hide that it missed an event.
const LIMIT: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(10);

/// Waits until a condition holds. Fails with `state` if it does not in time.
#[track_caller]
pub(crate) fn until<S: Display>(condition: impl FnMut() -> bool, state: impl FnOnce() -> S) {
    until_within(LIMIT, condition, state);
}

/// The same, with a limit.
#[track_caller]
pub(crate) fn until_within<S: Display>(
    limit: Duration,
    mut condition: impl FnMut() -> bool,
    state: impl FnOnce() -> S,
) {
    let end = Instant::now() + limit;
    while !condition() {
        assert!(Instant::now() < end, "{}", state());
        sleep(PAUSE);
    }
}
