//! Existing listening sockets of other processes.
//!
//! The kernel lists them over `sock_diag`, with their inodes; only if there are any, the
//! descriptors of the namespace's processes are searched. (`/proc/net/tcp` has the same data, but
//! each read walks the machine's whole connection table: 12 ms against 0.1 ms.)

use std::{
    collections::BTreeSet,
    fs, io,
    os::fd::{AsFd as _, OwnedFd, RawFd},
    path::Path,
};

use netlink_packet_core::NlasIterator;
use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, SockaddrLike as _, SockaddrStorage, getsockname, getsockopt,
        sockopt::{AcceptConn, Mark, SockType},
    },
    sys::stat::fstat,
};

use super::{Error, Id, Inode, netlink::Limit, sockstat, syscalls, tcp_sockets};

/// The limit of sockets of both families.
const SOCKETS: Limit = Limit {
    what: "listening TCP sockets",
    most: 32_768,
};
/// The limit of other users' sockets that are duplicated to read their group.
const MOST_UNCLEAR: usize = 64;
/// `struct inet_diag_msg` and `INET_DIAG_MARK` (`linux/inet_diag.h`).
const ANSWER: usize = 72;
const MARK: u16 = 15;
/// `1 << TCP_LISTEN`.
const LISTENING: u32 = 1 << 10;

/// The sockets on a port of the proxy.
#[derive(Debug, Default)]
pub(crate) struct Fetched {
    /// The proxy's own.
    pub(crate) listeners: Vec<ListenSocket>,
    /// The number of foreign listeners.
    pub(crate) foreign: usize,
}

/// A listening socket, shared with the process that created it.
#[derive(Debug)]
pub(crate) struct ListenSocket {
    /// The socket.
    pub(crate) socket: OwnedFd,
    /// `AF_INET` or `AF_INET6`.
    pub(crate) family: u16,
}

/// The owner by which a listening socket is the proxy's. The kernel programs apply the same rule to
/// connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProxyUser {
    /// The proxy's user in the initial user namespace.
    pub(crate) uid: u32,
    /// Its group, likewise.
    pub(crate) gid: u32,
    /// The mark of its sockets, under `mark_mask`.
    pub(crate) mark: u32,
    /// The mask of the mark; zero if the user alone identifies the proxy.
    pub(crate) mark_mask: u32,
    /// The user who may listen on the outbound port before the proxy does, if there is one.
    pub(crate) validator: Option<u32>,
}

impl ProxyUser {
    /// The proxy's user in the form of the kernel programs.
    pub(crate) fn of(pod: &sluice_abi::PodConfig) -> Self {
        Self {
            uid: pod.proxy_uid,
            gid: pod.proxy_gid,
            mark: pod.mark,
            mark_mask: pod.mark_mask,
            validator: (pod.validator_uid != 0).then_some(pod.validator_uid),
        }
    }

    /// Whether a process with this user or this group may be the proxy. One that its mark identifies
    /// may have any.
    pub(crate) fn is_user_of(&self, uid: u32, gid: u32) -> bool {
        uid == self.uid || gid == self.gid || self.mark_mask != 0
    }

    fn has_mark(&self, mark: u32) -> bool {
        self.mark_mask != 0 && mark & self.mark_mask == self.mark
    }
}

/// A listening socket, as `sock_diag` describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Described {
    port: u16,
    inode: u64,
    /// Its user in the initial user namespace.
    uid: u32,
    mark: u32,
}

impl Described {
    fn parse(body: &[u8]) -> Option<Self> {
        let number = |at: usize| {
            let bytes = body.get(at..)?.first_chunk()?;
            Some(u32::from_ne_bytes(*bytes))
        };
        let mut attributes = NlasIterator::new(body.get(ANSWER..).unwrap_or_default()).flatten();
        let mark = attributes.find(|one| one.kind() == MARK);
        let mark = mark.and_then(|one| one.value().first_chunk().copied());
        Some(Self {
            port: u16::from_be_bytes(*body.get(4..)?.first_chunk()?),
            inode: number(68)?.into(),
            uid: number(64)?,
            mark: mark.map_or(0, u32::from_ne_bytes),
        })
    }

    fn is_of(&self, proxy: ProxyUser) -> bool {
        self.uid == proxy.uid || proxy.has_mark(self.mark)
    }
}

/// The listening TCP sockets of a netns.
#[derive(Debug)]
pub(crate) struct ListenSockets(Vec<Described>);

impl ListenSockets {
    /// The sockets of this thread's netns.
    pub(super) fn here() -> Result<Self, Error> {
        let mut found = Vec::new();
        if !sockstat::may_exist() {
            return Ok(Self(found));
        }
        tcp_sockets::dump(LISTENING, SOCKETS, |body| {
            found.extend(Described::parse(body));
        })?;
        Ok(Self(found))
    }

    /// Whether a socket listens on a port.
    pub(crate) fn any_on(&self, port: u16) -> bool {
        self.0.iter().any(|one| one.port == port)
    }

    /// The inodes of the sockets that listen on a port.
    pub(crate) fn inodes_on(&self, port: u16) -> impl Iterator<Item = u64> {
        let on_port = self.0.iter().filter(move |one| one.port == port);
        on_port.map(|one| one.inode)
    }

    /// Whether the proxy's user, or a socket with its mark, listens on a port. The group is not
    /// known here: see [`Netns::dup_listeners`](super::Netns::dup_listeners).
    pub(crate) fn any_of_proxy_on(&self, port: u16, proxy: ProxyUser) -> bool {
        let mut on_port = self.0.iter().filter(|one| one.port == port);
        on_port.any(|one| one.is_of(proxy))
    }

    /// The user of a socket on the outbound port who is neither the proxy's nor the validator's, if there
    /// is one.
    pub(crate) fn foreign_user_on(&self, port: u16, proxy: ProxyUser) -> Option<u32> {
        let mut on_port = self.0.iter().filter(|one| one.port == port);
        let is_foreign = |one: &&Described| !one.is_of(proxy) && Some(one.uid) != proxy.validator;
        on_port.find(is_foreign).map(|one| one.uid)
    }

    /// The inodes of the sockets on a port that may be the proxy's, and the number of the others.
    /// The group of a socket is not known before it is duplicated.
    pub(super) fn candidates(&self, port: u16, proxy: ProxyUser) -> (BTreeSet<u64>, usize) {
        let on_port = self.0.iter().filter(|one| one.port == port);
        let (sure, unclear): (Vec<&Described>, Vec<_>) = on_port.partition(|one| one.is_of(proxy));
        let beyond = unclear.len().saturating_sub(MOST_UNCLEAR);
        let duplicated = sure.iter().chain(unclear.iter().take(MOST_UNCLEAR));
        (
            duplicated.map(|one: &&Described| one.inode).collect(),
            beyond,
        )
    }
}

/// Whether the kernel lists TCP sockets: `inet_diag` and `tcp_diag` are built in, loaded, or loaded by this request.
///
/// # Errors
///
/// [`Error::Io`] with the kernel's error if it does not.
pub(crate) fn probe_socket_diagnostics() -> Result<(), Error> {
    // No socket is in none of the states: the list is empty.
    tcp_sockets::dump(0, SOCKETS, |_| {})
}

/// Duplicates the sockets with these inodes, and separates the proxy's from foreign ones. Processes
/// that end meanwhile are skipped.
///
/// The processes of the netns come first. A proxy that is known by a mark may run elsewhere and open
/// its sockets in the Pod's netns: its sockets are then searched in every process.
///
/// # Errors
///
/// If the kernel denies the duplication of a socket.
pub(super) fn dup_from_owner(
    netns: Id,
    port: u16,
    proxy: ProxyUser,
    mut inodes: BTreeSet<u64>,
) -> Result<Fetched, Error> {
    let mut found = Fetched::default();
    if inodes.is_empty() {
        return Ok(found);
    }
    let is_inside = |pid: &i32| {
        Inode::at(Path::new("/proc").join(pid.to_string()).join("ns/net")) == Some(netns.inode)
    };
    let (inside, outside): (Vec<_>, Vec<_>) = processes()?.into_iter().partition(is_inside);
    let elsewhere = outside.into_iter().filter(|_| proxy.mark_mask != 0);
    for pid in inside.into_iter().chain(elsewhere) {
        if inodes.is_empty() {
            break;
        }
        let duplicated = dup_from_process(pid, netns, port, &mut inodes);
        for listener in duplicated.map_err(|source| Error::Fetch { pid, source })? {
            if listener.is_of(proxy) {
                found.listeners.push(listener);
            } else {
                found.foreign += 1;
            }
        }
    }
    Ok(found)
}

/// The ids of all processes.
fn processes() -> Result<Vec<i32>, Error> {
    let failed = |source| Error::Io {
        what: "/proc",
        source,
    };
    let entries = fs::read_dir("/proc").map_err(failed)?.flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    Ok(pids.collect())
}

fn dup_from_process(
    pid: i32,
    netns: Id,
    port: u16,
    inodes: &mut BTreeSet<u64>,
) -> io::Result<Vec<ListenSocket>> {
    let Some(process) = unless_gone(syscalls::pidfd_open(pid).map_err(Into::into))? else {
        return Ok(Vec::new());
    };
    let Some(fds) = unless_gone(fs::read_dir(format!("/proc/{pid}/fd")))? else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for fd in fds.flatten() {
        let inode = fs::read_link(fd.path())
            .ok()
            .and_then(|target| socket_inode(target.to_str()?));
        let number: Option<RawFd> = fd.file_name().to_str().and_then(|n| n.parse().ok());
        let (Some(inode), Some(number)) = (inode, number) else {
            continue;
        };
        if !inodes.contains(&inode) {
            continue;
        }
        let socket =
            unless_gone(syscalls::pidfd_getfd(process.as_fd(), number).map_err(Into::into))?;
        if let Some(listener) = socket.and_then(|socket| ListenSocket::of(socket, netns, port)) {
            inodes.remove(&inode);
            found.push(listener);
        }
    }
    Ok(found)
}

/// `None` if the process or its descriptor is gone.
fn unless_gone<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    let gone = [Errno::ENOENT, Errno::ESRCH, Errno::EBADF];
    match result {
        Err(error)
            if gone
                .iter()
                .any(|one| error.raw_os_error() == Some(*one as i32)) =>
        {
            Ok(None)
        }
        other => other.map(Some),
    }
}

impl ListenSocket {
    /// The descriptor may have changed since the lookup, so the socket's own options decide.
    fn of(socket: OwnedFd, netns: Id, port: u16) -> Option<Self> {
        let same_netns = syscalls::netns_cookie(socket.as_fd()) == Ok(netns.cookie);
        let listens = getsockopt(&socket, AcceptConn) == Ok(true)
            && getsockopt(&socket, SockType) == Ok(nix::sys::socket::SockType::Stream);
        let address: SockaddrStorage =
            getsockname(std::os::fd::AsRawFd::as_raw_fd(&socket)).ok()?;
        let family = address.family()?;
        let bound = match family {
            AddressFamily::Inet => address.as_sockaddr_in()?.port(),
            AddressFamily::Inet6 => address.as_sockaddr_in6()?.port(),
            _ => return None,
        };
        (same_netns && listens && bound == port).then(|| Self {
            socket,
            family: family as u16,
        })
    }
}

impl ListenSocket {
    /// The owner is the filesystem uid of the process that created the socket.
    fn is_of(&self, proxy: ProxyUser) -> bool {
        let owned = fstat(&self.socket)
            .is_ok_and(|owner| owner.st_uid == proxy.uid || owner.st_gid == proxy.gid);
        owned || getsockopt(&self.socket, Mark).is_ok_and(|mark| proxy.has_mark(mark))
    }
}

/// `socket:[4711]` → `4711`.
pub(super) fn socket_inode(link: &str) -> Option<u64> {
    link.strip_prefix("socket:[")?
        .strip_suffix(']')?
        .parse()
        .ok()
}

/// One reply of `NETLINK_SOCK_DIAG`.
#[cfg(fuzzing)]
pub(super) fn fuzz(datagram: &[u8]) {
    let mut found = Vec::new();
    let _complete = super::netlink::walk(datagram, &mut |body| {
        found.extend(Described::parse(body));
        true
    });
    assert!(found.len() <= datagram.len() / 4);
}

#[cfg(test)]
mod tests;
