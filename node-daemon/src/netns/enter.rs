//! Moves threads into other namespaces, and back.
//!
//! A thread that works inside a network namespace returns to the host's afterwards: another thread would have to be
//! woken for each piece of work, which takes longer than most of it. The main thread never enters one, because
//! `/proc/self` leads to its namespaces. A thread that is made for one task ends inside.

use std::{
    cell::Cell,
    fs::File,
    os::fd::{AsFd as _, BorrowedFd},
    panic::{AssertUnwindSafe, catch_unwind},
    process,
    sync::OnceLock,
    thread::{Builder, scope},
};

use nix::{
    sched::{CloneFlags, setns, unshare},
    unistd::{Pid, gettid},
};
use tracing::error;

use super::Error;

/// The name of the threads that are made to enter a namespace.
const NAME: &str = "netns";
/// The host's network namespace: that of the main thread.
const HOME_NETNS: &str = "/proc/self/ns/net";

static HOME: OnceLock<File> = OnceLock::new();

thread_local! {
    /// Whether this thread may enter a namespace: it is not the main thread, and not inside one.
    static MAY_ENTER: Cell<bool> = Cell::new(gettid() != Pid::this());
}

/// A stay of this thread in a network namespace.
struct Stay {
    home: BorrowedFd<'static>,
}

impl Stay {
    fn begin(netns: BorrowedFd<'_>) -> Result<Self, Error> {
        let home = home()?;
        enter(netns)?;
        Ok(Self { home })
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        if let Err(errno) = setns(self.home, CloneFlags::CLONE_NEWNET) {
            // The thread would change this Pod's namespace in place of the host's or another Pod's. The
            // programs stay, and the next daemon takes over.
            error!(%errno, "cannot return from a network namespace: the daemon ends");
            process::abort();
        }
        MAY_ENTER.set(true);
    }
}

/// Runs `work` inside `netns`.
///
/// # Errors
///
/// If the namespace cannot be entered, or `work` panics.
pub(super) fn run_in<T: Send>(
    netns: BorrowedFd<'_>,
    work: impl FnOnce() -> T + Send,
) -> Result<T, Error> {
    if MAY_ENTER.get() {
        let _stay = Stay::begin(netns)?;
        catch_unwind(AssertUnwindSafe(work)).map_err(|_| Error::Panic)
    } else {
        in_new_thread(|| {
            enter(netns)?;
            Ok(work())
        })?
    }
}

/// Runs `work` in a thread of its own in the host's cgroup namespace: in a container's, the paths
/// in `/proc/PID/cgroup` are relative to the container's cgroup.
pub(crate) fn among_hosts_cgroups<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, Error> {
    in_new_thread(|| {
        // Fails if the host's processes are not visible: the paths are then used as they are.
        let _relative =
            File::open("/proc/1/ns/cgroup").map(|host| setns(&host, CloneFlags::CLONE_NEWCGROUP));
        work()
    })
}

/// Runs `work` in a thread of its own, which may enter namespaces and ends there.
pub(crate) fn in_new_thread<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, Error> {
    scope(|threads| {
        let thread = Builder::new().name(NAME.into());
        let thread = thread.spawn_scoped(threads, work).map_err(Error::Thread)?;
        thread.join().map_err(|_| Error::Panic)
    })
}

/// Moves the calling thread into a namespace, where it stays.
pub(super) fn enter(netns: BorrowedFd<'_>) -> Result<(), Error> {
    setns(netns, CloneFlags::CLONE_NEWNET).map_err(|source| Error::Call {
        call: "setns",
        source,
    })?;
    MAY_ENTER.set(false);
    Ok(())
}

/// The host's network namespace, opened once: a shortage of descriptors must not keep a thread from returning.
fn home() -> Result<BorrowedFd<'static>, Error> {
    if let Some(home) = HOME.get() {
        return Ok(home.as_fd());
    }
    let opened = File::open(HOME_NETNS).map_err(|source| Error::Io {
        what: HOME_NETNS,
        source,
    })?;
    Ok(HOME.get_or_init(|| opened).as_fd())
}

/// A new netns, which lasts as long as the file is open.
pub(crate) fn new_netns() -> Result<File, Error> {
    let leave = || {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|source| Error::Call {
            call: "unshare",
            source,
        })?;
        File::open("/proc/thread-self/ns/net").map_err(|source| Error::Io {
            what: "/proc/thread-self/ns/net",
            source,
        })
    };
    in_new_thread(leave)?
}

#[cfg(test)]
mod tests {
    use std::{
        os::fd::AsFd as _,
        thread::{ThreadId, current},
    };

    use super::*;
    use crate::netns::syscalls::netns_cookie_here;

    fn observe() -> (u64, ThreadId) {
        (netns_cookie_here().unwrap(), current().id())
    }

    #[test]
    fn thread_returns_after_its_work_and_after_a_panic() {
        let there = new_netns().unwrap();
        let home = observe();
        let (cookie, thread) = run_in(there.as_fd(), observe).unwrap();
        assert_eq!(thread, home.1);
        assert_ne!(cookie, home.0);
        assert_eq!(observe(), home);
        let panics = run_in(there.as_fd(), || panic!("as asked for"));
        assert!(matches!(panics, Err::<(), _>(Error::Panic)));
        assert_eq!(observe(), home);
    }

    #[test]
    fn work_inside_may_enter_another_namespace() {
        let [outer, inner] = [new_netns().unwrap(), new_netns().unwrap()];
        let (before, nested, after) = run_in(outer.as_fd(), || {
            let before = observe();
            let nested = run_in(inner.as_fd(), observe).unwrap();
            (before, nested, observe())
        })
        .unwrap();
        assert_eq!(before, after);
        assert_ne!(nested.0, before.0);
        assert_ne!(nested.1, before.1);
        let stays = in_new_thread(|| {
            enter(outer.as_fd())?;
            let nested = run_in(inner.as_fd(), observe)?;
            Ok::<_, Error>((observe(), nested))
        });
        let (own, nested) = stays.unwrap().unwrap();
        assert_eq!(own.0, before.0);
        assert_ne!(nested.1, own.1);
    }

    #[test]
    fn entering_a_non_netns_fails() {
        let file = File::open("/proc/self/stat").unwrap();
        let entered = run_in(file.as_fd(), observe);
        assert!(matches!(entered, Err(Error::Call { call: "setns", .. })));
    }
}
