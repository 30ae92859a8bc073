//! Which users and groups the numbers inside a network namespace's user namespace mean outside.
//!
//! A map can be read of processes only (`user_namespaces(7)`), and at ADD no process may be there
//! yet. A thread cannot enter a user namespace, so a child does, and waits while it is read.
#![cfg_attr(not(test), expect(unsafe_code, reason = "fork"))]

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd},
};

use nix::{
    errno::Errno,
    fcntl::OFlag,
    sys::{
        signal::{Signal, kill},
        wait::waitpid,
    },
    unistd::{ForkResult, Pid, fork, pipe2},
};

use super::{Error, Inode, kernel};

/// The host's own user namespace, as far as the daemon can see it.
const HOST: &str = "/proc/self/ns/user";

/// A map of users or groups.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Map(Vec<Range>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    inside: u32,
    outside: u32,
    length: u32,
}

/// What the users and groups of a Pod are outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Users {
    /// `None`: the same.
    maps: Option<(Map, Map)>,
}

/// A child inside the user namespace.
struct Visitor(Pid);

impl Users {
    /// Those of the user namespace that owns a network namespace.
    pub(super) fn of(netns: BorrowedFd<'_>) -> Result<Self, Error> {
        let namespace = kernel::owning_user_namespace(netns).map_err(|source| Error::Call {
            call: "ioctl(NS_GET_USERNS)",
            source,
        })?;
        let file = File::from(namespace);
        let inode = Inode::of(&file).map_err(of_users)?;
        if Inode::at(HOST) == Some(inode) {
            return Ok(Self { maps: None });
        }
        let visitor = Visitor::enter(&file.into())?;
        let read = |name| visitor.read(name).map_err(of_users);
        let maps = Some((Map::parse(&read("uid_map")?), Map::parse(&read("gid_map")?)));
        Ok(Self { maps })
    }

    /// A user, as the initial user namespace numbers it.
    pub(crate) fn user(&self, inside: u32) -> Option<u32> {
        let outside = |(users, _): &(Map, Map)| users.outside(inside);
        self.maps.as_ref().map_or(Some(inside), outside)
    }

    /// A group, likewise.
    pub(crate) fn group(&self, inside: u32) -> Option<u32> {
        let outside = |(_, groups): &(Map, Map)| groups.outside(inside);
        self.maps.as_ref().map_or(Some(inside), outside)
    }
}

impl Map {
    /// Lines of three numbers, as the kernel prints them.
    fn parse(text: &str) -> Self {
        let range = |line: &str| {
            let mut fields = line.split_whitespace().map(|field| field.parse().ok());
            Some(Range {
                inside: fields.next()??,
                outside: fields.next()??,
                length: fields.next()??,
            })
        };
        Self(text.lines().filter_map(range).collect())
    }

    fn outside(&self, id: u32) -> Option<u32> {
        self.0.iter().find_map(|range| {
            let offset = id.checked_sub(range.inside)?;
            (offset < range.length).then(|| range.outside.checked_add(offset))?
        })
    }
}

impl Visitor {
    fn enter(namespace: &OwnedFd) -> Result<Self, Error> {
        let failed = |call| move |source| Error::Call { call, source };
        let (answer, tell) = pipe2(OFlag::O_CLOEXEC).map_err(failed("pipe2"))?;
        // SAFETY: the child makes system calls only, until it is killed.
        let child = match unsafe { fork() }.map_err(failed("fork"))? {
            ForkResult::Child => visit(namespace, &tell),
            ForkResult::Parent { child } => Self(child),
        };
        drop(tell);
        let mut errno = [0; 4];
        // A child that ended early closed its end of the pipe.
        File::from(answer)
            .read_exact(&mut errno)
            .map_err(of_users)?;
        match i32::from_ne_bytes(errno) {
            0 => Ok(child),
            errno => Err(failed("setns(CLONE_NEWUSER)")(Errno::from_raw(errno))),
        }
    }

    fn read(&self, name: &str) -> io::Result<String> {
        std::fs::read_to_string(format!("/proc/{}/{name}", self.0))
    }
}

impl Drop for Visitor {
    /// The child is ours and not yet waited for: its number is nobody else's.
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGKILL);
        let _ = waitpid(self.0, None);
    }
}

/// The child: enters, tells how that went, and waits to be killed. Other threads may have held
/// locks when it was made, so it must neither allocate nor unwind.
fn visit(namespace: &OwnedFd, tell: &OwnedFd) -> ! {
    // SAFETY: all of these may be called after `fork` in a process with threads
    // (`signal-safety(7)`, or bare system calls); the descriptors are open, and `errno` lives
    // across the call that reads it.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        let entered = libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWUSER);
        let errno = if entered == 0 {
            0
        } else {
            *libc::__errno_location()
        };
        libc::write(tell.as_raw_fd(), (&raw const errno).cast(), 4);
        loop {
            libc::pause();
        }
    }
}

fn of_users(source: io::Error) -> Error {
    Error::Io {
        what: "the user namespace",
        source,
    }
}

/// A network namespace of a user namespace whose users begin at 1,000,000 outside, and groups at
/// 2,000,000. No process is left in either.
#[cfg(test)]
pub(crate) fn of_a_pod_with_users() -> File {
    use std::{fs, process::Command};

    let mut pod = Command::new("unshare")
        .args(["--user", "--net", "sleep", "60"])
        .spawn()
        .expect("this test must run as root");
    let proc = format!("/proc/{}", pod.id());
    let own = fs::read_link("/proc/self/ns/net").expect("a namespace");
    while fs::read_link(format!("{proc}/ns/net")).expect("a process") == own {
        std::thread::yield_now();
    }
    fs::write(format!("{proc}/uid_map"), "0 1000000 65536").expect("a map of users");
    fs::write(format!("{proc}/gid_map"), "0 2000000 65536").expect("a map of groups");
    let netns = File::open(format!("{proc}/ns/net")).expect("a namespace");
    pod.kill().expect("a process");
    pod.wait().expect("a child");
    netns
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn ids_are_translated_by_the_range_that_has_them() {
        let map =
            Map::parse("         0    1000000      65536\n     70000          5          1\n");
        for (inside, outside) in [
            (0, Some(1_000_000)),
            (1337, Some(1_001_337)),
            (65535, Some(1_065_535)),
            (65536, None),
            (70000, Some(5)),
            (u32::MAX, None),
        ] {
            assert_eq!(map.outside(inside), outside, "{inside}");
        }
        assert_eq!(Map::parse("").outside(0), None);
        assert_eq!(Map::parse("0 4294967295 2").outside(1), None);
    }

    #[test]
    fn the_hosts_users_are_themselves() {
        let namespace = crate::netns::fresh().expect("this test must run as root");
        let users = Users::of(namespace.as_fd()).unwrap();
        assert_eq!((users.user(1337), users.group(7)), (Some(1337), Some(7)));
    }

    #[test]
    fn a_pods_users_are_known_outside_though_no_process_of_it_is_left() {
        let netns = of_a_pod_with_users();
        let users = Users::of(netns.as_fd()).unwrap();
        assert_eq!(users.user(1337), Some(1_001_337));
        assert_eq!(users.group(1337), Some(2_001_337));
        assert_eq!(users.user(70000), None);
    }
}
