//! Links that are known by their pin: attaching, replacing and pinning.

use std::{
    fs, io,
    os::fd::{AsFd as _, BorrowedFd},
    path::Path,
};

use aya::Ebpf;
use aya_obj::generated::bpf_attach_type;
use nix::errno::Errno;

use super::{Error, link::Link};

/// The descriptor of a loaded program.
pub(super) fn program<'a>(object: &'a Ebpf, name: &'static str) -> Result<BorrowedFd<'a>, Error> {
    let program = object.program(name).ok_or(Error::Missing { name })?;
    let fd = program
        .fd()
        .map_err(|source| Error::program(name, source))?;
    Ok(fd.as_fd())
}

/// Replaces the program of a pinned link, if there is one that passes `is_ours`.
pub(super) fn replace(
    program: BorrowedFd<'_>,
    pin: &Path,
    is_ours: impl Fn(&Link) -> bool,
) -> io::Result<bool> {
    let link = match Link::open(pin) {
        Ok(link) => link,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    if !is_ours(&link) {
        return Ok(false);
    }
    match link.replace(program) {
        Ok(()) => Ok(true),
        // The cgroup or namespace was removed at this moment.
        Err(error) if error.raw_os_error() == Some(Errno::ENOLINK as i32) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The new link is active before the old one, if any, is removed.
pub(super) fn attach_one(
    program: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    hook: bpf_attach_type,
    pin: &Path,
) -> io::Result<()> {
    put(&Link::attach(program, target, hook)?, pin)
}

/// Pins a link, and replaces an existing pin.
pub(super) fn put(link: &Link, pin: &Path) -> io::Result<()> {
    match link.pin(pin) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(pin)?;
            link.pin(pin)
        }
        pinned => pinned,
    }
}
