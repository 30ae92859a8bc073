//! Sockets of other processes that listen already.
//!
//! The kernel tells over `sock_diag` whether there are any, and their inodes; only then are the
//! descriptors of the namespace's processes looked through. (`/proc/net/tcp` tells the same, but
//! each read walks the table of every connection of the machine: 12 ms against 0.1 ms.)

use std::{
    collections::BTreeSet,
    fs, io,
    os::fd::{AsFd as _, OwnedFd, RawFd},
    path::Path,
};

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP},
    inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};
use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, SockaddrLike as _, SockaddrStorage, getsockname, getsockopt,
        sockopt::AcceptConn,
    },
};

use super::{Error, Id, Inode, kernel};

/// A listening socket, shared with the process that made it.
#[derive(Debug)]
pub(crate) struct Listener {
    /// The socket.
    pub(crate) socket: OwnedFd,
    /// `AF_INET` or `AF_INET6`.
    pub(crate) family: u16,
}

/// Port and inode of each TCP socket that listens in a network namespace.
#[derive(Debug)]
pub(crate) struct Listening(Vec<(u16, u64)>);

impl Listening {
    /// Those of this thread's network namespace.
    pub(super) fn here() -> Result<Self, Error> {
        all().map(Self).map_err(|source| Error::Io {
            what: "NETLINK_SOCK_DIAG",
            source,
        })
    }

    /// Whether some listen on a port.
    pub(crate) fn any_on(&self, port: u16) -> bool {
        self.on(port).next().is_some()
    }

    /// The inodes of those that do.
    pub(super) fn on(&self, port: u16) -> impl Iterator<Item = u64> {
        let on_port = self.0.iter().filter(move |(at, _)| *at == port);
        on_port.map(|(_, inode)| *inode)
    }
}

fn all() -> io::Result<Vec<(u16, u64)>> {
    let socket = Socket::new(NETLINK_SOCK_DIAG)?;
    let mut found = Vec::new();
    for id in [SocketId::new_v4(), SocketId::new_v6()] {
        let sockets = dump(&socket, id)?.into_iter().map(|answer| answer.header);
        found.extend(sockets.map(|one| (one.socket_id.source_port, u64::from(one.inode))));
    }
    Ok(found)
}

/// Every listening TCP socket of the family of `id` (`sock_diag(7)`).
fn dump(socket: &Socket, id: SocketId) -> io::Result<Vec<InetResponse>> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let family = if id.source_address.is_ipv4() {
        AF_INET
    } else {
        AF_INET6
    };
    let request = SockDiagMessage::InetRequest(InetRequest {
        family,
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::LISTEN,
        socket_id: id,
    });
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send_to(&bytes, &SocketAddr::new(0, 0), 0)?;

    let mut found = Vec::new();
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        if !take(&datagram, &mut found)? {
            return Ok(found);
        }
    }
}

/// Takes the answers out of one datagram. `false` after the last.
fn take(mut datagram: &[u8], found: &mut Vec<InetResponse>) -> io::Result<bool> {
    while !datagram.is_empty() {
        let message = NetlinkMessage::<SockDiagMessage>::deserialize(datagram)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        match message.payload {
            NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(answer)) => {
                found.push(*answer);
            }
            NetlinkPayload::Error(error) => return Err(error.to_io()),
            NetlinkPayload::Done(_) => return Ok(false),
            _ => {}
        }
        // Messages are aligned to four bytes (`netlink(7)`).
        let length = (message.header.length as usize).next_multiple_of(4).max(4);
        datagram = datagram.get(length..).unwrap_or_default();
    }
    Ok(true)
}

/// Fetches the sockets with these inodes. Processes that end meanwhile are passed over.
///
/// # Errors
///
/// If the kernel does not let one be fetched.
pub(super) fn fetch(
    netns: Id,
    port: u16,
    mut inodes: BTreeSet<u64>,
) -> Result<Vec<Listener>, Error> {
    let mut found = Vec::new();
    let processes = fs::read_dir("/proc").map_err(|source| Error::Io {
        what: "/proc",
        source,
    })?;
    for process in processes.flatten() {
        let path = process.path();
        let pid = process.file_name().to_str().and_then(|n| n.parse().ok());
        if let Some(pid) = pid
            && Inode::at(path.join("ns/net")) == Some(netns.inode)
        {
            let fetched = fetch_from(&path, pid, netns, port, &mut inodes);
            found.extend(fetched.map_err(|source| Error::Fetch { pid, source })?);
        }
        if inodes.is_empty() {
            break;
        }
    }
    Ok(found)
}

fn fetch_from(
    path: &Path,
    pid: i32,
    netns: Id,
    port: u16,
    inodes: &mut BTreeSet<u64>,
) -> io::Result<Vec<Listener>> {
    let Some(process) = unless_gone(kernel::pidfd_open(pid).map_err(Into::into))? else {
        return Ok(Vec::new());
    };
    let Some(fds) = unless_gone(fs::read_dir(path.join("fd")))? else {
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
        let socket = unless_gone(kernel::pidfd_getfd(process.as_fd(), number).map_err(Into::into))?;
        if let Some(listener) = socket.and_then(|socket| Listener::of(socket, netns, port)) {
            inodes.remove(&inode);
            found.push(listener);
        }
    }
    Ok(found)
}

/// Nothing, if the process or its descriptor is gone.
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

impl Listener {
    /// The descriptor may have changed since it was looked at, so the socket itself is asked.
    fn of(socket: OwnedFd, netns: Id, port: u16) -> Option<Self> {
        let same_netns = kernel::netns_cookie(socket.as_fd()) == Ok(netns.cookie);
        let listens = getsockopt(&socket, AcceptConn) == Ok(true);
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

/// `socket:[4711]` → `4711`.
fn socket_inode(link: &str) -> Option<u64> {
    link.strip_prefix("socket:[")?
        .strip_suffix(']')?
        .parse()
        .ok()
}

/// One reply of `NETLINK_SOCK_DIAG`.
#[cfg(fuzzing)]
pub(super) fn fuzz(datagram: &[u8]) {
    let mut found = Vec::new();
    let _complete = take(datagram, &mut found);
    assert!(found.len() <= datagram.len() / 4);
}

#[cfg(test)]
mod tests {
    use std::{
        net::{TcpListener, TcpStream},
        os::fd::AsRawFd as _,
    };

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_listeners_on_the_port_are_found() {
        let listeners = ["127.0.0.1:0", "[::1]:0"].map(|at| TcpListener::bind(at).unwrap());
        for listener in listeners {
            let at = listener.local_addr().unwrap();
            let _connected = TcpStream::connect(at).unwrap();
            let link = fs::read_link(format!("/proc/self/fd/{}", listener.as_raw_fd())).unwrap();
            let inode = socket_inode(link.to_str().unwrap()).unwrap();
            let found = Listening::here().unwrap();
            assert_eq!(found.on(at.port()).collect::<Vec<_>>(), [inode]);
            assert!(!found.any_on(1));
        }
    }

    #[test]
    fn only_links_to_sockets_have_an_inode() {
        assert_eq!(socket_inode("socket:[12]"), Some(12));
        assert_eq!(socket_inode("pipe:[12]"), None);
        assert_eq!(socket_inode("/tmp/socket:[12]"), None);
    }

    proptest! {
        #[test]
        fn no_datagram_makes_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _either = take(&bytes, &mut Vec::new());
        }
    }
}
