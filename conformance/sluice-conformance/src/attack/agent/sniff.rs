//! A witness on the node's links: reports packets that carry a source route or a routing header.

use std::io::Read as _;

use anyhow::Result;
use nix::libc;
use socket2::{Domain, Socket, Type};

use sluice_testbed::agent::serve::READY;

/// Its output, once for each family.
pub(crate) const ROUTED: [&str; 2] = ["routed 4", "routed 6"];

/// The type of an IPv6 routing header.
const ROUTING: u8 = 43;

/// Watches until a signal ends it.
pub(crate) fn run() -> Result<()> {
    let every = u16::try_from(libc::ETH_P_ALL)?.to_be();
    // A packet socket of this type reads from the IP header on.
    let mut socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(i32::from(every).into()))?;
    println!("{READY}");
    let mut seen = [false; 2];
    let mut buffer = [0; 64];
    loop {
        let length = socket.read(&mut buffer)?;
        let packet = &buffer[..length];
        if let Some(family) = routed_family(packet)
            && !seen[family]
        {
            seen[family] = true;
            println!("{}", ROUTED[family]);
        }
    }
}

/// 0 for IPv4 with options, 1 for IPv6 with a routing header.
fn routed_family(packet: &[u8]) -> Option<usize> {
    let protocol = |at: usize| packet.get(at).copied();
    match packet.first()? >> 4 {
        // Other packets with options are those of multicast groups.
        4 if packet[0] & 15 > 5 && protocol(9) == Some(6) => Some(0),
        6 if protocol(6) == Some(ROUTING) => Some(1),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_with_a_route_are_recognised() {
        let mut v4 = [0_u8; 40];
        (v4[0], v4[9]) = (0x47, 6);
        assert_eq!(routed_family(&v4), Some(0));
        v4[0] = 0x45;
        assert_eq!(routed_family(&v4), None);
        let mut v6 = [0_u8; 48];
        (v6[0], v6[6]) = (0x60, ROUTING);
        assert_eq!(routed_family(&v6), Some(1));
        v6[6] = 6;
        assert_eq!(routed_family(&v6), None);
        assert_eq!(routed_family(&[]), None);
    }
}
