//! Keys and values of the maps for Pods, connections and listeners. Every type is `repr(C)` without
//! implicit padding: the kernel compares keys byte by byte.

use crate::{Addr, Port, PortBitmap};

/// Bits of [`PodConfig::flags`].
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PodFlags(u32);

impl PodFlags {
    /// The Pod has more addresses than [`NetnsEntry`] holds; `local_pod_ips` has all of them.
    pub const HAS_EXTRA_ADDRS: Self = Self(1);
    /// The proxy listens on `127.0.0.1` only, so connections cannot use other loopback addresses.
    pub const PROXY_ON_LOCALHOST_ONLY: Self = Self(1 << 1);

    /// Connections between the proxies of two Pods on this node are accelerated.
    pub const ACCELERATE_PROXIES: Self = Self(1 << 2);
    /// Connections between the Pod's proxy and its application are accelerated, too.
    pub const ACCELERATE_ALL: Self = Self(1 << 3);

    /// Only listed inbound ports are redirected.
    pub const INBOUND_ALLOWLIST: Self = Self(1 << 4);
    /// Some outbound ports are redirected regardless of the address.
    pub const OUTBOUND_PORT_INCLUDES: Self = Self(1 << 5);
    /// A list of the Pod contains a port range.
    pub const PORT_RANGES: Self = Self(1 << 6);
    /// Only listed CIDRs are redirected.
    pub const CIDR_ALLOWLIST: Self = Self(1 << 7);
    /// Some CIDRs are not redirected.
    pub const CIDR_EXCLUDES: Self = Self(1 << 8);
    /// A loopback CIDR is included.
    pub const LOOPBACK_INCLUDED: Self = Self(1 << 9);

    /// The proxy's connections to its own Pod are not redirected.
    pub const NO_HAIRPIN: Self = Self(1 << 10);
    /// The Pod uses `TPROXY`, whose rules have fewer exceptions.
    pub const TPROXY: Self = Self(1 << 11);

    /// Some interfaces or CIDRs bypass all rules of the Pod.
    pub const BYPASS: Self = Self(1 << 12);
    /// The bypass CIDRs also apply to sources of inbound connections.
    pub const BYPASS_INBOUND: Self = Self(1 << 13);
    /// DNS queries to resolvers within the Pod are not redirected.
    pub const BYPASS_LOCAL_DNS: Self = Self(1 << 14);

    /// Routes to some CIDRs have another preferred source than [`NetnsEntry`] holds.
    pub const HAS_PREFSRC: Self = Self(1 << 15);

    /// The alias route to [`Addr::V4_ALIAS_NET`] exists, with the Pod's main address as preferred
    /// source.
    pub const ALIAS_ROUTE_V4: Self = Self(1 << 16);
    /// The same for [`Addr::V6_ALIAS_NET`].
    pub const ALIAS_ROUTE_V6: Self = Self(1 << 17);

    /// Connections of processes in a listed group are not redirected.
    pub const OWNER_GROUP_EXCLUDES: Self = Self(1 << 18);
    /// Only connections of processes in a listed group are redirected.
    pub const OWNER_GROUP_ALLOWLIST: Self = Self(1 << 19);
    /// The Pod's outbound connections bypass the proxy until it listens for the first time; see
    /// [`BeforeProxy`](crate::BeforeProxy).
    pub const BEFORE_PROXY: Self = Self(1 << 20);
    /// Only IPv4 is redirected: IPv6 bypasses the proxy in both directions.
    pub const IPV4_ONLY: Self = Self(1 << 21);
    /// The Pod has virtual interfaces, whose connections the proxy gets ([`crate::decide::forwarded`]).
    pub const REROUTES: Self = Self(1 << 22);

    /// Connections that processes in the node's netns open to the Pod are not redirected.
    pub const BYPASS_NODE: Self = Self(1 << 23);

    /// The union of both sets.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The flags that are not in `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether every bit of `other` is set.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// The union of the selected flags.
impl FromIterator<(bool, PodFlags)> for PodFlags {
    fn from_iter<I: IntoIterator<Item = (bool, PodFlags)>>(choices: I) -> Self {
        let selected = choices.into_iter().filter(|(is_selected, _)| *is_selected);
        selected.fold(Self::default(), |all, (_, flag)| all.with(flag))
    }
}

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

/// An address and a port. Value of `pair_original_dst` and of `alias_to_dst`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// The address.
    pub addr: Addr,
    /// The port.
    pub port: Port,
    /// Always zero: keeps the size a multiple of the alignment.
    pub pad: u16,
}

impl Endpoint {
    /// An address and a port.
    #[must_use]
    pub const fn new(addr: Addr, port: Port) -> Self {
        Self { addr, port, pad: 0 }
    }

    /// Equality in `const` context.
    #[must_use]
    pub const fn const_eq(self, other: Self) -> bool {
        self.addr.const_eq(other.addr) && self.port.const_eq(other.port)
    }
}

/// Key of `alias_to_dst`: the alias address of one destination of one Pod.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AliasKey {
    /// Cookie of the network namespace of both ends.
    pub cookie: u64,
    /// The last word of the alias address, in network byte order; the other words are constant.
    pub suffix: u32,
    /// The proxy's port: other sockets may listen at the same address.
    pub port: Port,
    /// 4 or 6.
    pub family: u16,
}

impl AliasKey {
    /// The key of an endpoint, if its address is an alias address.
    #[must_use]
    pub const fn from_addr(cookie: u64, slot: Endpoint) -> Option<Self> {
        if !slot.addr.is_alias() {
            return None;
        }
        let [_, _, _, suffix] = slot.addr.words();
        Some(Self {
            cookie,
            suffix,
            port: slot.port,
            family: if slot.addr.is_v4() { 4 } else { 6 },
        })
    }
}

/// Value of `original_dst` (socket storage): the original destination of a connection.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OrigDst {
    /// The original address and port.
    pub dst: Endpoint,
    /// The end that the socket is: `getpeername` shows `dst` to the client, and not to the proxy.
    pub role: SockRole,
}

/// An end of a redirected or accelerated connection.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SockRole(u32);

impl SockRole {
    /// The socket that connected.
    pub const CLIENT: Self = Self(1);
    /// The socket that was accepted, by the proxy unless stated otherwise.
    pub const SERVER: Self = Self(2);

    /// A UDP socket that sent a DNS query.
    pub const DNS_CLIENT: Self = Self(3);

    /// Equality in `const` context.
    #[must_use]
    pub const fn const_eq(self, other: Self) -> bool {
        self.0 == other.0
    }
}

/// Key of `pair_original_dst` and `node_conns`: a connection, from the client's side.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ConnKey {
    /// Cookie of the client's network namespace. In `pair_original_dst` both ends are there.
    pub cookie: u64,
    /// The connecting end.
    pub client: Endpoint,
    /// The accepting end: a listener of the proxy.
    pub server: Endpoint,
}

impl ConnKey {
    /// A connection of which only the cookie is known.
    #[must_use]
    pub const fn placeholder(cookie: u64) -> Self {
        let nowhere = Endpoint::new(Addr::UNSPECIFIED, Port::new(0));
        Self {
            cookie,
            client: nowhere,
            server: nowhere,
        }
    }

    /// Whether the addresses are known.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        !self.server.port.const_eq(Port::new(0))
    }
}

/// Key of `proxy_listeners`: one listening socket of a Pod's proxy.
///
/// Envoy opens one listener for each worker (`SO_REUSEPORT`), and any of them may close first: each has
/// its own slot. The kernel distributes connections over the whole group whichever member is assigned
/// (`inet_lookup_run_sk_lookup`), so the first used slot is sufficient.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenerKey {
    /// Cookie of the Pod's network namespace.
    pub cookie: u64,
    /// `AF_INET` (2) or `AF_INET6` (10): an IPv4 listener cannot accept an IPv6 connection.
    pub family: u16,
    /// `0..SLOTS`.
    pub slot: u16,
    /// Always zero: keeps the size a multiple of the alignment.
    pub pad: u32,
}

impl ListenerKey {
    /// Registered listeners for each Pod and family. Further listeners receive connections as members
    /// of the same `SO_REUSEPORT` group.
    pub const SLOTS: u16 = 16;

    /// The key of one slot.
    #[must_use]
    pub const fn new(cookie: u64, family: u16, slot: u16) -> Self {
        Self {
            cookie,
            family,
            slot,
            pad: 0,
        }
    }
}

/// Key of `foreign_binds`: a port of the proxy that another process in the Pod requested.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ForeignKey {
    /// Cookie of the Pod's network namespace.
    pub cookie: u64,
    /// The port.
    pub port: Port,
    /// `IPPROTO_TCP` (6) or `IPPROTO_UDP` (17).
    pub protocol: u16,
    /// Always zero: keeps the size a multiple of the alignment.
    pub pad: u32,
}

/// Value of `foreign_binds`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ForeignUse {
    /// The process's UID in the initial user namespace; [`Event::NO_UID`](crate::Event::NO_UID) if the
    /// program does not know it.
    pub uid: u32,
    /// Always zero: keeps the size a multiple of the alignment.
    pub pad: u32,
    /// How often the port was denied. Concurrent CPUs can lose a count.
    pub count: u64,
}

#[cfg(test)]
mod tests {
    use core::mem::{align_of, size_of};

    use super::*;
    use crate::{
        ABI_VERSION, BeforeProxy, CidrKey, ConnRateKey, Event, Flow, InterfaceKey, KernelOffsets,
        OwnerGroupKey, PodCounters, PortKey, RateWindow, SockKey,
    };

    #[test]
    fn the_layout_is_the_one_recorded_for_this_abi_version() {
        let layout = [
            (size_of::<PodConfig>(), align_of::<PodConfig>()),
            (size_of::<NetnsEntry>(), align_of::<NetnsEntry>()),
            (size_of::<Endpoint>(), align_of::<Endpoint>()),
            (size_of::<AliasKey>(), align_of::<AliasKey>()),
            (size_of::<OrigDst>(), align_of::<OrigDst>()),
            (size_of::<ConnKey>(), align_of::<ConnKey>()),
            (size_of::<SockKey>(), align_of::<SockKey>()),
            (size_of::<Flow>(), align_of::<Flow>()),
            (size_of::<ConnRateKey>(), align_of::<ConnRateKey>()),
            (size_of::<KernelOffsets>(), align_of::<KernelOffsets>()),
            (size_of::<PortKey>(), align_of::<PortKey>()),
            (size_of::<CidrKey>(), align_of::<CidrKey>()),
            (size_of::<ListenerKey>(), align_of::<ListenerKey>()),
            (size_of::<ForeignKey>(), align_of::<ForeignKey>()),
            (size_of::<InterfaceKey>(), align_of::<InterfaceKey>()),
            (size_of::<OwnerGroupKey>(), align_of::<OwnerGroupKey>()),
            (size_of::<ForeignUse>(), align_of::<ForeignUse>()),
            (size_of::<BeforeProxy>(), align_of::<BeforeProxy>()),
            (size_of::<Event>(), align_of::<Event>()),
            (size_of::<RateWindow>(), align_of::<RateWindow>()),
            (size_of::<PodCounters>(), align_of::<PodCounters>()),
        ];
        let recorded = [
            (56, 8),
            (88, 8),
            (20, 4),
            (16, 8),
            (24, 4),
            (48, 8),
            (56, 8),
            (40, 8),
            (32, 8),
            (56, 4),
            (16, 8),
            (32, 8),
            (16, 8),
            (16, 8),
            (16, 8),
            (16, 8),
            (16, 8),
            (16, 8),
            (64, 8),
            (16, 8),
            (40, 8),
        ];
        assert_eq!((ABI_VERSION, layout), (9, recorded));
    }

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
    fn alias_keys_differ_by_netns_address_port_family() {
        let at =
            |cookie, addr, port| AliasKey::from_addr(cookie, Endpoint::new(addr, Port::new(port)));
        let one = at(7, Addr::V4_ALIAS_NET, 15001);
        assert!(one.is_some());
        for other in [
            at(8, Addr::V4_ALIAS_NET, 15001),
            at(7, Addr::V4_ALIAS_NET, 80),
            at(7, Addr::V6_ALIAS_NET, 15001),
            at(7, Addr::V4_LOOPBACK, 15001),
        ] {
            assert_ne!(one, other);
        }
        assert_eq!(at(7, Addr::V6_LOOPBACK, 15001), None);
    }

    #[test]
    fn an_absent_address_is_never_owned() {
        let entry = NetnsEntry::default();
        assert!(!entry.owns(Addr::UNSPECIFIED));
        assert!(!entry.owns(Addr::v4(0)));
    }
}
