//! Queries whose answer another socket receives: the sender's own address is not that of its packets.

use std::{
    io::{self, IoSlice},
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    os::fd::AsRawFd as _,
    time::Duration,
};

use nix::{
    libc::{in_addr, in_pktinfo},
    sys::socket::{ControlMessage, MsgFlags, SockaddrIn, sendmsg},
};
use socket2::{Domain, Socket, Type};

use super::{HELLO, Trick, Try, by};

const PATIENCE: Duration = Duration::from_millis(400);
const ATTEMPTS: u32 = 3;
/// The discard service: nothing is sent there.
const DISCARD: u16 = 9;

/// Sends a query to an IPv4 address, and returns the name in the answer.
pub(super) fn query(one: &Try) -> io::Result<String> {
    let SocketAddr::V4(to) = one.to else {
        return Err(io::ErrorKind::Unsupported.into());
    };
    let own = own_address(to)?;
    let receiver = socket(Domain::IPV4, SocketAddr::new(own.into(), 0))?;
    receiver.set_read_timeout(Some(PATIENCE))?;
    let port = receiver.local_addr()?.port();
    let source = one.source.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
    let mut outcome = Err(io::ErrorKind::TimedOut.into());
    for _ in 0..ATTEMPTS {
        match one.trick {
            Trick::UdpAfterV6 => send_after_v6(to, port)?,
            _ => send_with_source(to, SocketAddr::new(source, port), own)?,
        }
        let mut buffer = [0; 1024];
        outcome = receiver
            .recv(&mut buffer)
            .and_then(|length| by(&buffer[..length]));
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

/// The Pod's source for an address.
fn own_address(to: SocketAddrV4) -> io::Result<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect((*to.ip(), DISCARD))?;
    match socket.local_addr()?.ip() {
        IpAddr::V4(own) => Ok(own),
        IpAddr::V6(_) => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// A socket that shares its port.
fn socket(domain: Domain, at: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(domain, Type::DGRAM, None)?;
    socket.set_reuse_address(true)?;
    if domain == Domain::IPV6 {
        socket.set_only_v6(false)?;
    }
    socket.bind(&at.into())?;
    Ok(socket.into())
}

fn send_after_v6(to: SocketAddrV4, port: u16) -> io::Result<()> {
    let sender = socket(Domain::IPV6, SocketAddr::from(([0_u16; 8], port)))?;
    sender.connect(("::1", DISCARD))?;
    let mapped = SocketAddr::new(to.ip().to_ipv6_mapped().into(), to.port());
    sender.send_to(HELLO, mapped).map(drop)
}

fn send_with_source(to: SocketAddrV4, at: SocketAddr, source: Ipv4Addr) -> io::Result<()> {
    let sender = socket(Domain::IPV4, at)?;
    let information = in_pktinfo {
        ipi_ifindex: 0,
        ipi_spec_dst: in_addr {
            s_addr: u32::from_ne_bytes(source.octets()),
        },
        ipi_addr: in_addr { s_addr: 0 },
    };
    let slices = [IoSlice::new(HELLO)];
    let control = [ControlMessage::Ipv4PacketInfo(&information)];
    let to = SockaddrIn::from(to);
    let flags = MsgFlags::empty();
    sendmsg(sender.as_raw_fd(), &slices, &control, flags, Some(&to))?;
    Ok(())
}
