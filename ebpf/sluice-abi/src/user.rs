//! The user-space part: conversions from `core::net`, and the marker trait with which aya copies the
//! types to and from maps.

use core::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::{
    Addr, AliasKey, AliasUsage, BeforeProxy, CidrKey, ConnKey, CredOffsets, Endpoint, Event, Flow,
    ForeignKey, ForeignUse, InterfaceKey, KernelOffsets, ListenerKey, NetnsEntry, OrigDst,
    OwnAddrKey, OwnerGroupKey, PodConfig, PodCounters, Port, PortKey, SockKey,
};

macro_rules! pods {
    ($($name:ident),+) => {
        $(
            // SAFETY: `repr(C)` or `repr(transparent)`, `Copy`, `'static`, made of integers, and
            // without padding (the test in `layout` compares the sizes).
            unsafe impl aya::Pod for $name {}
        )+
    };
}

pods!(
    Addr,
    AliasUsage,
    PodConfig,
    PodCounters,
    NetnsEntry,
    Endpoint,
    Event,
    Flow,
    OrigDst,
    ConnKey,
    SockKey,
    PortKey,
    CidrKey,
    InterfaceKey,
    KernelOffsets,
    CredOffsets,
    ListenerKey,
    ForeignKey,
    ForeignUse,
    BeforeProxy,
    OwnerGroupKey,
    OwnAddrKey,
    AliasKey
);

impl From<IpAddr> for Addr {
    fn from(ip: IpAddr) -> Self {
        let v6 = match ip {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        let bytes = v6.octets();
        let word = |at: usize| {
            u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        Self::v6([word(0), word(4), word(8), word(12)])
    }
}

impl From<Addr> for IpAddr {
    fn from(addr: Addr) -> Self {
        let mut bytes = [0; 16];
        for (chunk, word) in bytes.chunks_exact_mut(4).zip(addr.words()) {
            chunk.copy_from_slice(&word.to_ne_bytes());
        }
        IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(at: SocketAddr) -> Self {
        Self::new(at.ip().into(), Port::new(at.port()))
    }
}

impl From<Endpoint> for SocketAddr {
    fn from(at: Endpoint) -> Self {
        Self::new(at.addr.into(), at.port.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_round_trip() {
        for text in ["10.1.2.3", "fd00::5", "127.0.0.1", "::1"] {
            let Ok(ip) = text.parse::<IpAddr>() else {
                panic!("{text}")
            };
            assert_eq!(IpAddr::from(Addr::from(ip)), ip);
        }
        let mapped: Result<IpAddr, _> = "::ffff:10.1.2.3".parse();
        let plain: Result<IpAddr, _> = "10.1.2.3".parse();
        assert_eq!(mapped.map(Addr::from).ok(), plain.map(Addr::from).ok());
    }
}
