//! Threads that work inside other network namespaces. An idle thread waits in the host's namespace
//! for its next assignment: spawning a thread takes longer than most of the work.

use std::{
    fs::File,
    os::fd::{BorrowedFd, OwnedFd},
    sync::{
        Mutex, PoisonError,
        mpsc::{Receiver, Sender, channel},
    },
    thread::{Builder, scope},
};

use nix::{
    errno::Errno,
    sched::{CloneFlags, setns, unshare},
};

use super::Error;

/// The name of the threads.
const NAME: &str = "netns";
/// The namespace in which they start and wait: that of the main thread, which never leaves it.
const HOME_NETNS: &str = "/proc/self/ns/net";

/// A thread that stays in a namespace and runs one job after another, until this is dropped.
#[derive(Debug)]
pub(super) struct NetnsWorker(Sender<Job>);

/// Its argument is the result of entering the namespace.
type Job = Box<dyn FnOnce(Result<(), Errno>) + Send>;

/// The next namespace of a thread, and its jobs there.
struct Assignment {
    netns: OwnedFd,
    jobs: Receiver<Job>,
}

/// The idle thread, if there is one.
struct IdleWorker(Mutex<Option<Sender<Assignment>>>);

static IDLE: IdleWorker = IdleWorker::new();

impl NetnsWorker {
    /// Sends a thread into `netns`.
    pub(super) fn spawn(netns: BorrowedFd<'_>) -> Result<Self, Error> {
        Self::by(&IDLE, netns)
    }

    fn by(idle: &'static IdleWorker, netns: BorrowedFd<'_>) -> Result<Self, Error> {
        let netns = netns.try_clone_to_owned().map_err(|source| Error::Io {
            what: "a network namespace",
            source,
        })?;
        let (send, jobs) = channel();
        let thread = idle.take().map_or_else(|| spawn_idle(idle), Ok)?;
        (thread.send(Assignment { netns, jobs })).map_err(|_| Error::Thread(None))?;
        Ok(Self(send))
    }

    /// Runs `work` there.
    pub(super) fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        let (answer, answered) = channel();
        let job = move |entered: Result<(), Errno>| {
            // The requester waits below.
            let _heard = answer.send(entered.map(|()| work()));
        };
        self.0
            .send(Box::new(job))
            .map_err(|_| Error::Thread(None))?;
        let done = answered.recv().map_err(|_| Error::Thread(None))?;
        done.map_err(|source| Error::Call {
            call: "setns",
            source,
        })
    }
}

impl IdleWorker {
    const fn new() -> Self {
        Self(Mutex::new(None))
    }

    fn take(&self) -> Option<Sender<Assignment>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// `false` if another thread is idle already: one is enough.
    fn put(&self, thread: &Sender<Assignment>) -> bool {
        let mut place = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_free = place.is_none();
        place.get_or_insert_with(|| thread.clone());
        is_free
    }
}

/// Runs `work` in a thread that is in `netns`.
pub(super) fn run_in<T: Send + 'static>(
    netns: BorrowedFd<'_>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    NetnsWorker::spawn(netns)?.run(work)
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
pub(super) fn in_new_thread<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, Error> {
    scope(|threads| {
        let thread = Builder::new().name(NAME.into());
        let thread = thread.spawn_scoped(threads, work);
        let thread = thread.map_err(|source| Error::Thread(Some(source)))?;
        thread.join().map_err(|_| Error::Thread(None))
    })
}

/// Moves the calling thread into a namespace. Only a thread of [`in_new_thread`] calls it.
pub(super) fn enter(netns: BorrowedFd<'_>) -> Result<(), Error> {
    setns(netns, CloneFlags::CLONE_NEWNET).map_err(|source| Error::Call {
        call: "setns",
        source,
    })
}

/// Spawns a thread that can enter namespaces.
fn spawn_idle(idle: &'static IdleWorker) -> Result<Sender<Assignment>, Error> {
    let home_netns = File::open(HOME_NETNS).map_err(|source| Error::Io {
        what: HOME_NETNS,
        source,
    })?;
    let (thread, assignments) = channel();
    let own = thread.clone();
    Builder::new()
        .name(NAME.into())
        .spawn(move || {
            for Assignment { netns, jobs } in assignments {
                let entered = setns(&netns, CloneFlags::CLONE_NEWNET);
                // The descriptor must not keep the namespace alive.
                drop(netns);
                for job in jobs {
                    job(entered);
                }
                let is_back = setns(&home_netns, CloneFlags::CLONE_NEWNET).is_ok();
                if !is_back || !idle.put(&own) {
                    break;
                }
            }
        })
        .map_err(|source| Error::Thread(Some(source)))?;
    Ok(thread)
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
        thread::{ThreadId, current, yield_now},
        time::{Duration, Instant},
    };

    use super::*;
    use crate::netns::syscalls::netns_cookie_here;

    fn observe() -> (u64, ThreadId) {
        (netns_cookie_here().unwrap(), current().id())
    }

    #[test]
    fn workers_use_one_thread_and_end_on_panic() {
        let there = new_netns().unwrap();
        let (expected, _) = run_in(there.as_fd(), observe).unwrap();
        let worker = NetnsWorker::spawn(there.as_fd()).unwrap();
        let (cookie, thread) = worker.run(observe).unwrap();
        assert_eq!(cookie, expected);
        assert_eq!(worker.run(observe).unwrap(), (cookie, thread));
        assert_ne!(netns_cookie_here().unwrap(), cookie);
        let panics = worker.run(|| panic!("as asked for"));
        assert!(matches!(panics, Err::<(), _>(Error::Thread(None))));
        assert!(matches!(worker.run(observe), Err(Error::Thread(None))));
    }

    #[test]
    fn idle_workers_are_reused() {
        static HERE: IdleWorker = IdleWorker::new();
        let wait = || {
            let begin = Instant::now();
            while HERE.0.lock().unwrap().is_none() {
                assert!(
                    begin.elapsed() < Duration::from_secs(10),
                    "the worker did not return"
                );
                yield_now();
            }
        };
        let home_netns = File::open(HOME_NETNS).unwrap();
        let worker = |netns: &File| {
            NetnsWorker::by(&HERE, netns.as_fd())
                .unwrap()
                .run(observe)
                .unwrap()
        };
        let (first, thread) = worker(&new_netns().unwrap());
        wait();
        let (second, again) = worker(&new_netns().unwrap());
        assert_eq!(again, thread);
        assert_ne!(second, first);
        wait();
        assert_eq!(worker(&home_netns), (netns_cookie_here().unwrap(), thread));
    }

    #[test]
    fn one_idle_worker_is_kept() {
        static HERE: IdleWorker = IdleWorker::new();
        let (one, _assignments) = channel();
        let (other, _assignments) = channel();
        assert!(HERE.put(&one));
        assert!(!HERE.put(&other));
        assert!(HERE.take().is_some() && HERE.take().is_none());
    }

    #[test]
    fn entering_a_non_netns_fails() {
        let file = File::open("/proc/self/stat").unwrap();
        let entered = run_in(file.as_fd(), observe);
        assert!(matches!(entered, Err(Error::Call { call: "setns", .. })));
    }
}
