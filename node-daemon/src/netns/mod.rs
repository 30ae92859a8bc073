//! Network namespaces: opens and identifies them, and runs all work inside them.
//!
//! Only this module enters a namespace. A namespace's owner may be hostile, so:
//!
//! * A thread that enters a network or cgroup namespace keeps its credentials: only `CLONE_NEWUSER`
//!   changes them. Root of the namespace's user namespace has no privileges over the thread, which
//!   belongs to the daemon in the initial one. The daemon never enters a user, mount or PID
//!   namespace ([`users`] translates ids without that).
//! * A path is opened once, without blocking, and all later operations use that file ([`NetnsFile`]).
//! * Reads inside are limited in number and time ([`netlink`]).
//! * The daemon duplicates only listening TCP sockets of the namespace from other processes, and
//!   reads the properties from the socket itself ([`listeners`]).

#[cfg(fuzzing)]
mod decoder;
mod enter;
mod error;
#[cfg(fuzzing)]
pub(crate) mod fuzz;
mod holders;
mod inhabited;
mod links;
mod listeners;
mod netlink;
mod rerouting;
mod reserved_ports;
mod routes;
mod rules;
mod sockstat;
mod source_routing;
mod syscalls;
mod sysctl;
mod tc;
mod tcp_sockets;
mod users;
mod visit;

use std::{
    fs::{File, OpenOptions},
    net::IpAddr,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
    sync::{LazyLock, OnceLock},
};

use ipnet::IpNet;
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};
use serde::{Deserialize, Serialize};

pub(crate) use enter::{among_hosts_cgroups, in_new_thread, new_netns};
pub(crate) use error::Error;
pub(crate) use holders::{Holders, Process, ProcessTable};
pub(crate) use inhabited::{Inhabited, Paths, find, inhabited, is_inhabited};
pub(crate) use links::{Interface, VirtualLink};
pub(crate) use listeners::{Fetched, ListenSockets, ProxyUser, probe_socket_diagnostics};
pub(crate) use rerouting::Rerouting;
use reserved_ports::PortList;
pub(crate) use reserved_ports::ReservedPorts;
pub(crate) use routes::{Route, RoutingTable, SourceRoute, is_link_local};
pub(crate) use source_routing::{Families, SourceRouting};
pub(crate) use sysctl::Switches;
pub(crate) use tcp_sockets::{Side, SocketId, TcpSocket};
pub(crate) use users::Users;
#[cfg(test)]
pub(crate) use users::netns_with_own_userns;
pub(crate) use visit::{Visited, visit_all};

/// The host's own namespaces, as far as the daemon can see them.
static HOSTS: LazyLock<[Option<Inode>; 2]> = LazyLock::new(|| HOST_PATHS.map(Inode::at));
const HOST_PATHS: [&str; 2] = ["/proc/1/ns/net", "/proc/self/ns/net"];

/// The network namespace of a Pod.
#[derive(Debug)]
pub(crate) struct Netns {
    file: File,
    path: PathBuf,
    id: Id,
    /// Its reserved ports, once they are read.
    port_list: OnceLock<PortList>,
}

/// The identity of a network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Id {
    inode: Inode,
    /// Never reused while the kernel runs, unlike the inode.
    pub(crate) cookie: u64,
}

/// Device and inode number of a namespace's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Inode {
    dev: u64,
    ino: u64,
}

/// The cookie of the daemon's own netns, which is the node's.
///
/// # Errors
///
/// If the kernel has no socket for the daemon.
pub(crate) fn node_cookie() -> Result<u64, Error> {
    syscalls::netns_cookie_here()
}

impl Netns {
    /// Opens the network namespace at `path`.
    ///
    /// # Errors
    ///
    /// If the path does not exist, is not a network namespace, or is the host's own.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        NetnsFile::open(path)?.identify()
    }

    /// Its identity.
    pub(crate) fn id(&self) -> Id {
        self.id
    }

    /// Its descriptor, for another process.
    pub(crate) fn into_descriptor(self) -> OwnedFd {
        self.file.into()
    }

    /// The path that was opened.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The mapping of its users and groups to the initial user namespace.
    pub(crate) fn users(&self) -> Result<Users, Error> {
        Users::of(self.file.as_fd())
    }

    /// Its interfaces, with their addresses.
    pub(crate) fn interfaces(&self) -> Result<Vec<Interface>, Error> {
        self.run_in(links::interfaces)?
    }

    /// Its routing table.
    pub(crate) fn routes(&self) -> Result<RoutingTable, Error> {
        self.run_in(routes::routes)?
    }

    /// The preferred source address of each network in its routes.
    pub(crate) fn sources(&self) -> Result<Vec<SourceRoute>, Error> {
        self.run_in(routes::sources)?
    }

    /// Installs `local` routes with preferred sources, and removes those to other networks. Returns
    /// the routes that the namespace refuses.
    pub(crate) fn install_local_routes(
        &self,
        gone: &[IpNet],
        new: &[SourceRoute],
    ) -> Result<Vec<SourceRoute>, Error> {
        self.run_in(|| routes::install_local_routes(gone, new))?
    }

    /// The subset of these routes that is installed.
    pub(crate) fn installed(&self, routes: &[SourceRoute]) -> Result<Vec<SourceRoute>, Error> {
        self.run_in(|| routes::installed(routes))?
    }

    /// The settings that [`SourceRouting`] needs and that are off.
    pub(crate) fn switches_off(&self, families: Families) -> Result<Switches, Error> {
        self.run_in(move || source_routing::switches_off(families))?
    }

    /// The subset of some ports that the kernel may select for a socket.
    pub(crate) fn unreserved(&self, ports: ReservedPorts) -> Result<ReservedPorts, Error> {
        if ports.is_empty() {
            return Ok(ports);
        }
        self.port_list()?.unreserved(ports)
    }

    /// Releases some reserved ports, then reserves others.
    pub(crate) fn reserve(&self, gone: ReservedPorts, new: ReservedPorts) -> Result<(), Error> {
        if gone.is_empty() && new.is_empty() {
            return Ok(());
        }
        self.port_list()?.change(gone, new)
    }

    fn port_list(&self) -> Result<&PortList, Error> {
        if let Some(list) = self.port_list.get() {
            return Ok(list);
        }
        let list = self.run_in(PortList::here)??;
        Ok(self.port_list.get_or_init(|| list))
    }

    /// Installs the routing of connections that keep their source. Removes it again after an error.
    pub(crate) fn install_source_routing(&self, routing: SourceRouting) -> Result<(), Error> {
        self.run_in(move || source_routing::install(&routing))?
    }

    /// Removes it, and switches `switches` off.
    pub(crate) fn remove_source_routing(&self, switches: Switches) -> Result<(), Error> {
        self.run_in(move || source_routing::remove(switches))?
    }

    /// Whether it is installed as a whole.
    pub(crate) fn has_source_routing(&self, routing: SourceRouting) -> Result<bool, Error> {
        self.run_in(move || source_routing::is_installed(&routing))?
    }

    /// The interfaces from which IP packets can come.
    pub(crate) fn virtual_links(&self) -> Result<Vec<VirtualLink>, Error> {
        self.run_in(links::all)?
    }

    /// Installs the rules of virtual interfaces, then the programs, in the order of the links. Detaches
    /// the programs of the interfaces in `gone`.
    pub(crate) fn install_rerouting(
        &self,
        rerouting: &Rerouting,
        programs: Vec<[OwnedFd; 2]>,
        gone: &[VirtualLink],
    ) -> Result<(), Error> {
        self.run_in(|| {
            rerouting::install(rerouting, programs)?;
            rerouting::detach(gone)
        })?
    }

    /// Removes them, if there are any.
    pub(crate) fn remove_rerouting(&self) -> Result<(), Error> {
        self.run_in(rerouting::remove)?
    }

    /// Whether they are installed as a whole.
    pub(crate) fn has_rerouting(&self, rerouting: &Rerouting) -> Result<bool, Error> {
        self.run_in(|| rerouting::is_installed(rerouting))?
    }

    /// Adds an address to the loopback interface. `false` if it exists already.
    pub(crate) fn add_to_loopback(&self, address: IpAddr) -> Result<bool, Error> {
        self.run_in(move || links::add_to_loopback(address))?
    }

    /// Removes an address from the loopback interface, if it exists.
    pub(crate) fn remove_from_loopback(&self, address: IpAddr) -> Result<(), Error> {
        self.run_in(move || links::remove_from_loopback(address))?
    }

    /// Its listening TCP sockets.
    pub(crate) fn sockets(&self) -> Result<ListenSockets, Error> {
        self.run_in(ListenSockets::here)?
    }

    /// Passes each of its TCP sockets to `take`, the listening ones first.
    pub(crate) fn each_tcp_socket(&self, take: impl FnMut(TcpSocket) + Send) -> Result<(), Error> {
        self.run_in(|| tcp_sockets::each(take))?
    }

    /// Ends a connection. One that is gone is no error.
    pub(crate) fn destroy(&self, socket: SocketId) -> Result<(), Error> {
        self.run_in(move || tcp_sockets::destroy(socket))?
    }

    /// The interfaces with a peer in the host's netns.
    pub(crate) fn uplinks(&self) -> Result<Vec<u32>, Error> {
        // If the host's processes are not visible, only the daemon's own namespace counts.
        let hosts: Vec<_> = (HOST_PATHS.iter())
            .filter_map(|path| File::open(path).ok())
            .collect();
        self.run_in(move || links::uplinks(&hosts))?
    }

    /// Whether its own netfilter rules redirect its connections.
    pub(crate) fn rewrites_own_connections(&self) -> Result<bool, Error> {
        self.run_in(rules::rewrites_own_connections)?
    }

    /// The listeners on a port of the proxy, duplicated from the processes that own them.
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

    /// Runs `work` inside the namespace.
    fn run_in<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
        enter::run_in(self.file.as_fd(), work)
    }
}

impl Id {
    /// The identity of no namespace on this machine.
    #[cfg(test)]
    pub(crate) fn with_cookie(cookie: u64) -> Self {
        let inode = Inode { dev: 0, ino: 0 };
        Self { inode, cookie }
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

    /// `None` if the path does not exist, or the process is gone.
    fn at(path: impl AsRef<Path>) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        Some(Self {
            dev: metadata.dev(),
            ino: metadata.ino(),
        })
    }
}

/// An open network namespace that no thread has entered.
#[derive(Debug)]
pub(crate) struct NetnsFile {
    file: File,
    path: PathBuf,
    inode: Inode,
}

impl NetnsFile {
    /// Opens a file, and checks that it is a network namespace other than the host's. The path is
    /// untrusted: a FIFO there must not block the daemon, hence `O_NONBLOCK`.
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

    /// Whether the initial user namespace owns it: its creator then had `CAP_SYS_ADMIN` there.
    ///
    /// # Errors
    ///
    /// If the kernel does not return the owner.
    pub(crate) fn is_of_hosts_users(&self) -> Result<bool, Error> {
        Ok(users::owner(self.file.as_fd())?.is_none())
    }

    /// Reads its cookie, inside.
    ///
    /// # Errors
    ///
    /// If it cannot be entered.
    pub(crate) fn identify(self) -> Result<Netns, Error> {
        let cookie = enter::run_in(self.file.as_fd(), syscalls::netns_cookie_here)??;
        Ok(self.identified(cookie))
    }

    fn identified(self, cookie: u64) -> Netns {
        let Self { file, path, inode } = self;
        Netns {
            file,
            path,
            id: Id { inode, cookie },
            port_list: OnceLock::new(),
        }
    }
}
