//! Standard input, read within a deadline: a runtime that never closes it would hold the Pod for good.

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

/// Reads standard input to its end. `timeoutSeconds` is in there, so the default applies.
///
/// # Errors
///
/// If it cannot be read, or its end does not come in time.
pub fn read_stdin(started: Instant) -> Stdin {
    let input = Timely {
        stdin: io::stdin().lock(),
        deadline: started + DEFAULT_TIMEOUT,
    };
    let mut bytes = Vec::new();
    // One byte more than allowed tells "too long" from "just so long".
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
        // Rounded up, so as not to wake just before the time.
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
