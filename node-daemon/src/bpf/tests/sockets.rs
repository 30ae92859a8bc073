//! Listeners and clients of the tests, and their view of a connection.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    ops::Deref,
    os::fd::AsRawFd,
    thread,
    time::{Duration, Instant},
};

use nix::sys::socket::{getsockopt, sockopt};

use super::lab::{APP, Netns, PATIENCE, PROXY, await_that};

/// A listener's view of an accepted connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Accepted {
    pub(super) peer: IpAddr,
    pub(super) original: Option<SocketAddr>,
}

/// The ports of a Pod's proxy.
pub(super) const PROXY_PORTS: [u16; 3] = [15001, 15006, 15053];

/// A listener of a test. Dropped, it takes no more connections.
///
/// A closed descriptor alone would take those of the next listener on its port while a process that another test
/// starts has a copy, between `fork` and `exec`. The port and the entry in `proxy_listeners` do last until then.
#[derive(Debug)]
pub(super) struct Listener(TcpListener);

impl Deref for Listener {
    type Target = TcpListener;

    fn deref(&self) -> &TcpListener {
        &self.0
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ended_before = socket2::SockRef::from(&self.0).shutdown(Shutdown::Both);
    }
}

/// A listener in a namespace, on every address of a family: as the proxy on its ports, otherwise as
/// root.
pub(super) fn listen(netns: &Netns, at: &str) -> Listener {
    listen_as(netns, owner_of(at.parse().unwrap()), at).unwrap()
}

/// The usual owner of a listener in a Pod.
pub(super) fn owner_of(at: SocketAddr) -> u32 {
    if PROXY_PORTS.contains(&at.port()) {
        PROXY
    } else {
        0
    }
}

/// A listener of a user.
pub(super) fn listen_as(netns: &Netns, user: u32, at: &str) -> io::Result<Listener> {
    let at: SocketAddr = at.parse().unwrap();
    netns.run_as(user, move || {
        let socket = socket2::Socket::new(
            socket2::Domain::for_address(at),
            socket2::Type::STREAM,
            None,
        )
        .unwrap();
        socket.set_reuse_port(true).unwrap();
        if at.is_ipv6() {
            socket.set_only_v6(false).unwrap();
        }
        socket.bind(&at.into())?;
        socket.listen(16)?;
        socket.set_nonblocking(true)?;
        Ok(Listener(socket.into()))
    })
}

/// Accepts a connection, answers with one byte, and returns its view. `None` if none arrives.
pub(super) fn accept(netns: &Netns, listener: &TcpListener, wait: Duration) -> Option<Accepted> {
    let listener = listener.try_clone().unwrap();
    netns.run_as(PROXY, move || {
        let end = Instant::now() + wait;
        let (mut stream, peer) = loop {
            match listener.accept() {
                Ok(accepted) => break accepted,
                Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < end => {
                    thread::sleep(Duration::from_millis(2));
                }
                Err(_) => return None,
            }
        };
        stream.write_all(b"!").unwrap();
        Some(Accepted {
            peer: peer.ip().to_canonical(),
            original: original_dst(&stream),
        })
    })
}

/// Reads `SO_ORIGINAL_DST` as a proxy does: in the family of its local address.
pub(super) fn original_dst(stream: &TcpStream) -> Option<SocketAddr> {
    if stream.local_addr().ok()?.ip().to_canonical().is_ipv4() {
        let name = getsockopt(stream, sockopt::OriginalDst).ok()?;
        let ip = IpAddr::from(name.sin_addr.s_addr.to_ne_bytes());
        Some(SocketAddr::new(ip, u16::from_be(name.sin_port)))
    } else {
        let name = getsockopt(stream, sockopt::Ip6tOriginalDst).ok()?;
        let ip = IpAddr::from(name.sin6_addr.s6_addr);
        Some(SocketAddr::new(ip, u16::from_be(name.sin6_port)))
    }
}

/// Connects from a namespace as a user. Returns the peer's name, or the error.
pub(super) fn call(netns: &Netns, user: u32, to: &str) -> Result<SocketAddr, ErrorKind> {
    let to: SocketAddr = to.parse().unwrap();
    netns.run_as(user, move || {
        let stream = TcpStream::connect_timeout(&to, PATIENCE).map_err(|error| error.kind())?;
        stream.peer_addr().map_err(|error| error.kind())
    })
}

/// Connects, and reads the greeting byte.
pub(super) fn connect(netns: &Netns, user: u32, to: &str) -> TcpStream {
    let to: SocketAddr = to.parse().unwrap();
    netns.run_as(user, move || {
        let stream = TcpStream::connect_timeout(&to, PATIENCE).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    })
}

/// Connects and accepts: both ends of a connection.
pub(super) fn connect_pair(
    from: (&Netns, u32, &str),
    at: (&Netns, &TcpListener),
) -> (TcpStream, TcpStream) {
    let client = connect(from.0, from.1, from.2);
    (client, take(at.0, at.1))
}

/// Both ends of a nonblocking connection.
pub(super) fn connect_pair_nonblocking(
    (netns, user, to): (&Netns, u32, &str),
    at: (&Netns, &TcpListener),
) -> (TcpStream, TcpStream) {
    let to: SocketAddr = to.parse().unwrap();
    let client = netns.run_as(user, move || begin(to, |_| ()));
    await_that(|| client.peer_addr().is_ok());
    let server = take(at.0, at.1);
    server.set_nonblocking(true).unwrap();
    (client, server)
}

/// Starts a connect, and does not wait for it. `prepare` may configure the socket before.
pub(super) fn begin(to: SocketAddr, prepare: impl FnOnce(&socket2::Socket)) -> TcpStream {
    let domain = socket2::Domain::for_address(to);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None).unwrap();
    socket.set_nonblocking(true).unwrap();
    prepare(&socket);
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => panic!("{to}: {error}"),
        _ => socket.into(),
    }
}

/// Disconnects the socket, so that it can be used for another connection.
pub(super) fn disconnect(socket: &impl AsRawFd) {
    // `AF_UNSPEC` is zero.
    let unspecified = [0_u8; 16];
    // SAFETY: the address has the given length.
    let status = unsafe { libc::connect(socket.as_raw_fd(), unspecified.as_ptr().cast(), 16) };
    assert_eq!(status, 0);
}

/// Accepts a connection.
pub(super) fn take(netns: &Netns, listener: &TcpListener) -> TcpStream {
    let listener = listener.try_clone().unwrap();
    netns.run(move || {
        let end = Instant::now() + PATIENCE;
        loop {
            match listener.accept() {
                Ok((stream, _)) => {
                    stream.set_read_timeout(Some(PATIENCE)).unwrap();
                    return stream;
                }
                Err(_) if Instant::now() < end => thread::sleep(Duration::from_millis(2)),
                Err(error) => panic!("no connection arrives: {error}"),
            }
        }
    })
}

/// Connects as an application, from `127.0.0.1` and a port.
pub(super) fn connect_from(netns: &Netns, port: u16, to: &str) -> TcpStream {
    let to: SocketAddr = to.parse().unwrap();
    netns.run_as(APP, move || {
        let from = SocketAddr::from(([127, 0, 0, 1], port));
        begin(to, |socket| socket.bind(&from.into()).unwrap())
    })
}

/// Reads the byte that [`accept`] writes.
pub(super) fn expect_greeting(mut stream: TcpStream) {
    let mut byte = [0];
    stream.read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"!");
}
