//! Network namespaces of the kernel tests. A namespace belongs to a thread that has unshared it: it
//! disappears when the thread ends.

use std::{net::TcpListener, path::PathBuf, process::Command, sync::mpsc, thread};

use nix::sched::{CloneFlags, unshare};

use super::lab::await_that;

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace and its thread.
pub(super) struct Netns {
    jobs: mpsc::Sender<Job>,
    path: PathBuf,
}

impl Netns {
    pub(super) fn new() -> Self {
        let (jobs, inbox) = mpsc::channel::<Job>();
        let (ready, started) = mpsc::channel();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("the kernel tests need root");
            ready.send(nix::unistd::gettid()).unwrap();
            while let Ok(job) = inbox.recv() {
                job();
            }
        });
        let tid = started.recv().expect("the kernel tests need root");
        let path = format!("/proc/{}/task/{tid}/ns/net", std::process::id()).into();
        let netns = Self { jobs, path };
        netns.run(|| ip("link set lo up"));
        netns
    }

    /// Runs `work` in the namespace.
    pub(super) fn run<R: Send + 'static>(&self, work: impl FnOnce() -> R + Send + 'static) -> R {
        let (send, result) = mpsc::channel();
        self.jobs
            .send(Box::new(move || {
                let _gone = send.send(work());
            }))
            .unwrap();
        result
            .recv()
            .expect("the work inside the namespace panicked")
    }

    /// Runs `work` in the namespace as a user and its group.
    pub(super) fn run_as<R: Send + 'static>(
        &self,
        id: u32,
        work: impl FnOnce() -> R + Send + 'static,
    ) -> R {
        self.run_with_users(id, id, work)
    }

    /// Runs `work` in the namespace as a real and an effective user, and their groups.
    pub(super) fn run_with_users<R: Send + 'static>(
        &self,
        real: u32,
        effective: u32,
        work: impl FnOnce() -> R + Send + 'static,
    ) -> R {
        self.run(move || {
            set_users(real, effective);
            let result = work();
            set_users(0, 0);
            result
        })
    }

    /// The path of its file.
    pub(super) fn path(&self) -> &std::path::Path {
        &self.path
    }

    pub(super) fn cookie(&self) -> u64 {
        self.run(|| {
            let socket = TcpListener::bind("127.0.0.1:0").unwrap();
            netns_cookie(&socket)
        })
    }

    pub(super) fn tid(&self) -> String {
        self.path
            .iter()
            .nth(4)
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned()
    }
}

/// Changes the calling thread's UID and GID, and keeps root as the saved IDs. The C library's functions
/// would change every thread.
fn set_users(real: u32, effective: u32) {
    for call in [libc::SYS_setresgid, libc::SYS_setresuid] {
        // The saved UID is root, which permits the change back.
        // SAFETY: the call has three integer arguments.
        assert_eq!(unsafe { libc::syscall(call, real, effective, 0) }, 0);
    }
}

pub(super) fn ip(arguments: &str) {
    let status = Command::new("ip")
        .args(arguments.split(' '))
        .status()
        .unwrap();
    assert!(status.success(), "ip {arguments}");
}

/// Adds an IPv6 address with its prefix length to an interface that is up and has a carrier, and waits for the local
/// route to it.
pub(super) fn add_ipv6(address: &str, interface: &str) {
    ip(&format!("addr add {address} dev {interface} nodad"));
    await_local(address.split('/').next().unwrap());
}

/// Waits for the local route to an IPv6 address.
///
/// A worker of the kernel adds it (`addrconf_dad_work`), also without duplicate address detection, and waits for the
/// lock of all configuration. Until then, no packet reaches the address.
pub(super) fn await_local(address: &str) {
    await_that(|| {
        let local = ["-6", "route", "show", "table", "local", address];
        let routes = Command::new("ip").args(local).output().unwrap();
        assert!(routes.status.success(), "{routes:?}");
        !routes.stdout.is_empty()
    });
}

fn netns_cookie(socket: &TcpListener) -> u64 {
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let (mut cookie, mut length) = (0_u64, 8);
    // SAFETY: the buffer has 8 bytes, as in `length`.
    let status = unsafe {
        libc::getsockopt(
            std::os::fd::AsRawFd::as_raw_fd(socket),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    assert_eq!(status, 0);
    cookie
}
