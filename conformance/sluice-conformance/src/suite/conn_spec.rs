//! A connection to be tried, in terms of the lab rather than of addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use sluice_testbed::agent::probe::Way;

/// A port without a server.
pub(crate) const CLOSED: u16 = 81;

/// The connecting process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Origin {
    /// An application in the Pod.
    Application,
    /// Root in the Pod.
    Root,
    /// The proxy in the Pod.
    Proxy,
    /// A process with the proxy's user, not its group.
    ProxyUser,
    /// A process with the proxy's group, not its user.
    ProxyGroup,
    /// A Pod that is not meshed.
    Peer,
    /// A process of the node, such as the kubelet.
    Node,
    /// A host beyond the node.
    Outside,
    /// A host behind an interface of the Pod.
    Behind,
}

/// Which address the socket is bound to before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Source {
    /// None.
    Any,
    /// The Pod's.
    Pod,
    /// 127.0.0.1 or `::1`.
    Loopback,
    /// 127.255.255.255, which leaves the source of packets open; there is no such thing in IPv6.
    Broadcast,
    /// The proxy's towards its application: 127.0.0.6 or `::6`.
    Passthrough,
    /// That of an ambient node's probes.
    Probe,
    /// The address of the client, which is a Pod that is not meshed: the source of a proxy with `TPROXY`.
    Client,
}

/// The destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Target {
    /// The Pod's address.
    Pod,
    /// The second address of the Pod.
    PodSecond,
    /// The Pod's address on an interface of which its network's plugins know nothing.
    PodSide,
    /// A Pod that is not meshed.
    Peer,
    /// The node.
    Node,
    /// The host behind an interface of the Pod.
    Behind,
    /// A server beyond the node.
    Outside(Server),
    /// An address that is on no interface, which the node or a load balancer translates.
    Service(Service),
    /// 127.0.0.1 or `::1`.
    Loopback,
    /// 127.0.0.2; there is no such thing in IPv6.
    LoopbackSecond,
    /// 127.0.0.53, where local resolvers listen.
    Resolver,
}

/// `fd16:9254:7127:1337:ffff:ffff:ffff:ffff`.
const PROBE_V6: u128 = 0xfd16_9254_7127_1337_ffff_ffff_ffff_ffff;

/// Servers beyond the node, each in a range of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Server {
    One,
    Two,
    Three,
}

/// Services, each with one backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Service {
    /// Of [`Server::One`].
    One,
    /// Of [`Server::Two`].
    Two,
    /// Of the Pod itself.
    Own,
}

/// The ports of each Service and those of its backend.
pub(crate) const SERVICE_PORTS: [(u16, u16); 4] = [(53, 5353), (80, 8080), (443, 9000), (8080, 80)];

/// The socket and the address that a client uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Family {
    V4,
    V6,
    /// An `AF_INET6` socket that connects to `::ffff:a.b.c.d`, as Java's do.
    Mapped,
}

/// A connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct ConnSpec {
    pub(crate) from: Origin,
    pub(crate) source: Source,
    pub(crate) to: Target,
    pub(crate) family: Family,
    pub(crate) port: u16,
    pub(crate) way: Way,
}

impl Origin {
    /// It runs in the Pod under test.
    pub(crate) fn inside(self) -> bool {
        !matches!(self, Self::Peer | Self::Node | Self::Outside | Self::Behind)
    }
}

impl Server {
    pub(crate) const ALL: [Self; 3] = [Self::One, Self::Two, Self::Three];

    /// Its address.
    pub(crate) fn address(self, v4: bool) -> IpAddr {
        let (four, six) = match self {
            Self::One => (
                Ipv4Addr::new(198, 18, 0, 1),
                [0x2001, 0xdb8, 1, 0, 0, 0, 0, 1],
            ),
            Self::Two => (
                Ipv4Addr::new(198, 18, 7, 7),
                [0x2001, 0xdb8, 1, 7, 0, 0, 0, 7],
            ),
            Self::Three => (
                Ipv4Addr::new(203, 0, 113, 9),
                [0x2001, 0xdb8, 2, 0, 0, 0, 0, 9],
            ),
        };
        if v4 {
            four.into()
        } else {
            Ipv6Addr::from(six).into()
        }
    }
}

impl Service {
    /// Its address.
    pub(crate) fn address(self, v4: bool) -> IpAddr {
        let host = match self {
            Self::One => 1,
            Self::Two => 2,
            Self::Own => 3,
        };
        if v4 {
            Ipv4Addr::new(10, 96, 0, host).into()
        } else {
            Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, host.into()).into()
        }
    }

    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::One => "service-one",
            Self::Two => "service-two",
            Self::Own => "service-own",
        }
    }

    /// The server behind it; none for that of the Pod itself.
    pub(crate) fn server(self) -> Option<Server> {
        match self {
            Self::One => Some(Server::One),
            Self::Two => Some(Server::Two),
            Self::Own => None,
        }
    }
}

/// The backend's port for a Service's port.
pub(crate) fn backend_port(port: u16) -> u16 {
    let mut ports = SERVICE_PORTS.into_iter();
    let found = ports.find(|(service, _)| *service == port);
    found.map_or(port, |(_, backend)| backend)
}

impl Family {
    pub(crate) const ALL: [Self; 3] = [Self::V4, Self::V6, Self::Mapped];

    /// The packets are IPv4 packets.
    pub(crate) fn v4(self) -> bool {
        self != Self::V6
    }

    /// The address as this kind of socket has it.
    pub(crate) fn map_for_socket(self, ip: IpAddr) -> IpAddr {
        match (self, ip) {
            (Self::Mapped, IpAddr::V4(v4)) => v4.to_ipv6_mapped().into(),
            _ => ip,
        }
    }
}

impl Source {
    /// The address, given the Pod's.
    pub(crate) fn address(self, v4: bool, pod: Option<IpAddr>) -> Option<IpAddr> {
        let pick = |four: [u8; 4], six: u128| -> IpAddr {
            if v4 {
                four.into()
            } else {
                Ipv6Addr::from_bits(six).into()
            }
        };
        match self {
            // The fixture knows the client's.
            Self::Any | Self::Client => None,
            Self::Pod => pod,
            Self::Loopback => Some(pick([127, 0, 0, 1], 1)),
            Self::Passthrough => Some(pick([127, 0, 0, 6], 6)),
            Self::Broadcast => v4.then_some(Ipv4Addr::new(127, 255, 255, 255).into()),
            Self::Probe => Some(pick([169, 254, 7, 127], PROBE_V6)),
        }
    }
}

impl std::fmt::Display for ConnSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            from,
            source,
            to,
            family,
            port,
            way,
        } = self;
        write!(f, "{from:?}")?;
        if *source != Source::Any {
            write!(f, " bound to {source:?}")?;
        }
        write!(f, " → {to:?}:{port}, {family:?}, {way:?}")
    }
}
