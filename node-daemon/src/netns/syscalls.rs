//! System calls without a wrapper in any crate.
#![cfg_attr(not(test), expect(unsafe_code, reason = "system calls"))]

use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use libc::{c_int, c_long};
use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
};

use super::Error;

/// The `CLONE_NEW…` constant of a namespace's type.
pub(super) fn namespace_type(namespace: BorrowedFd<'_>) -> Result<c_int, Errno> {
    // SAFETY: the request has no argument, and the borrowed descriptor is open.
    Errno::result(unsafe { libc::ioctl(namespace.as_raw_fd(), libc::NS_GET_NSTYPE) })
}

/// The user namespace that owns a namespace.
pub(super) fn owning_user_namespace(namespace: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    // SAFETY: the request has no argument, and the borrowed descriptor is open.
    owned(unsafe { libc::ioctl(namespace.as_raw_fd(), libc::NS_GET_USERNS) }.into())
}

/// Idmaps a detached mount with the mapping of a user namespace (`mount_setattr(2)`,
/// `MOUNT_ATTR_IDMAP`).
pub(super) fn idmap(mount: BorrowedFd<'_>, users: BorrowedFd<'_>) -> Result<(), Errno> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: u64::try_from(users.as_raw_fd()).map_err(|_| Errno::EBADF)?,
    };
    // SAFETY: the path is empty and ends in NUL; `attributes` lives across the call, and the last
    // argument is its size. Both borrowed descriptors are open.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    Errno::result(done).map(drop)
}

/// The cookie of the calling thread's netns.
pub(super) fn netns_cookie_here() -> Result<u64, Error> {
    let probe = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .map_err(|source| Error::Call {
        call: "socket",
        source,
    })?;
    netns_cookie(std::os::fd::AsFd::as_fd(&probe)).map_err(|source| Error::Call {
        call: "getsockopt(SO_NETNS_COOKIE)",
        source,
    })
}

/// The cookie of the netns in which a socket was created.
pub(super) fn netns_cookie(socket: BorrowedFd<'_>) -> Result<u64, Errno> {
    let mut cookie = 0_u64;
    let mut length: libc::socklen_t = 8;
    // SAFETY: `cookie` and `length` live across the call, and `length` is the size of `cookie`.
    Errno::result(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    })?;
    Ok(cookie)
}

/// A pidfd of a process.
pub(super) fn pidfd_open(pid: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: the call has two integer arguments.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
}

/// A duplicate of a descriptor of another process.
pub(super) fn pidfd_getfd(process: BorrowedFd<'_>, fd: RawFd) -> Result<OwnedFd, Errno> {
    // SAFETY: the call has three integer arguments; the first is a borrowed descriptor, which is
    // open.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), fd, 0) })
}

/// Takes ownership of a descriptor that a system call returned.
fn owned(result: c_long) -> Result<OwnedFd, Errno> {
    let fd = RawFd::try_from(Errno::result(result)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just created it, and no other code has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
