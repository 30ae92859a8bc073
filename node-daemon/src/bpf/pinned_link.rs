//! Links that are known by their pin: attaching, replacing and pinning.

use std::{fs, io, os::fd::BorrowedFd, path::Path};

use aya_obj::generated::bpf_attach_type;
use nix::errno::Errno;

use super::{cgroup_prog::ProgramInfo, link::Link};

/// Gives a pinned link a program, unless it has it. `false` if there is no link that passes `is_ours`.
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
    if link.program()? == ProgramInfo::of(program)?.id {
        return Ok(true);
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
