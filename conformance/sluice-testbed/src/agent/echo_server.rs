//! Everything that listens in the lab's small world: the stand-in for a proxy, applications, and
//! servers elsewhere. Each answer has the server's name and its observations, so that a client knows all.

use std::{
    io::{BufRead, BufReader, IoSlice, IoSliceMut, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    str::FromStr,
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use clap::Args;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, SockaddrStorage,
    getsockopt, recvmsg, sendmsg, setsockopt, sockopt,
};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};

use crate::agent::serve::READY;

/// A client that says nothing has seen enough.
const PATIENCE: Duration = Duration::from_secs(2);
const BACKLOG: i32 = 128;

/// Listen on some ports, of both families, and answer with the server's name.
#[derive(Args)]
pub struct EchoServer {
    /// A listener, as NAME=PORT.
    #[arg(long)]
    tcp: Vec<NamedPort>,
    /// The same on loopback addresses alone.
    #[arg(long)]
    tcp_loopback: Vec<NamedPort>,
    /// The same for datagrams.
    #[arg(long)]
    udp: Vec<NamedPort>,
    /// Accept connections to addresses that this host does not have.
    #[arg(long)]
    transparent: bool,
    /// The mark of the sockets that listen, and of those that they accept.
    #[arg(long)]
    mark: Option<u32>,
}

/// A port and the name of its listener.
#[derive(Clone, Debug)]
pub struct NamedPort {
    /// Its name in the reports.
    pub name: String,
    /// Its port, in each family.
    pub port: u16,
}

/// The answer of a listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenResult {
    /// The server that was reached.
    pub by: String,
    /// The client.
    pub source: SocketAddr,
    /// The address at which it was reached.
    pub local: SocketAddr,
    /// The original destination as a proxy reads it; datagrams have none.
    pub original: Option<SocketAddr>,
}

impl FromStr for NamedPort {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, port) = text.split_once('=').context("expected NAME=PORT")?;
        Ok(Self {
            name: name.to_owned(),
            port: port.parse()?,
        })
    }
}

impl EchoServer {
    /// Serves until it is ended.
    pub fn run(self) -> Result<()> {
        let Self {
            tcp,
            tcp_loopback,
            udp,
            transparent,
            mark,
        } = self;
        let on_loopback = tcp_loopback.iter().flat_map(NamedPort::on_loopback);
        for (named, at) in tcp.iter().flat_map(NamedPort::addresses).chain(on_loopback) {
            let socket = open(at, Type::STREAM, transparent)
                .with_context(|| format!("cannot listen on {at}"))?;
            if let Some(mark) = mark {
                socket.set_mark(mark)?;
            }
            socket.listen(BACKLOG)?;
            let (listener, name) = (TcpListener::from(socket), named.name.clone());
            thread::spawn(move || accept(&listener, &name));
        }
        for (named, at) in udp.iter().flat_map(NamedPort::addresses) {
            let socket = open(at, Type::DGRAM, transparent)
                .with_context(|| format!("cannot receive on {at}"))?;
            let (socket, name) = (UdpSocket::from(socket), named.name.clone());
            thread::spawn(move || receive(&socket, &name));
        }
        println!("{READY}");
        loop {
            thread::park();
        }
    }
}

impl NamedPort {
    fn addresses(&self) -> impl Iterator<Item = (&Self, SocketAddr)> {
        self.at([Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()])
    }

    fn on_loopback(&self) -> impl Iterator<Item = (&Self, SocketAddr)> {
        self.at([Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()])
    }

    fn at(&self, both: [IpAddr; 2]) -> impl Iterator<Item = (&Self, SocketAddr)> {
        both.map(|ip| (self, SocketAddr::new(ip, self.port)))
            .into_iter()
    }
}

/// One family each: a dual-stack socket would show IPv4 clients as v4-mapped ones.
fn open(at: SocketAddr, kind: Type, transparent: bool) -> Result<Socket> {
    let domain = Domain::for_address(at);
    let socket = Socket::new(domain, kind, None)?;
    socket.set_reuse_address(true)?;
    if domain == Domain::IPV6 {
        socket.set_only_v6(true)?;
    }
    if transparent {
        setsockopt(&socket, sockopt::IpTransparent, &true)?;
    }
    if kind == Type::DGRAM {
        // A reply may then have the address of the request as its source.
        if domain == Domain::IPV6 {
            socket.set_freebind_v6(true)?;
            setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
        } else {
            setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
        }
    }
    socket.bind(&at.into())?;
    Ok(socket)
}

fn accept(listener: &TcpListener, name: &str) {
    for stream in listener.incoming().flatten() {
        let name = name.to_owned();
        thread::spawn(move || {
            // A client that goes away in the middle has seen enough.
            let _ = answer(&stream, name);
        });
    }
}

fn answer(mut stream: &TcpStream, by: String) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    // Asked first, as a proxy does, and read before closing, which would else reset.
    // Where the kernel knows nothing, Envoy too takes the socket's own address.
    let original = original(stream).or(stream.local_addr().ok());
    BufReader::new(stream).read_line(&mut String::new())?;
    let seen = ListenResult {
        by,
        source: stream.peer_addr()?,
        local: stream.local_addr()?,
        original,
    };
    stream.write_all(serde_json::to_string(&seen)?.as_bytes())?;
    Ok(())
}

/// The result of `SO_ORIGINAL_DST`.
fn original(stream: &TcpStream) -> Option<SocketAddr> {
    if stream.local_addr().ok()?.is_ipv4() {
        let address = getsockopt(stream, sockopt::OriginalDst).ok()?;
        Some(std::net::SocketAddrV4::from(SockaddrIn::from(address)).into())
    } else {
        let address = getsockopt(stream, sockopt::Ip6tOriginalDst).ok()?;
        Some(std::net::SocketAddrV6::from(SockaddrIn6::from(address)).into())
    }
}

fn receive(socket: &UdpSocket, name: &str) {
    loop {
        // A datagram that cannot be answered is like a lost one.
        let _ = reply(socket, name);
    }
}

/// Replies from the address of the request, which a wildcard socket does not do by itself.
fn reply(socket: &UdpSocket, by: &str) -> Result<()> {
    let mut buffer = [0; 512];
    let mut slices = [IoSliceMut::new(&mut buffer)];
    let mut space = nix::cmsg_space!(nix::libc::in6_pktinfo);
    let fd = socket.as_raw_fd();
    let message = recvmsg::<SockaddrStorage>(fd, &mut slices, Some(&mut space), MsgFlags::empty())?;
    let client = message.address.context("a datagram without a source")?;
    let reached = message.cmsgs()?.next();
    let port = socket.local_addr()?.port();
    let seen = |ip: IpAddr| -> Result<String> {
        Ok(serde_json::to_string(&ListenResult {
            by: by.to_owned(),
            source: socket_address(&client).context("a source of no family")?,
            local: SocketAddr::new(ip, port),
            original: None,
        })?)
    };
    let send = |text: &str, from: ControlMessage<'_>| {
        let text = [IoSlice::new(text.as_bytes())];
        sendmsg(fd, &text, &[from], MsgFlags::empty(), Some(&client))
    };
    match reached {
        Some(ControlMessageOwned::Ipv4PacketInfo(info)) => {
            let ip = Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr));
            let own = nix::libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: info.ipi_addr,
                ..info
            };
            send(&seen(ip.into())?, ControlMessage::Ipv4PacketInfo(&own))?;
        }
        Some(ControlMessageOwned::Ipv6PacketInfo(info)) => {
            let ip = Ipv6Addr::from(info.ipi6_addr.s6_addr);
            let own = nix::libc::in6_pktinfo {
                ipi6_ifindex: 0,
                ..info
            };
            send(&seen(ip.into())?, ControlMessage::Ipv6PacketInfo(&own))?;
        }
        _ => anyhow::bail!("a datagram without its destination"),
    }
    Ok(())
}

fn socket_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address
        .as_sockaddr_in()
        .map(|v4| SocketAddr::V4((*v4).into()));
    v4.or_else(|| {
        address
            .as_sockaddr_in6()
            .map(|v6| SocketAddr::V6((*v6).into()))
    })
}
