//! The TCP sockets of a network namespace: lists them one at a time, and ends one.
//!
//! One `sock_diag` dump has both families, and the listening sockets first. (`SOCK_DIAG_BY_FAMILY`
//! would need a walk of the machine's connection table for each family.)

use netlink_packet_core::NlasIterator;
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use sluice_abi::{Addr, Endpoint, Port};

use super::{
    Error,
    netlink::{Limit, Request},
};

/// The limit of sockets of one namespace. The kernel's connection table has at most 524,288 buckets.
const SOCKETS: Limit = Limit {
    what: "TCP sockets",
    most: 1 << 20,
};
/// `TCPDIAG_GETSOCK` and `struct inet_diag_req`; `SOCK_DESTROY` and `struct inet_diag_req_v2`
/// (`linux/inet_diag.h`, `linux/sock_diag.h`).
const GET_ALL: u16 = 18;
const GET_ALL_BYTES: usize = 60;
const DESTROY: u16 = 21;
const DESTROY_BYTES: usize = 56;
/// `struct inet_diag_msg`, and the place of its `struct inet_diag_sockid`.
const ANSWER: usize = 72;
const ID: std::ops::Range<usize> = 4..52;
/// `INET_DIAG_INFO`, and its bit in `idiag_ext`; `INET_DIAG_MARK`.
const INFO: u16 = 2;
const WITH_INFO: u8 = 1 << (INFO - 1);
const MARK: u16 = 15;
/// `IPPROTO_TCP`.
const TCP: u8 = 6;

/// A state of a socket (`net/tcp_states.h`).
const SYN_SENT: u8 = 2;
const FIN_WAIT1: u8 = 4;
const FIN_WAIT2: u8 = 5;
const CLOSE_WAIT: u8 = 8;
const LAST_ACK: u8 = 9;
const LISTEN: u8 = 10;
const CLOSING: u8 = 11;
/// The states in which a process may hold the socket of a connection, and `LISTEN`. A socket in
/// `TIME_WAIT` or `SYN_RECV` belongs to no process.
const WANTED: u32 = 1 << 1
    | 1 << SYN_SENT
    | 1 << FIN_WAIT1
    | 1 << FIN_WAIT2
    | 1 << CLOSE_WAIT
    | 1 << LAST_ACK
    | 1 << LISTEN
    | 1 << CLOSING;

/// A TCP socket that a process may hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TcpSocket {
    /// Its own end.
    pub(crate) local: Endpoint,
    /// The peer's end; port 0 if it listens.
    pub(crate) remote: Endpoint,
    /// The inode of its file; zero if no process holds it.
    pub(crate) inode: u64,
    /// Its owner in the initial user namespace.
    pub(crate) uid: u32,
    /// Its mark.
    pub(crate) mark: u32,
    /// The interface that it is bound to, or zero.
    pub(crate) interface: u32,
    /// The end that it is, if the kernel's counters show it.
    pub(crate) side: Option<Side>,
    /// Milliseconds since the last data or acknowledgement: the connection is at least that old.
    pub(crate) quiet_ms: u32,
    /// Bytes that the peer has acknowledged, and that it has sent.
    pub(crate) bytes: (u64, u64),
    state: u8,
    id: SocketId,
}

/// The end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// It connected.
    Client,
    /// It was accepted.
    Server,
}

impl Side {
    /// The side of the other end.
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// The kernel's name of a socket, never reused (`struct inet_diag_sockid` with its cookie).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SocketId {
    family: u8,
    id: [u8; ID.end - ID.start],
}

impl TcpSocket {
    /// Whether it listens.
    pub(crate) fn is_listening(&self) -> bool {
        self.state == LISTEN
    }

    /// Whether the peer has ended its direction: it sends nothing more.
    pub(crate) fn peer_has_ended(&self) -> bool {
        [CLOSE_WAIT, LAST_ACK].contains(&self.state)
    }

    /// The kernel's name of it.
    pub(crate) fn id(&self) -> SocketId {
        self.id
    }

    fn parse(body: &[u8]) -> Option<Self> {
        let (family, state) = (*body.first()?, *body.get(1)?);
        let endpoint = |port: usize, addr: usize| {
            let port = Port::from_be(u16::from_ne_bytes(*body.get(port..)?.first_chunk()?));
            let mut words = [0; 4];
            for (index, word) in words.iter_mut().enumerate() {
                *word = number(body, addr + 4 * index)?;
            }
            let addr = match i32::from(family) {
                libc::AF_INET => Addr::v4(words[0]),
                _ => Addr::v6(words),
            };
            Some(Endpoint::new(addr, port))
        };
        let mut socket = Self {
            local: endpoint(4, 8)?,
            remote: endpoint(6, 24)?,
            inode: number(body, 68)?.into(),
            uid: number(body, 64)?,
            mark: 0,
            interface: number(body, 40)?,
            side: (state == SYN_SENT).then_some(Side::Client),
            quiet_ms: 0,
            bytes: (0, 0),
            state,
            id: SocketId {
                family,
                id: *body.get(ID)?.first_chunk()?,
            },
        };
        let queued = number(body, 60)?;
        for attribute in NlasIterator::new(body.get(ANSWER..).unwrap_or_default()).flatten() {
            match attribute.kind() {
                MARK => socket.mark = number(attribute.value(), 0).unwrap_or_default(),
                INFO => socket.note(attribute.value(), queued),
                _ => {}
            }
        }
        Some(socket)
    }

    /// Reads `struct tcp_info` (`linux/tcp.h`).
    fn note(&mut self, info: &[u8], queued: u32) {
        if self.is_listening() {
            return;
        }
        let times = [44, 52, 56].map(|at| number(info, at).unwrap_or_default());
        self.quiet_ms = times.into_iter().max().unwrap_or_default();
        let acked = long(info, 120).unwrap_or_default();
        self.bytes = (acked, long(info, 128).unwrap_or_default());
        self.side = self.side.or_else(|| side(info, acked, queued));
    }
}

/// The end of a connection, from the kernel's counters: the acknowledgement of a SYN counts as one byte, and only a
/// client has sent one. A FIN counts as one byte, too, and follows all others.
///
/// The kernel reads `queued` first, and `info` afterwards under the socket's lock. If bytes were acknowledged between
/// the two, the counters show nothing: a difference other than 0 and 1, or bytes in flight by one of them alone.
fn side(info: &[u8], acked: u64, queued: u32) -> Option<Side> {
    let state = *info.first()?;
    let unsent = number(info, 144)?;
    let sent = long(info, 200)?.wrapping_sub(long(info, 208)?);
    let in_flight = u64::from(queued.wrapping_sub(unsent));
    let is_idle = number(info, 24)? == 0;
    if is_idle != (in_flight == 0) {
        return None;
    }
    let ends = matches!(state, FIN_WAIT1 | FIN_WAIT2 | CLOSING | LAST_ACK);
    let fin = u64::from(ends && unsent == 0);
    let bytes = sent.wrapping_sub(in_flight).wrapping_add(fin);
    match acked.wrapping_sub(bytes) {
        0 => Some(Side::Server),
        1 => Some(Side::Client),
        _ => None,
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Passes each socket of this thread's netns to `take`, the listening ones first.
///
/// # Errors
///
/// If the kernel does not list them, or there are more than a Pod may have.
pub(super) fn each(mut take: impl FnMut(TcpSocket)) -> Result<(), Error> {
    dump_with(WITH_INFO, WANTED, SOCKETS, |body| {
        if let Some(socket) = TcpSocket::parse(body) {
            take(socket);
        }
    })
}

/// Passes the description of each socket in one of these states (bits `1 << TCP_…`) to `take`: a
/// `struct inet_diag_msg` with attributes.
///
/// # Errors
///
/// If the kernel does not list them, or there are more than `limit`.
pub(super) fn dump(states: u32, limit: Limit, take: impl FnMut(&[u8])) -> Result<(), Error> {
    dump_with(0, states, limit, take)
}

fn dump_with(
    extensions: u8,
    states: u32,
    limit: Limit,
    take: impl FnMut(&[u8]),
) -> Result<(), Error> {
    let mut body = [0; GET_ALL_BYTES];
    body[3] = extensions;
    body[52..56].copy_from_slice(&states.to_ne_bytes());
    let request = Request {
        family: "NETLINK_SOCK_DIAG",
        protocol: NETLINK_SOCK_DIAG,
        kind: GET_ALL,
        body: &body,
    };
    request.dump(limit, take)
}

/// Ends a connection of this thread's netns: its process and its peer see a reset. A connection that
/// is gone is no error.
///
/// # Errors
///
/// [`Error::NoDestroy`] if the kernel cannot do that.
pub(super) fn destroy(socket: SocketId) -> Result<(), Error> {
    let mut body = [0; DESTROY_BYTES];
    body[0] = socket.family;
    body[1] = TCP;
    body[8..].copy_from_slice(&socket.id);
    let request = Request {
        family: "SOCK_DESTROY",
        protocol: NETLINK_SOCK_DIAG,
        kind: DESTROY,
        body: &body,
    };
    match request.act() {
        Err(Error::Io { source, .. }) if source.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        Err(Error::Io { source, .. }) if source.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            Err(Error::NoDestroy)
        }
        done => done,
    }
}

/// One reply of the dump.
#[cfg(fuzzing)]
pub(super) fn fuzz(datagram: &[u8]) {
    let _complete = super::netlink::walk(datagram, &mut |body| {
        let _any = TcpSocket::parse(body);
        true
    });
}

#[cfg(test)]
impl TcpSocket {
    /// An established socket.
    pub(crate) fn example(local: Endpoint, remote: Endpoint, uid: u32) -> Self {
        Self {
            local,
            remote,
            inode: 1,
            uid,
            mark: 0,
            interface: 0,
            side: None,
            quiet_ms: 0,
            bytes: (0, 0),
            state: 1,
            id: SocketId {
                family: 2,
                id: [0; ID.end - ID.start],
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    };

    use proptest::prelude::*;

    use super::*;

    fn all() -> Vec<TcpSocket> {
        let mut found = Vec::new();
        each(|socket| found.push(socket)).unwrap();
        found
    }

    fn between(local: SocketAddr, remote: SocketAddr) -> Option<TcpSocket> {
        let is_it = |one: &TcpSocket| one.local == local.into() && one.remote == remote.into();
        all().into_iter().find(is_it)
    }

    #[test]
    fn each_end_of_a_connection_is_recognized() {
        for at in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(at).unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (mut server, _) = listener.accept().unwrap();
            let ends = (client.local_addr().unwrap(), server.local_addr().unwrap());
            for exchange in [0, 1, 100_000] {
                let sent = vec![7; exchange];
                client.write_all(&sent).unwrap();
                server.read_exact(&mut vec![0; exchange]).unwrap();
                server.write_all(&sent).unwrap();
                client.read_exact(&mut vec![0; exchange]).unwrap();
                let here = between(ends.0, ends.1).unwrap();
                let there = between(ends.1, ends.0).unwrap();
                assert_eq!(here.side, Some(Side::Client), "{at} {exchange} {here:?}");
                assert_eq!(there.side, Some(Side::Server), "{at} {exchange} {there:?}");
                assert!(here.inode != 0 && here.uid == nix::unistd::geteuid().as_raw());
            }
            let first = all().iter().position(|one| !one.is_listening()).unwrap();
            assert!(all()[first..].iter().all(|one| !one.is_listening()));
        }
    }

    /// A proxy that has sent all, and still receives, holds such a socket.
    #[test]
    fn each_end_of_a_half_closed_connection_is_recognized() {
        for client_ends in [true, false] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (server, _) = listener.accept().unwrap();
            let ends = (client.local_addr().unwrap(), server.local_addr().unwrap());
            let [mut first, mut other] = if client_ends {
                [&client, &server]
            } else {
                [&server, &client]
            };
            first.write_all(&[7; 1000]).unwrap();
            first.shutdown(Shutdown::Write).unwrap();
            other.read_to_end(&mut Vec::new()).unwrap();
            let sides = || [ends, (ends.1, ends.0)].map(|(at, to)| between(at, to).unwrap().side);
            assert_eq!(sides(), [Some(Side::Client), Some(Side::Server)]);
            other.write_all(&[7; 10]).unwrap();
            assert_eq!(sides(), [Some(Side::Client), Some(Side::Server)]);
        }
    }

    #[test]
    fn fin_behind_unsent_data_does_not_count() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        server.set_nonblocking(true).unwrap();
        while server.write(&[7; 10_000]).is_ok() {}
        server.shutdown(Shutdown::Write).unwrap();
        let ends = (server.local_addr().unwrap(), client.local_addr().unwrap());
        // A probe of the closed window may be under way.
        let side = (0..100).find_map(|_| between(ends.0, ends.1).unwrap().side);
        assert_eq!(side, Some(Side::Server));
    }

    #[test]
    fn counters_show_the_end_in_each_state() {
        let info = |state: u8, unacked: u32, unsent: u32, sent: u64| {
            let mut info = [0; 232];
            info[0] = state;
            info[24..28].copy_from_slice(&unacked.to_ne_bytes());
            info[144..148].copy_from_slice(&unsent.to_ne_bytes());
            info[200..208].copy_from_slice(&sent.to_ne_bytes());
            info
        };
        // A SYN was acknowledged, and 100 bytes.
        for (state, unacked, unsent, sent, acked, queued, client) in [
            (1, 0, 0, 100, 101, 0, true),
            (1, 1, 0, 150, 101, 50, true),
            (FIN_WAIT1, 1, 0, 100, 101, 1, true),
            (FIN_WAIT1, 1, 31, 110, 101, 41, true),
            (FIN_WAIT2, 0, 0, 100, 102, 0, true),
            (CLOSING, 1, 0, 100, 100, 1, false),
            (LAST_ACK, 1, 0, 100, 100, 1, false),
            (FIN_WAIT2, 0, 0, 100, 101, 0, false),
        ] {
            let expected = if client { Side::Client } else { Side::Server };
            let found = side(&info(state, unacked, unsent, sent), acked, queued);
            assert_eq!(found, Some(expected), "{state} {acked}");
        }
        // The FIN was acknowledged after the kernel had counted it as queued.
        assert_eq!(side(&info(FIN_WAIT2, 0, 0, 100), 101, 1), None);
    }

    #[test]
    fn destroy_ends_one_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connect = || TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut one, mut other) = (connect(), connect());
        let found = between(one.local_addr().unwrap(), one.peer_addr().unwrap()).unwrap();
        destroy(found.id()).unwrap();
        assert!(one.write_all(b"x").is_err());
        assert!(other.write_all(b"x").is_ok());
        // It is gone.
        destroy(found.id()).unwrap();
    }

    proptest! {
        #[test]
        fn parser_accepts_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _either = TcpSocket::parse(&bytes);
        }
    }
}
