//! TCP segments that the attacker writes itself.
#![expect(unsafe_code, reason = "the address of a packet socket")]

use std::{
    fs,
    io::{self, Read as _},
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd as _,
    time::Instant,
};

use nix::{libc, net::if_::if_nametoindex};
use socket2::{Domain, Protocol, Socket, Type};

use super::{ASKED, PATIENCE, Trick, Try};

const SYN: u8 = 0x02;
const RST: u8 = 0x04;
/// `ETH_P_IP`.
const IPV4: u16 = 0x0800;

/// A RST in answer to a SYN to a closed port comes from the addressed host: a proxy accepts.
pub(super) fn syn(attempt: &Try) -> io::Result<String> {
    let by_packet = attempt.trick == Trick::PacketSyn;
    let port = 40_000 + 2 * u16::try_from(std::process::id() % 10_000).unwrap_or_default();
    let port = port + u16::from(by_packet);
    let to = attempt.to;
    let socket = Socket::new(Domain::for_address(to), Type::RAW, Some(Protocol::TCP))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(&SocketAddr::new(to.ip(), 0).into())?;
    let from = socket
        .local_addr()?
        .as_socket()
        .ok_or(io::ErrorKind::AddrNotAvailable)?;
    let segment = segment_of(from.ip(), to, port);
    if by_packet {
        send_on_link(from.ip(), to.ip(), &segment)?;
    } else {
        socket.send(&segment)?;
    }
    answer(socket, to.is_ipv4(), port)
}

fn answer(mut socket: Socket, v4: bool, port: u16) -> io::Result<String> {
    let end = Instant::now() + PATIENCE;
    let mut packet = [0; 256];
    while Instant::now() < end {
        let length = socket.read(&mut packet)?;
        let start = if v4 {
            usize::from(packet[0] & 15) * 4
        } else {
            0
        };
        let Some(segment) = packet[..length].get(start..) else {
            continue;
        };
        if segment.len() >= 20 && segment[2..4] == port.to_be_bytes() {
            let reset = segment[13] & RST != 0;
            return Ok(if reset { ASKED } else { "outbound" }.to_owned());
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

/// Sends an IPv4 packet by a packet socket, to the only neighbour that the Pod knows.
fn send_on_link(from: IpAddr, to: IpAddr, segment: &[u8]) -> io::Result<()> {
    let (IpAddr::V4(from), IpAddr::V4(to)) = (from, to) else {
        return Err(io::ErrorKind::Unsupported.into());
    };
    let length = u16::try_from(20 + segment.len()).map_err(io::Error::other)?;
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 6, 0, 0];
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    packet.extend([from.octets(), to.octets()].concat());
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(segment);
    let mac = neighbour()?;
    let socket = Socket::new(Domain::PACKET, Type::DGRAM, None)?;
    // SAFETY: an integer structure, for which zero is a valid value.
    let mut link: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    link.sll_family = u16::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
    link.sll_protocol = IPV4.to_be();
    link.sll_ifindex = i32::try_from(if_nametoindex("eth0")?).map_err(io::Error::other)?;
    link.sll_halen = 6;
    link.sll_addr[..6].copy_from_slice(&mac);
    let size =
        libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).map_err(io::Error::other)?;
    // SAFETY: packet and address outlive the call, and the lengths are theirs.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            packet.as_ptr().cast(),
            packet.len(),
            0,
            (&raw const link).cast(),
            size,
        )
    };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The hardware address of the gateway: the first complete entry of this namespace's ARP table. A
/// datagram makes the kernel look for it.
fn neighbour() -> io::Result<[u8; 6]> {
    let probe = std::net::UdpSocket::bind("0.0.0.0:0")?;
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        let _unanswered = probe.send_to(b"x", "198.18.0.1:9");
        let table = fs::read_to_string("/proc/self/net/arp")?;
        let entries = table.lines().skip(1);
        let complete = entries.filter_map(|line| line.split_whitespace().nth(3));
        let found = complete
            .filter(|mac| *mac != "00:00:00:00:00:00")
            .find_map(parse);
        if let Some(mac) = found {
            return Ok(mac);
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    Err(io::ErrorKind::NotFound.into())
}

fn parse(mac: &str) -> Option<[u8; 6]> {
    let bytes: Option<Vec<u8>> = (mac.split(':'))
        .map(|byte| u8::from_str_radix(byte, 16).ok())
        .collect();
    bytes?.try_into().ok()
}

fn segment_of(from: IpAddr, to: SocketAddr, port: u16) -> Vec<u8> {
    let mut segment = vec![0; 20];
    segment[..2].copy_from_slice(&port.to_be_bytes());
    segment[2..4].copy_from_slice(&to.port().to_be_bytes());
    segment[12] = 5 << 4;
    segment[13] = SYN;
    segment[14..16].copy_from_slice(&u16::MAX.to_be_bytes());
    let mut pseudo = Vec::new();
    for ip in [from, to.ip()] {
        match ip {
            IpAddr::V4(v4) => pseudo.extend(v4.octets()),
            IpAddr::V6(v6) => pseudo.extend(v6.octets()),
        }
    }
    // The protocol and the length, each as a 16-bit word: their order does not change the sum.
    pseudo.extend([0, 6, 0, 20]);
    pseudo.extend(&segment);
    let sum = checksum(&pseudo);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    segment
}

/// RFC 1071, for an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}
