//! Values of the maps for Pods and their network namespaces.

use crate::{Addr, PodFlags, Port, PortBitmap};

/// The bit in the mark of TCP packets from a virtual interface that are not for the proxy. A routing rule
/// of the Pod refuses such packets without it: no connection bypasses the proxy while the program of the
/// interface is missing.
pub const REROUTE_MARK: u32 = 0x0800_0000;

/// Configuration of a meshed Pod. Value of `local_pod_ips`, part of [`NetnsEntry`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PodConfig {
    /// Cookie of the Pod's network namespace. The kernel never reuses it.
    pub cookie: u64,
    /// The proxy's UID in the initial user namespace.
    pub proxy_uid: u32,
    /// The proxy's GID in the initial user namespace.
    pub proxy_gid: u32,
    /// The proxy's listener for outbound connections (Istio: 15001).
    pub outbound_port: Port,
    /// The proxy's listener for inbound connections (Istio: 15006).
    pub inbound_port: Port,
    /// The proxy's DNS resolver on loopback (Istio: 15053).
    pub dns_port: Port,
    /// The port of HBONE tunnels, which the application's socket terminates, or a proxy that does not
    /// use `SO_ORIGINAL_DST` (Istio: 15008). Zero if there are none: no connection goes to port 0.
    pub hbone_port: Port,
    /// See [`PodFlags`].
    pub flags: PodFlags,
    /// The mark of the proxy's sockets, masked with [`PodConfig::mark_mask`].
    pub mark: u32,
    /// The significant bits of the mark; zero if only the user identifies the proxy.
    pub mark_mask: u32,
    /// Outbound ports that may be excluded.
    pub excluded: PortBitmap,
    /// The mark of the proxy's connections to its own Pod from its client's address. A routing rule of
    /// the Pod delivers packets with this mark over `lo`. Zero if there is no such rule.
    pub source_mark: u32,
    /// The network whose addresses count as `127.0.0.1`, in network byte order.
    pub loopback_net: u32,
    /// Its mask, likewise; zero if `127.0.0.1` alone counts.
    pub loopback_mask: u32,
    /// The UID, in the initial user namespace, of a container that listens on the outbound port before
    /// the proxy does, to validate the redirection (Linkerd). Zero if there is none.
    pub validator_uid: u32,
}

impl PodConfig {
    /// The mark of the proxy's inbound listeners in Pods with [`PodConfig::source_mark`], unless the
    /// proxy gave them one. Accepted sockets inherit it, and not the mark of the client's packet: the
    /// rules of an init container may have set the source mark on that (`TPROXY`).
    pub const LISTENER_MARK: u32 = 0x51ce_0000;

    /// Whether connections to this loopback address reach the application, whichever process opens
    /// them (Istio: `ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR`, and `::1`).
    #[must_use]
    pub const fn is_app_loopback(&self, addr: Addr) -> bool {
        let [_, _, _, v4] = addr.words();
        let listed =
            self.loopback_mask != 0 && addr.is_v4() && v4 & self.loopback_mask == self.loopback_net;
        listed || addr.is_canonical_loopback()
    }

    /// Whether a port belongs to the proxy: over TCP the ports of its listeners and of its resolver,
    /// over UDP that of its resolver.
    #[must_use]
    pub const fn reserves(&self, port: Port, datagram: bool) -> bool {
        port.const_eq(self.dns_port)
            || (!datagram
                && (port.const_eq(self.outbound_port) || port.const_eq(self.inbound_port)))
    }

    /// Whether a process with this UID or this GID, both in the initial user namespace, may bind the
    /// proxy's ports.
    ///
    /// A proxy that its mark identifies runs outside the Pod, as root, and marks its sockets only after
    /// they listen (ztunnel).
    #[must_use]
    pub const fn may_bind(&self, uid: u32, gid: u32) -> bool {
        self.is_proxy_owner(uid, gid) || (self.mark_mask != 0 && uid == 0)
    }

    /// Whether the proxy's sockets belong to this UID or this GID, both in the initial user namespace.
    #[must_use]
    pub const fn is_proxy_owner(&self, uid: u32, gid: u32) -> bool {
        uid == self.proxy_uid || gid == self.proxy_gid
    }

    /// Whether a process with this UID may bind a port to validate the redirection. Its socket is not
    /// the proxy's.
    #[must_use]
    pub const fn may_validate(&self, uid: u32, port: Port) -> bool {
        self.validator_uid != 0 && uid == self.validator_uid && port.const_eq(self.outbound_port)
    }

    /// Whether a socket with this mark is the proxy's.
    #[must_use]
    pub const fn mark_matches(&self, mark: u32) -> bool {
        self.mark_mask != 0 && mark & self.mark_mask == self.mark
    }
}

/// Value of `process_ip`: the Pod of a network namespace.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetnsEntry {
    /// The Pod's main IPv4 address, or unspecified.
    pub v4: Addr,
    /// The Pod's main IPv6 address, or unspecified.
    pub v6: Addr,
    /// A copy of the Pod's configuration, which saves a lookup for each connect.
    pub pod: PodConfig,
}

impl NetnsEntry {
    /// The Pod's address of the same family as `like`, or unspecified.
    #[must_use]
    pub const fn addr_for(&self, like: Addr) -> Addr {
        if like.is_v4() { self.v4 } else { self.v6 }
    }

    /// Whether the alias route has [`NetnsEntry::addr_for`] as its preferred source.
    #[must_use]
    pub const fn has_alias_route(&self, like: Addr) -> bool {
        self.pod.flags.has(if like.is_v4() {
            PodFlags::ALIAS_ROUTE_V4
        } else {
            PodFlags::ALIAS_ROUTE_V6
        })
    }

    /// Whether `addr` is one of the two main addresses.
    #[must_use]
    pub const fn owns(&self, addr: Addr) -> bool {
        !addr.is_unspecified() && (self.v4.const_eq(addr) || self.v6.const_eq(addr))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: PodConfig = PodConfig {
        cookie: 7,
        proxy_uid: 1337,
        proxy_gid: 1338,
        outbound_port: Port::new(15001),
        inbound_port: Port::new(15006),
        dns_port: Port::new(15053),
        hbone_port: Port::new(15008),
        flags: PodFlags(0),
        mark: 0x539,
        mark_mask: 0,
        excluded: PortBitmap::EMPTY,
        source_mark: 0,
        validator_uid: 65_534,
        loopback_net: 0,
        loopback_mask: 0,
    };

    #[test]
    fn loopback_network_counts_as_the_canonical_address() {
        let octets = |octets: [u8; 4]| u32::from_ne_bytes(octets);
        let wide = PodConfig {
            loopback_net: octets([127, 0, 0, 0]),
            loopback_mask: octets([255, 0, 0, 0]),
            ..POD
        };
        for (addr, one, all) in [
            (Addr::V4_LOOPBACK, true, true),
            (Addr::V6_LOOPBACK, true, true),
            (Addr::v4(octets([127, 0, 0, 2])), false, true),
            (Addr::v4(octets([10, 0, 0, 5])), false, false),
            (Addr::UNSPECIFIED, true, true),
        ] {
            let is = |pod: PodConfig| pod.is_app_loopback(addr);
            assert_eq!((is(POD), is(wide)), (one, all), "{addr:?}");
        }
    }

    #[test]
    fn pod_reserves_the_ports_of_its_proxy_alone() {
        for (port, stream, datagram) in [
            (15001, true, false),
            (15006, true, false),
            (15053, true, true),
            (15008, false, false),
            (15000, false, false),
            (53, false, false),
            (0, false, false),
        ] {
            let reserved = |datagram| POD.reserves(Port::new(port), datagram);
            assert_eq!(
                (reserved(false), reserved(true)),
                (stream, datagram),
                "{port}"
            );
        }
    }

    #[test]
    fn proxy_ports_take_user_or_group_and_root_beside_a_mark() {
        let marked = PodConfig {
            mark_mask: 0xfff,
            ..POD
        };
        for (uid, gid, may, may_marked) in [
            (1337, 0, true, true),
            (1000, 1338, true, true),
            (1000, 1337, false, false),
            (0, 0, false, true),
            (0, 1000, false, true),
            (u32::MAX, u32::MAX, false, false),
        ] {
            assert_eq!(POD.may_bind(uid, gid), may, "{uid}:{gid}");
            assert_eq!(marked.may_bind(uid, gid), may_marked, "{uid}:{gid}");
        }
        let none = PodConfig {
            validator_uid: 0,
            ..POD
        };
        for (uid, port, may) in [
            (65_534, 15001, true),
            (65_534, 15006, false),
            (1000, 15001, false),
            (0, 15001, false),
        ] {
            assert_eq!(POD.may_validate(uid, Port::new(port)), may, "{uid} {port}");
            assert!(!none.may_validate(uid, Port::new(port)));
        }
    }

    #[test]
    fn an_absent_address_is_never_owned() {
        let entry = NetnsEntry::default();
        assert!(!entry.owns(Addr::UNSPECIFIED));
        assert!(!entry.owns(Addr::v4(0)));
    }
}
