//! Errors of a machine that lacks descriptors or memory. They say nothing about the object that was opened.

use std::io;

use nix::errno::Errno;

/// Whether an error is one of these.
pub(crate) fn is_shortage(errno: Errno) -> bool {
    let all = [Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM, Errno::ENOBUFS];
    all.contains(&errno)
}

/// The same for an error of the standard library.
pub(crate) fn is_io_shortage(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    errno.is_some_and(is_shortage)
}
