//! Work inside another network namespace, in a thread that ends afterwards: a thread that has
//! entered a namespace is never used for anything else.

use std::{
    fs::File,
    os::fd::{AsFd as _, BorrowedFd},
    sync::mpsc::{Sender, channel},
    thread::{Builder, scope},
};

use nix::sched::{CloneFlags, setns, unshare};

use super::Error;

/// The name of the threads.
const NAME: &str = "netns";

/// A thread that has entered a namespace and works there, one thing after another, until this is
/// dropped: to begin and end a thread takes longer than most of what is to be done there.
#[derive(Debug)]
pub(super) struct Visit(Sender<Job>);

type Job = Box<dyn FnOnce() + Send>;

impl Visit {
    /// Enters `netns`.
    pub(super) fn begin(netns: BorrowedFd<'_>) -> Result<Self, Error> {
        let netns = netns.try_clone_to_owned().map_err(|source| Error::Io {
            what: "a network namespace",
            source,
        })?;
        let (jobs, to_do) = channel::<Job>();
        let (tell, told) = channel();
        Builder::new()
            .name(NAME.into())
            .spawn(move || {
                let entered = enter(netns.as_fd());
                drop(netns);
                let is_inside = entered.is_ok();
                if tell.send(entered).is_ok() && is_inside {
                    for job in to_do {
                        job();
                    }
                }
            })
            .map_err(|source| Error::Thread(Some(source)))?;
        told.recv().map_err(|_| Error::Thread(None))??;
        Ok(Self(jobs))
    }

    /// Does something there.
    pub(super) fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        let (answer, answered) = channel();
        let job = move || {
            // Whoever asked waits below.
            let _heard = answer.send(work());
        };
        self.0
            .send(Box::new(job))
            .map_err(|_| Error::Thread(None))?;
        answered.recv().map_err(|_| Error::Thread(None))
    }
}

/// Runs `work` in a thread that has entered `netns`.
pub(super) fn run<T: Send>(
    netns: BorrowedFd<'_>,
    work: impl FnOnce() -> T + Send,
) -> Result<T, Error> {
    in_thread(|| {
        enter(netns)?;
        Ok(work())
    })
}

fn enter(netns: BorrowedFd<'_>) -> Result<(), Error> {
    setns(netns, CloneFlags::CLONE_NEWNET).map_err(|source| Error::Call {
        call: "setns",
        source,
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
            .name(NAME.into())
            .spawn_scoped(threads, work)
            .map_err(|source| Error::Thread(Some(source)))?
            .join()
            .map_err(|_| Error::Thread(None))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netns::kernel::netns_cookie_here;

    #[test]
    fn a_visit_is_one_thread_inside_and_survives_no_panic() {
        let there = fresh().unwrap();
        let expected = run(there.as_fd(), netns_cookie_here).unwrap().unwrap();
        let visit = Visit::begin(there.as_fd()).unwrap();
        let look = || (netns_cookie_here().unwrap(), std::thread::current().id());
        let (cookie, thread) = visit.run(look).unwrap();
        assert_eq!(cookie, expected);
        assert_eq!(visit.run(look).unwrap(), (cookie, thread));
        assert_ne!(netns_cookie_here().unwrap(), cookie);
        let panics = visit.run(|| panic!("as asked for"));
        assert!(matches!(panics, Err::<(), _>(Error::Thread(None))));
        assert!(matches!(visit.run(look), Err(Error::Thread(None))));
    }
}
