//! Raw SYN packets with any source, sent on the link from the world to the Pod.

use std::{
    net::IpAddr,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    sync::atomic::{AtomicU16, Ordering},
};

use super::lab::Lab;

/// `ETH_P_IP` and `ETH_P_IPV6`.
const ETHERTYPES: [u16; 2] = [0x0800, 0x86dd];
/// `IPPROTO_TCP`.
const TCP: u8 = 6;

/// Client ports, one for each packet.
static NEXT: AtomicU16 = AtomicU16::new(20_000);

/// One packet.
pub(super) struct Syn {
    from: IpAddr,
    to: IpAddr,
    port: u16,
    /// The source port.
    pub(super) client: u16,
}

impl Syn {
    /// A packet between two addresses of one family, in text form.
    pub(super) fn new(from: &str, to: &str, port: u16) -> Self {
        Self {
            from: from.parse().unwrap(),
            to: to.parse().unwrap(),
            port,
            client: NEXT.fetch_add(1, Ordering::Relaxed),
        }
    }

    fn packet(&self) -> Vec<u8> {
        let segment = self.segment();
        let length = u16::try_from(segment.len()).unwrap();
        let mut packet = match (self.from, self.to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let mut header = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, TCP, 0, 0];
                header[2..4].copy_from_slice(&(20 + length).to_be_bytes());
                header.extend(from.octets());
                header.extend(to.octets());
                let sum = checksum(&header);
                header[10..12].copy_from_slice(&sum.to_be_bytes());
                header
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let mut header = vec![0x60, 0, 0, 0, 0, 0, TCP, 64];
                header[4..6].copy_from_slice(&length.to_be_bytes());
                header.extend(from.octets());
                header.extend(to.octets());
                header
            }
            _ => panic!("two families"),
        };
        packet.extend(segment);
        packet
    }

    fn segment(&self) -> Vec<u8> {
        let mut segment = Vec::new();
        segment.extend(self.client.to_be_bytes());
        segment.extend(self.port.to_be_bytes());
        segment.extend([0, 0, 0, 1, 0, 0, 0, 0]);
        // Header length of five words, the SYN flag, a window.
        segment.extend([0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
        let mut summed = match (self.from, self.to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => [from.octets(), to.octets()].concat(),
            (IpAddr::V6(from), IpAddr::V6(to)) => [from.octets(), to.octets()].concat(),
            _ => panic!("two families"),
        };
        summed.extend([0, TCP]);
        summed.extend(u16::try_from(segment.len()).unwrap().to_be_bytes());
        summed.extend(&segment);
        let sum = checksum(&summed);
        segment[16..18].copy_from_slice(&sum.to_be_bytes());
        segment
    }
}

/// RFC 1071, for an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks_exact(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}

/// Sends the packet on the link, from the world to the Pod.
pub(super) fn send(lab: &Lab, syn: &Syn) {
    let mac = lab.pod.run(hardware_address);
    let ethertype = ETHERTYPES[usize::from(syn.to.is_ipv6())];
    let packet = syn.packet();
    lab.world.run(move || transmit(ethertype, mac, &packet));
}

/// The MAC address of `eth0` in this namespace. (`/sys` shows the namespace in which it was mounted.)
fn hardware_address() -> [u8; 6] {
    let found = nix::ifaddrs::getifaddrs().unwrap().find_map(|one| {
        let link = one.address?.as_link_addr()?.addr();
        (one.interface_name == "eth0").then_some(link?)
    });
    found.expect("eth0")
}

fn transmit(ethertype: u16, mac: [u8; 6], packet: &[u8]) {
    let protocol = i32::from(ethertype.to_be());
    // SAFETY: the call has three integer arguments; the descriptor has no other owner.
    let socket = unsafe {
        let fd = libc::socket(
            libc::AF_PACKET,
            libc::SOCK_DGRAM | libc::SOCK_CLOEXEC,
            protocol,
        );
        assert!(fd >= 0, "{}", std::io::Error::last_os_error());
        OwnedFd::from_raw_fd(fd)
    };
    // SAFETY: an integer structure, for which zero is a valid value.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = u16::try_from(libc::AF_PACKET).unwrap();
    to.sll_protocol = ethertype.to_be();
    // SAFETY: the name is zero-terminated.
    let index = unsafe { libc::if_nametoindex(c"eth0".as_ptr()) };
    to.sll_ifindex = i32::try_from(index).unwrap();
    to.sll_halen = 6;
    to.sll_addr[..6].copy_from_slice(&mac);
    // SAFETY: packet and address outlive the call, and the lengths are correct.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            packet.as_ptr().cast(),
            packet.len(),
            0,
            (&raw const to).cast(),
            u32::try_from(size_of::<libc::sockaddr_ll>()).unwrap(),
        )
    };
    assert_eq!(
        usize::try_from(sent).ok(),
        Some(packet.len()),
        "{}",
        std::io::Error::last_os_error()
    );
}
