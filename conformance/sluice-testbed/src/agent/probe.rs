//! A client that tries many connections, one after the other, and reports each observation.

use std::{
    io::{self, Read, Write, stdin},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use nix::{errno::Errno, libc::MSG_FASTOPEN};
use rustix::net::connect_unspec;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::agent::echo_server::ListenResult;

const PATIENCE: Duration = Duration::from_secs(2);
/// A datagram that is not answered by then is lost: the lab has no slow links. The first one may
/// wait until the look-up of a neighbour fails.
const DATAGRAM_PATIENCE: Duration = Duration::from_millis(300);
const DATAGRAMS: u32 = 6;
/// Connections that are tried at a time.
const WORKERS: usize = 8;
/// A refusal that takes longer was none: the packets were lost.
const PROMPT: Duration = Duration::from_millis(900);
/// The port that [`Way::Again`] connects to first: one that is redirected by default.
const BEFORE: u16 = 443;
const HELLO: &[u8] = b"who are you?\n";

/// How the client goes about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// A blocking `connect()`.
    Tcp,
    /// `connect()` on a non-blocking socket, then a wait.
    NonBlocking,
    /// Data in the SYN: `sendto(MSG_FASTOPEN)`.
    FastOpen,
    /// `IPPROTO_MPTCP`.
    Mptcp,
    /// On a socket that was connected to another port and disconnected by `AF_UNSPEC`.
    Again,
    /// A connected datagram socket.
    Udp,
    /// `sendto()` and `recvfrom()`.
    UdpUnconnected,
}

/// One try.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Attempt {
    /// The destination.
    pub to: SocketAddr,
    /// How the client connects.
    pub way: Way,
    /// The address to bind before.
    pub source: Option<IpAddr>,
    /// The source need not be an address of the host.
    #[serde(default)]
    pub transparent: bool,
    /// The mark of the socket.
    pub mark: Option<u32>,
}

/// The outcome.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ProbeResult {
    /// The answer.
    pub seen: Option<ListenResult>,
    /// The peer by `getpeername()`, or by `recvfrom()`.
    pub peer: Option<SocketAddr>,
    /// `getsockname()`.
    pub local: Option<SocketAddr>,
    /// Name of the error, such as `ECONNREFUSED`.
    pub errno: Option<String>,
    /// The end came within a second.
    pub prompt: bool,
}

/// Tries the connections that standard input lists, and prints what it noticed, all as JSON. An
/// error of the network is an answer, not a failure.
pub fn run() -> Result<()> {
    let attempts: Vec<Attempt> = serde_json::from_reader(stdin())?;
    let noticed = Mutex::new(vec![ProbeResult::default(); attempts.len()]);
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some((index, attempt)) = take(&attempts, &next) {
            let one = attempt.make();
            noticed.lock().unwrap_or_else(PoisonError::into_inner)[index] = one;
        }
    };
    thread::scope(|scope| {
        for _ in 0..WORKERS.min(attempts.len()) {
            scope.spawn(work);
        }
    });
    println!("{}", serde_json::to_string(&noticed)?);
    Ok(())
}

/// The next free one.
fn take<'a>(attempts: &'a [Attempt], next: &AtomicUsize) -> Option<(usize, &'a Attempt)> {
    let index = next.fetch_add(1, Ordering::Relaxed);
    Some((index, attempts.get(index)?))
}

impl Attempt {
    fn make(&self) -> ProbeResult {
        let started = Instant::now();
        let mut noticed = ProbeResult::default();
        let outcome = match self.way {
            Way::Udp | Way::UdpUnconnected => self.ask(&mut noticed),
            _ => self.talk(&mut noticed),
        };
        noticed.errno = outcome.err().map(|error| name(&error));
        noticed.prompt = started.elapsed() < PROMPT;
        noticed
    }

    fn socket(&self, kind: Type, protocol: Option<Protocol>) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(self.to), kind, protocol)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        if let Some(mark) = self.mark {
            socket.set_mark(mark)?;
        }
        if self.transparent {
            // One flag for both families.
            socket.set_ip_transparent_v4(true)?;
        }
        if let Some(source) = self.source {
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        Ok(socket)
    }

    fn talk(&self, noticed: &mut ProbeResult) -> io::Result<()> {
        let protocol = (self.way == Way::Mptcp).then_some(Protocol::MPTCP);
        let socket = self.socket(Type::STREAM, protocol)?;
        let to = SockAddr::from(self.to);
        let mut stream: TcpStream = match self.way {
            Way::FastOpen => {
                socket.send_to_with_flags(HELLO, &to, MSG_FASTOPEN)?;
                socket.into()
            }
            Way::Again => {
                self.connect_and_let_go(&socket)?;
                socket.connect(&to)?;
                socket.into()
            }
            Way::NonBlocking => {
                socket.connect_timeout(&to, PATIENCE)?;
                socket.into()
            }
            _ => {
                socket.connect(&to)?;
                socket.into()
            }
        };
        noticed.peer = Some(stream.peer_addr()?);
        noticed.local = Some(stream.local_addr()?);
        if self.way != Way::FastOpen {
            stream.write_all(HELLO)?;
        }
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        noticed.seen = serde_json::from_str(&answer).ok();
        Ok(())
    }

    fn connect_and_let_go(&self, socket: &Socket) -> io::Result<()> {
        socket.connect(&SocketAddr::new(self.to.ip(), BEFORE).into())?;
        Ok(connect_unspec(socket)?)
    }

    fn ask(&self, noticed: &mut ProbeResult) -> io::Result<()> {
        let socket = UdpSocket::from(self.socket(Type::DGRAM, None)?);
        socket.set_read_timeout(Some(DATAGRAM_PATIENCE))?;
        if self.way == Way::Udp {
            socket.connect(self.to)?;
            noticed.peer = Some(socket.peer_addr()?);
            noticed.local = Some(socket.local_addr()?);
        }
        let mut outcome = Ok(());
        for _ in 0..DATAGRAMS {
            outcome = self.exchange(&socket, noticed);
            if !matches!(&outcome, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
                break;
            }
        }
        outcome
    }

    fn exchange(&self, socket: &UdpSocket, noticed: &mut ProbeResult) -> io::Result<()> {
        let mut buffer = [0; 1024];
        let length = if self.way == Way::Udp {
            socket.send(HELLO)?;
            socket.recv(&mut buffer)?
        } else {
            socket.send_to(HELLO, self.to)?;
            let (length, from) = socket.recv_from(&mut buffer)?;
            noticed.peer = Some(from);
            length
        };
        noticed.seen = serde_json::from_slice(&buffer[..length]).ok();
        Ok(())
    }
}

fn name(error: &io::Error) -> String {
    let errno = error.raw_os_error().map(Errno::from_raw);
    errno.map_or_else(|| error.to_string(), |errno| format!("{errno:?}"))
}
