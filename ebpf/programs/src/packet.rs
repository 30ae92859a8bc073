//! IP packets at a `tc` hook: reads their addresses and ports, and rewrites one end.
//!
//! The packet may be in fragments of memory, so every access is a helper's.

use aya_ebpf::{bindings::BPF_F_PSEUDO_HDR, programs::TcContext};
use sluice_abi::{Addr, Endpoint, Port};

use crate::context::{TCP, read};

/// `ETH_P_IP` and `ETH_P_IPV6`, in network byte order.
const IPV4: u32 = 0x0800_u16.to_be() as u32;
const IPV6: u32 = 0x86dd_u16.to_be() as u32;
/// Extension headers of IPv6 (RFC 8200): options of hops and destinations, routing, fragment, and the
/// authentication header (RFC 4302).
const HOP_OPTIONS: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;
/// The maximum number of extension headers; a packet with more is [`Ip::UNREADABLE`].
const MAX_EXTENSIONS: u32 = 6;
/// More fragments, and the offset, of an IPv4 header.
const IPV4_FRAGMENT: u16 = 0x3fff;
/// SYN and ACK, in the flags of a TCP header.
const SYN: u8 = 2;
const ACK: u8 = 16;
/// Offset of the checksum in a TCP header.
const CHECKSUM: u32 = 16;

/// An IP packet.
#[derive(Clone, Copy)]
pub(crate) struct Ip {
    /// The source address.
    pub(crate) src: Addr,
    /// The destination address.
    pub(crate) dst: Addr,
    /// The packet is a fragment.
    pub(crate) is_fragment: bool,
    /// The protocol.
    protocol: u8,
    /// Offset of the IP header.
    at: u32,
    /// Offset of the header of the protocol.
    payload: u32,
}

/// A TCP segment.
#[derive(Clone, Copy)]
pub(crate) struct Segment {
    /// Its packet.
    pub(crate) ip: Ip,
    /// The source.
    pub(crate) src: Endpoint,
    /// The destination.
    pub(crate) dst: Endpoint,
    flags: u8,
}

/// An end of a segment.
#[derive(Clone, Copy)]
pub(crate) enum End {
    /// The source.
    Source,
    /// The destination.
    Destination,
}

impl Ip {
    /// The protocol of a packet whose protocol is not read (reserved, RFC 5237).
    const UNREADABLE: u8 = 255;

    /// Reads the header at an offset. `None` if this is no complete IP packet.
    #[inline(always)]
    pub(crate) fn read(ctx: &TcContext, at: u32) -> Option<Self> {
        match read!(ctx.skb.skb, protocol) {
            IPV4 => Self::read_v4(ctx, at),
            IPV6 => Self::read_v6(ctx, at),
            _ => None,
        }
    }

    #[inline(always)]
    fn read_v4(ctx: &TcContext, at: u32) -> Option<Self> {
        let header: [u32; 5] = load(ctx, at)?;
        let [version, ..] = header[0].to_ne_bytes();
        let [_, _, high, low] = header[1].to_ne_bytes();
        let [_, protocol, ..] = header[2].to_ne_bytes();
        Some(Self {
            src: Addr::v4(header[3]),
            dst: Addr::v4(header[4]),
            is_fragment: u16::from_be_bytes([high, low]) & IPV4_FRAGMENT != 0,
            protocol,
            at,
            payload: at + (u32::from(version) & 15) * 4,
        })
    }

    #[inline(always)]
    fn read_v6(ctx: &TcContext, at: u32) -> Option<Self> {
        let header: [u32; 10] = load(ctx, at)?;
        let [_, _, next, _] = header[1].to_ne_bytes();
        let addr =
            |at: usize| Addr::v6([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let mut packet = Self {
            src: addr(2),
            dst: addr(6),
            is_fragment: false,
            protocol: next,
            at,
            payload: at + 40,
        };
        if packet.src.is_v4() || packet.dst.is_v4() {
            // No host has a v4-mapped address on the wire; the rest of this program would take it for IPv4.
            packet.protocol = Self::UNREADABLE;
            return Some(packet);
        }
        for _ in 0..MAX_EXTENSIONS {
            if !packet.skip_extension(ctx)? {
                return Some(packet);
            }
        }
        packet.protocol = Self::UNREADABLE;
        Some(packet)
    }

    /// Proceeds to the next header. `false` if this one is no extension header.
    #[inline(always)]
    fn skip_extension(&mut self, ctx: &TcContext) -> Option<bool> {
        if !matches!(
            self.protocol,
            HOP_OPTIONS | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS
        ) {
            return Some(false);
        }
        let header: [u8; 4] = load(ctx, self.payload)?;
        let length = u32::from(header[1]);
        self.payload += match self.protocol {
            FRAGMENT => 8,
            AUTHENTICATION => (length + 2) * 4,
            _ => (length + 1) * 8,
        };
        if self.protocol == FRAGMENT {
            self.is_fragment = true;
            // The rest of the chain may be in another fragment.
            self.protocol = header[0];
            return Some(false);
        }
        self.protocol = header[0];
        Some(true)
    }

    /// Whether this may be a TCP segment.
    #[inline(always)]
    pub(crate) fn may_be_tcp(&self) -> bool {
        u32::from(self.protocol) == TCP
            || self.protocol == Self::UNREADABLE
            || self.hides_protocol()
    }

    /// Whether the protocol cannot be read.
    #[inline(always)]
    fn hides_protocol(&self) -> bool {
        self.is_fragment
            && matches!(
                self.protocol,
                HOP_OPTIONS | ROUTING | AUTHENTICATION | DESTINATION_OPTIONS
            )
    }

    /// The segment of a packet that is one and is not a fragment.
    #[inline(always)]
    pub(crate) fn segment(self, ctx: &TcContext) -> Option<Segment> {
        if self.is_fragment || u32::from(self.protocol) != TCP {
            return None;
        }
        let header: [u32; 4] = load(ctx, self.payload)?;
        let [a, b, c, d] = header[0].to_ne_bytes();
        let [_, flags, ..] = header[3].to_ne_bytes();
        Some(Segment {
            ip: self,
            src: Endpoint::new(self.src, Port::from_be(u16::from_ne_bytes([a, b]))),
            dst: Endpoint::new(self.dst, Port::from_be(u16::from_ne_bytes([c, d]))),
            flags,
        })
    }
}

impl Segment {
    /// Whether this is the first segment of a connection.
    #[inline(always)]
    pub(crate) fn opens(&self) -> bool {
        self.flags & (SYN | ACK) == SYN
    }

    /// Replaces one end by an address of the same family and a port, and corrects the checksums.
    /// `false` if a write failed: the packet is then broken.
    #[inline(always)]
    pub(crate) fn rewrite(&self, ctx: &TcContext, end: End, to: Endpoint) -> bool {
        let (from, port_at) = match end {
            End::Source => (self.src, self.ip.payload),
            End::Destination => (self.dst, self.ip.payload + 2),
        };
        let checksum = (self.ip.payload + CHECKSUM) as usize;
        let [old, new] = [from, to].map(|end| u64::from(end.port.to_be()));
        rewrite_addr(ctx, &self.ip, end, [from.addr, to.addr]).is_some()
            && ctx.l4_csum_replace(checksum, old, new, 2).is_ok()
            && ctx.store(port_at as usize, &to.port.to_be(), 0).is_ok()
    }
}

/// Replaces one address.
#[inline(always)]
fn rewrite_addr(ctx: &TcContext, ip: &Ip, end: End, [from, to]: [Addr; 2]) -> Option<()> {
    let checksum = (ip.payload + CHECKSUM) as usize;
    let pseudo = u64::from(BPF_F_PSEUDO_HDR) | 4;
    let (old, new) = (from.words(), to.words());
    let at = |v4: u32, v6: u32| (ip.at + if from.is_v4() { v4 } else { v6 }) as usize;
    let address = match end {
        End::Source => at(12, 8),
        End::Destination => at(16, 24),
    };
    if from.is_v4() {
        let (old, new) = (old[3], new[3]);
        ctx.l4_csum_replace(checksum, old.into(), new.into(), pseudo)
            .ok()?;
        ctx.l3_csum_replace((ip.at + 10) as usize, old.into(), new.into(), 4)
            .ok()?;
        return ctx.store(address, &new, 0).ok();
    }
    for word in 0..4 {
        ctx.l4_csum_replace(checksum, old[word].into(), new[word].into(), pseudo)
            .ok()?;
    }
    ctx.store(address, &new, 0).ok()
}

/// Reads a header. `None` if the packet is shorter.
#[inline(always)]
fn load<T>(ctx: &TcContext, at: u32) -> Option<T> {
    ctx.load(at as usize).ok()
}
