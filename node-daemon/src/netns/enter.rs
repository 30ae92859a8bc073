//! Work inside another network namespace, in a thread that ends afterwards: a thread that has
//! entered a namespace is never used for anything else.

use std::{
    fs::File,
    os::fd::BorrowedFd,
    thread::{Builder, scope},
};

use nix::sched::{CloneFlags, setns, unshare};

use super::Error;

/// Runs `work` in a thread that has entered `netns`.
pub(super) fn run<T: Send>(
    netns: BorrowedFd<'_>,
    work: impl FnOnce() -> T + Send,
) -> Result<T, Error> {
    in_thread(|| {
        setns(netns, CloneFlags::CLONE_NEWNET).map_err(|source| Error::Call {
            call: "setns",
            source,
        })?;
        Ok(work())
    })
}

/// A new network namespace, which lasts as long as the file is open.
pub(crate) fn fresh() -> Result<File, Error> {
    in_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|source| Error::Call {
            call: "unshare",
            source,
        })?;
        File::open("/proc/thread-self/ns/net").map_err(|source| Error::Io {
            what: "/proc/thread-self/ns/net",
            source,
        })
    })
}

fn in_thread<T: Send>(work: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
    scope(|threads| {
        Builder::new()
            .name("netns".into())
            .spawn_scoped(threads, work)
            .map_err(|source| Error::Thread(Some(source)))?
            .join()
            .map_err(|_| Error::Thread(None))?
    })
}
