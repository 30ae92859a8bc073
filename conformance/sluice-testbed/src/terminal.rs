//! The output of a command at a terminal: colours, and the current step.

use std::{
    io::{IsTerminal as _, stderr},
    sync::mpsc::{RecvTimeoutError, channel},
    thread,
    time::Duration,
};

/// A step that takes longer is announced.
const SHORT: Duration = Duration::from_secs(1);

/// Does something and says so if it takes long.
pub fn step<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let (done, waiting) = channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            if waiting.recv_timeout(SHORT) == Err(RecvTimeoutError::Timeout) {
                eprintln!(
                    "{}",
                    paint(DIM, &format!("  … {what}"), stderr().is_terminal())
                );
            }
        });
        let result = work();
        drop(done);
        result
    })
}

/// Bold text, for [`paint`].
pub const BOLD: &str = "1";
/// Faint text, for [`paint`].
pub const DIM: &str = "2";
/// Red text, for [`paint`].
pub const RED: &str = "31";
/// Green text, for [`paint`].
pub const GREEN: &str = "32";

/// In a colour, if there are any.
pub fn paint(code: &str, text: &str, colours: bool) -> String {
    if colours {
        format!("\x1b[{code}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}
