//! Standard input, read within a deadline: a runtime that never closes it would block the Pod forever.

use std::{
    io::{self, Read, StdinLock},
    os::fd::AsFd as _,
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::{
    Stdin,
    conf::{DEFAULT_TIMEOUT, MAX_STDIN},
};

/// Reads standard input to its end. `timeoutSeconds` is part of it, so the default applies.
///
/// # Errors
///
/// If it cannot be read, or does not end in time.
pub fn read_stdin(started: Instant) -> Stdin {
    let input = Timely {
        stdin: io::stdin().lock(),
        deadline: started + DEFAULT_TIMEOUT,
    };
    let mut bytes = Vec::new();
    // One byte above the limit detects input that is too long.
    input.take(MAX_STDIN + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

struct Timely<'a> {
    stdin: StdinLock<'a>,
    deadline: Instant,
}

impl Read for Timely<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        // Rounded up, to avoid a wakeup just before the deadline.
        let timeout =
            PollTimeout::try_from(left + Duration::from_millis(1)).map_err(io::Error::other)?;
        let mut source = [PollFd::new(self.stdin.as_fd(), PollFlags::POLLIN)];
        if poll(&mut source, timeout)? == 0 {
            let seconds = DEFAULT_TIMEOUT.as_secs();
            let problem = format!("it was not closed within {seconds} s");
            return Err(io::Error::new(io::ErrorKind::TimedOut, problem));
        }
        self.stdin.read(buffer)
    }
}
