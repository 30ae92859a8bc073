//! The `bpf(2)` system call.
#![cfg_attr(not(test), expect(unsafe_code, reason = "system calls"))]

use std::{
    ffi::CString,
    io,
    mem::{size_of, zeroed},
    os::{
        fd::{AsRawFd as _, BorrowedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use aya_obj::generated::{bpf_attr, bpf_cmd};

pub(super) fn empty() -> bpf_attr {
    // SAFETY: integers, for which zero is a valid value; the kernel requires zero in the members that a
    // command does not use.
    unsafe { zeroed() }
}

pub(super) fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<RawFd> {
    let length = size_of::<bpf_attr>();
    // SAFETY: `attr` and all data that its pointers refer to outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command as u32, &raw mut *attr, length) };
    match RawFd::try_from(result) {
        Ok(fd) if fd >= 0 => Ok(fd),
        _ => Err(io::Error::last_os_error()),
    }
}

pub(super) fn terminated(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from)
}

/// An open descriptor is never negative.
pub(super) fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().unsigned_abs()
}

pub(super) const fn length_of<T>() -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "a few dozen bytes")]
    let length = size_of::<T>() as u32;
    length
}
