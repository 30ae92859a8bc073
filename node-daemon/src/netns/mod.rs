//! Network namespaces: opening them, telling them apart, and working inside them.
//!
//! Nothing outside this module enters a namespace. A namespace's owner may be hostile, so:
//!
//! * A thread that enters a network or cgroup namespace keeps its credentials: only `CLONE_NEWUSER`
//!   changes them. Whoever is root in the namespace's user namespace has no power over the thread,
//!   which is the daemon's in the initial one. The daemon never enters a user, mount or process
//!   namespace ([`users`] says how users are translated all the same).
//! * A path is opened once, without blocking, and everything else is done with that file ([`Door`]).
//! * What is read inside has limits on its number and on the time ([`netlink`]).
//! * Of another process the daemon takes nothing but TCP sockets that listen in the namespace, and
//!   asks the socket itself what it is ([`listeners`]).

mod error;
#[cfg(fuzzing)]
pub(crate) mod fuzz;
mod inhabited;
mod links;
mod listeners;
mod netlink;
mod routes;
mod rules;
mod syscalls;
mod users;
mod worker;

use std::{
    fs::{File, OpenOptions},
    net::IpAddr,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
    sync::LazyLock,
};

use ipnet::IpNet;
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};
use serde::{Deserialize, Serialize};
use worker::NetnsWorker;

pub(crate) use error::Error;
pub(crate) use inhabited::{Inhabited, Paths, find, inhabited, is_inhabited};
pub(crate) use links::Interface;
pub(crate) use listeners::{Fetched, ListenSockets, ProxyUser};
pub(crate) use routes::{Route, RoutingTable, SourceRoute, is_link_local};
pub(crate) use users::Users;
#[cfg(test)]
pub(crate) use users::netns_with_own_userns;
pub(crate) use worker::{among_hosts_cgroups, new_netns};

/// What the host's own processes run in, as far as the daemon can see it.
static HOSTS: LazyLock<[Option<Inode>; 2]> = LazyLock::new(|| HOST_PATHS.map(Inode::at));
const HOST_PATHS: [&str; 2] = ["/proc/1/ns/net", "/proc/self/ns/net"];

/// A network namespace that a Pod may have.
#[derive(Debug)]
pub(crate) struct Netns {
    file: File,
    path: PathBuf,
    id: Id,
    /// A thread that stays there, if much is to be done.
    worker: Option<NetnsWorker>,
}

/// What identifies a network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Id {
    inode: Inode,
    /// Never re-used while the kernel runs, other than the inode.
    pub(crate) cookie: u64,
}

/// Device and inode number of a namespace's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Inode {
    dev: u64,
    ino: u64,
}

impl Netns {
    /// Opens the network namespace at `path`.
    ///
    /// # Errors
    ///
    /// If there is nothing, something else than a network namespace, or the host's own.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        Door::open(path)?.worker()
    }

    /// The same for one in which several things are to be done: a thread stays there.
    ///
    /// # Errors
    ///
    /// As [`Netns::open`].
    pub(crate) fn open_with_worker(path: &Path) -> Result<Self, Error> {
        let Door { file, path, inode } = Door::open(path)?;
        let worker = NetnsWorker::spawn(file.as_fd())?;
        let cookie = worker.run(syscalls::netns_cookie_here)??;
        Ok(Self {
            file,
            path,
            id: Id { inode, cookie },
            worker: Some(worker),
        })
    }

    /// What tells it from every other one.
    pub(crate) fn id(&self) -> Id {
        self.id
    }

    /// The path at which it was found.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Who its users and groups are outside.
    pub(crate) fn users(&self) -> Result<Users, Error> {
        Users::of(self.file.as_fd())
    }

    /// Its interfaces, with their addresses.
    pub(crate) fn interfaces(&self) -> Result<Vec<Interface>, Error> {
        self.run_in(links::interfaces)?
    }

    /// By which interfaces its packets leave.
    pub(crate) fn routes(&self) -> Result<RoutingTable, Error> {
        self.run_in(routes::routes)?
    }

    /// From which address its packets leave for the networks of its routes.
    pub(crate) fn sources(&self) -> Result<Vec<SourceRoute>, Error> {
        self.run_in(routes::sources)?
    }

    /// Makes local the networks of some routes, with sources, and others no longer. Returns those of
    /// the new ones that the namespace refuses.
    pub(crate) fn install_local_routes(
        &self,
        gone: Vec<IpNet>,
        new: Vec<SourceRoute>,
    ) -> Result<Vec<SourceRoute>, Error> {
        self.run_in(move || routes::install_local_routes(&gone, &new))?
    }

    /// Those of these routes that are in place.
    pub(crate) fn installed(&self, routes: Vec<SourceRoute>) -> Result<Vec<SourceRoute>, Error> {
        self.run_in(move || routes::installed(&routes))?
    }

    /// Gives an address to the loopback interface. `false` if it is there already.
    pub(crate) fn add_to_loopback(&self, address: IpAddr) -> Result<bool, Error> {
        self.run_in(move || links::add_to_loopback(address))?
    }

    /// Takes an address from the loopback interface, if it is there.
    pub(crate) fn remove_from_loopback(&self, address: IpAddr) -> Result<(), Error> {
        self.run_in(move || links::remove_from_loopback(address))?
    }

    /// The TCP sockets that listen in it.
    pub(crate) fn sockets(&self) -> Result<ListenSockets, Error> {
        self.run_in(ListenSockets::here)?
    }

    /// The interfaces whose other end is in the host's network namespace.
    pub(crate) fn uplinks(&self) -> Result<Vec<u32>, Error> {
        // Without a view of the host's processes there is the daemon's own alone.
        let hosts: Vec<_> = (HOST_PATHS.iter())
            .filter_map(|path| File::open(path).ok())
            .collect();
        self.run_in(move || links::uplinks(&hosts))?
    }

    /// Whether it has rules of its own that rewrite where its connections go.
    pub(crate) fn rewrites_own_connections(&self) -> Result<bool, Error> {
        self.run_in(rules::rewrites_own_connections)?
    }

    /// Those that listen on a port of the proxy, fetched from the processes that own them.
    pub(crate) fn dup_listeners(
        &self,
        sockets: &ListenSockets,
        port: u16,
        proxy: ProxyUser,
    ) -> Result<Fetched, Error> {
        let (inodes, beyond) = sockets.candidates(port, proxy);
        let mut found = listeners::dup_from_owner(self.id, port, proxy, inodes)?;
        found.foreign += beyond;
        Ok(found)
    }

    /// Does something in a thread that has entered it.
    fn run_in<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        match &self.worker {
            Some(worker) => worker.run(work),
            None => worker::run_in(self.file.as_fd(), work),
        }
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Inode {
    fn of(file: &File) -> std::io::Result<Self> {
        file.metadata().map(|metadata| Self {
            dev: metadata.dev(),
            ino: metadata.ino(),
        })
    }

    /// `None` if there is nothing, or the process is gone.
    fn at(path: impl AsRef<Path>) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        Some(Self {
            dev: metadata.dev(),
            ino: metadata.ino(),
        })
    }
}

/// A network namespace that is open, and that no thread has entered.
#[derive(Debug)]
pub(crate) struct Door {
    file: File,
    path: PathBuf,
    inode: Inode,
}

impl Door {
    /// Opens a file and makes sure that it is a network namespace, and not the host's. The path comes
    /// from outside: a FIFO there must not hold the daemon up, hence `O_NONBLOCK`.
    ///
    /// # Errors
    ///
    /// As [`Netns::open`].
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path)
            .map_err(|source| Error::open(path, source))?;
        let filesystem = fstatfs(&file).map_err(|errno| Error::open(path, errno.into()))?;
        let is_netns = filesystem.filesystem_type() == NSFS_MAGIC
            && syscalls::namespace_type(file.as_fd()) == Ok(libc::CLONE_NEWNET);
        if !is_netns {
            return Err(Error::NotNetns { path: path.into() });
        }
        let inode = Inode::of(&file).map_err(|source| Error::open(path, source))?;
        if HOSTS.contains(&Some(inode)) {
            return Err(Error::Host { path: path.into() });
        }
        let path = path.into();
        Ok(Self { file, path, inode })
    }

    /// Whether the initial user namespace owns it: only a process with `CAP_SYS_ADMIN` there can
    /// have made it.
    ///
    /// # Errors
    ///
    /// If the kernel does not name the owner.
    pub(crate) fn is_of_hosts_users(&self) -> Result<bool, Error> {
        Ok(users::owner(self.file.as_fd())?.is_none())
    }

    /// A thread enters it to learn its cookie.
    ///
    /// # Errors
    ///
    /// If it cannot be entered.
    pub(crate) fn worker(self) -> Result<Netns, Error> {
        let Self { file, path, inode } = self;
        let cookie = worker::run_in(file.as_fd(), syscalls::netns_cookie_here)??;
        Ok(Netns {
            file,
            path,
            id: Id { inode, cookie },
            worker: None,
        })
    }
}
