//! The attacker in a namespace of the lab: one connection per attempt, each with its trick.

mod apart;
mod attempt;
mod compat;
pub(crate) mod flood;
mod handover;
mod pass;
mod raw;
mod route;
pub(crate) mod sniff;
mod uring;

use std::{
    io::{self, IoSlice, Read, Write, stdin},
    net::{IpAddr, SocketAddr, SocketAddrV6, TcpStream, UdpSocket},
    os::fd::AsRawFd as _,
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
pub(crate) use attempt::{Got, Handover, Route, Trick, Try};
use nix::{
    errno::Errno,
    libc::MSG_FASTOPEN,
    net::if_::if_nametoindex,
    sched::{CloneFlags, unshare},
    sys::socket::{setsockopt, sockopt},
    unistd::{Gid, Uid, setgid, setuid},
};
use rustix::net::connect_unspec;
use sluice_testbed::agent::echo_server::ListenResult;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

const PATIENCE: Duration = Duration::from_millis(1500);
const HELLO: &[u8] = b"who are you?\n";
/// The kernel of the destination host answered.
const ASKED: &str = "the asked host";
/// The attacker has a listener of its own.
const LISTENER: &str = "the attacker's listener";

/// Makes the attempts that standard input lists, each in a thread of its own, and prints what it
/// got, as JSON.
pub(crate) fn run() -> Result<()> {
    let tries: Vec<Try> = serde_json::from_reader(stdin())?;
    // Namespaces and credentials belong to threads; the C library's wrappers change the process.
    let privileged = |one: &Try| {
        matches!(
            one.trick,
            Trick::SetUid(_) | Trick::SetGid(_) | Trick::NestedNamespace | Trick::HandedOver(_)
        )
    };
    let got: Vec<Got> = thread::scope(|scope| {
        let threads: Vec<_> = tries
            .iter()
            .map(|one| (!privileged(one)).then(|| scope.spawn(|| one.make())))
            .collect();
        let first: Vec<_> = threads
            .into_iter()
            .map(|thread| thread.map(|thread| thread.join().unwrap_or_default()))
            .collect();
        first
            .into_iter()
            .zip(&tries)
            .map(|(got, one)| got.unwrap_or_else(|| one.make()))
            .collect()
    });
    println!("{}", serde_json::to_string(&got)?);
    Ok(())
}

impl Try {
    fn make(&self) -> Got {
        let answer = match self.trick {
            Trick::Udp | Trick::UdpUnconnected | Trick::UdpMany => self.datagram(),
            Trick::UdpPacketInfo | Trick::UdpAfterV6 => apart::query(self),
            Trick::RawSyn | Trick::PacketSyn => raw::syn(self),
            Trick::Listen(port) => self.listen(port),
            Trick::HandedOver(how) => self.hand_over(how),
            _ => self.stream(),
        };
        match answer {
            Ok(by) => Got {
                by: Some(by),
                errno: None,
            },
            Err(error) => Got {
                by: None,
                errno: Some(name(&error)),
            },
        }
    }

    /// A link-local address needs the interface.
    fn to(&self) -> io::Result<SocketAddr> {
        match self.to {
            SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() => {
                let scope = if_nametoindex("eth0")?;
                Ok(SocketAddrV6::new(*v6.ip(), v6.port(), 0, scope).into())
            }
            to => Ok(to),
        }
    }

    fn socket(&self, kind: Type) -> io::Result<Socket> {
        let protocol = match self.trick {
            Trick::Mptcp => Some(Protocol::MPTCP),
            Trick::Protocol(number) => Some(Protocol::from(number)),
            _ => None,
        };
        match self.trick {
            Trick::SetUid(uid) => setuid(Uid::from_raw(uid))?,
            Trick::SetGid(gid) => setgid(Gid::from_raw(gid))?,
            Trick::NestedNamespace => {
                alone()?;
                unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)?;
            }
            _ => {}
        }
        let domain = Domain::for_address(self.to);
        let socket = Socket::new(domain, kind, protocol)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        match self.trick {
            Trick::Mark(mark) => socket.set_mark(mark)?,
            Trick::Device => socket.bind_device(Some(b"eth0"))?,
            Trick::Freebind if self.to.is_ipv4() => socket.set_freebind_v4(true)?,
            Trick::Freebind => socket.set_freebind_v6(true)?,
            Trick::Transparent if self.to.is_ipv4() => socket.set_ip_transparent_v4(true)?,
            Trick::Transparent => socket.set_ip_transparent_v6(true)?,
            Trick::FastOpenConnect => setsockopt(&socket, sockopt::TcpFastOpenConnect, &true)?,
            Trick::Route(Route::Early) => route::set(&socket, self.hop, false)?,
            _ => {}
        }
        let port = match self.trick {
            Trick::SourcePort(port) => Some(port),
            _ => None,
        };
        if self.source.is_some() || port.is_some() {
            socket.set_reuse_address(true)?;
            let mut source = self.any(port.unwrap_or(0));
            source.set_ip(self.source.unwrap_or(source.ip()));
            socket.bind(&source.into())?;
        }
        Ok(socket)
    }

    fn stream(&self) -> io::Result<String> {
        let to = SockAddr::from(self.to()?);
        let kind = match self.trick {
            Trick::Protocol(33) => Type::from(6),
            Trick::Protocol(136) => Type::DGRAM,
            _ => Type::STREAM,
        };
        let mut socket = self.socket(kind)?;
        match self.trick {
            Trick::FastOpen => {
                socket.send_to_with_flags(HELLO, &to, MSG_FASTOPEN)?;
            }
            Trick::NonBlocking => socket.connect_timeout(&to, PATIENCE)?,
            Trick::Again => {
                socket.connect(&SocketAddr::new(self.to.ip(), 443).into())?;
                connect_unspec(&socket)?;
                socket.connect(&to)?;
            }
            Trick::Passed => {
                socket = pass::through_a_message(&socket)?;
                socket.connect(&to)?;
            }
            Trick::LateDevice => {
                socket.connect(&to)?;
                socket.bind_device(Some(b"eth0"))?;
            }
            Trick::Compat => compat::connect(&socket, &to)?,
            Trick::IoUring => uring::connect_and_write(&socket, &to, HELLO)?,
            Trick::Route(how) => {
                socket.connect(&to)?;
                if how != Route::Early {
                    route::set(&socket, self.hop, how == Route::Compat)?;
                }
            }
            Trick::Thread => {
                let connected = thread::scope(|scope| scope.spawn(|| socket.connect(&to)).join());
                connected.map_err(|_| io::Error::other("the thread panicked"))??;
            }
            _ => socket.connect(&to)?,
        }
        let mut stream = TcpStream::from(socket);
        if !matches!(self.trick, Trick::FastOpen | Trick::IoUring) {
            stream.write_all(HELLO)?;
        }
        if self.trick == Trick::Protocol(136) {
            // No process serves it: a refusal is the destination host's answer.
            return match stream.read(&mut [0; 64]) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    Ok(ASKED.to_owned())
                }
                other => other.map(|_| ASKED.to_owned()),
            };
        }
        read_name(stream)
    }

    /// The goal is the listener itself: it would get the proxy's traffic.
    fn listen(&self, port: u16) -> io::Result<String> {
        let socket = self.socket(Type::STREAM)?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.bind(&self.any(port).into())?;
        socket.listen(1)?;
        Ok(LISTENER.to_owned())
    }

    /// The unspecified address of the family.
    fn any(&self, port: u16) -> SocketAddr {
        let any = if self.to.is_ipv4() {
            IpAddr::from([0; 4])
        } else {
            IpAddr::from([0; 16])
        };
        SocketAddr::new(any, port)
    }

    fn datagram(&self) -> io::Result<String> {
        let to = self.to()?;
        let socket = UdpSocket::from(self.socket(Type::DGRAM)?);
        socket.set_read_timeout(Some(Duration::from_millis(400)))?;
        let mut buffer = [0; 1024];
        let mut outcome = Err(io::ErrorKind::TimedOut.into());
        for _ in 0..3 {
            match self.trick {
                Trick::Udp => {
                    socket.connect(to)?;
                    socket.send(HELLO)?;
                }
                Trick::UdpMany => many(&socket, to)?,
                _ => {
                    socket.send_to(HELLO, to)?;
                }
            }
            outcome = socket
                .recv(&mut buffer)
                .and_then(|length| by(&buffer[..length]));
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }
}

fn many(socket: &UdpSocket, to: SocketAddr) -> io::Result<()> {
    use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, sendmmsg};
    let address = SockaddrStorage::from(to);
    let mut headers = MultiHeaders::preallocate(2, None);
    let slices = [[IoSlice::new(HELLO)], [IoSlice::new(HELLO)]];
    let to = [Some(address), Some(address)];
    sendmmsg(
        socket.as_raw_fd(),
        &mut headers,
        slices.iter(),
        to,
        [],
        MsgFlags::empty(),
    )?;
    Ok(())
}

/// A user namespace is for a process of one thread; a thread that was joined may still be there.
fn alone() -> io::Result<()> {
    let end = Instant::now() + PATIENCE;
    while std::fs::read_dir("/proc/self/task")?.count() > 1 && Instant::now() < end {
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// The listener that answers on a connection.
fn read_name(mut stream: impl Read) -> io::Result<String> {
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    by(&answer)
}

/// Answers name their listener.
fn by(answer: &[u8]) -> io::Result<String> {
    let seen: ListenResult =
        serde_json::from_slice(answer).map_err(|_| io::ErrorKind::InvalidData)?;
    Ok(seen.by)
}

fn name(error: &io::Error) -> String {
    let errno = error.raw_os_error().map(Errno::from_raw);
    errno.map_or_else(|| error.to_string(), |errno| format!("{errno:?}"))
}
