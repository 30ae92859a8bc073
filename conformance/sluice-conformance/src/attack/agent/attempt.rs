//! An attempt to connect, as the suite orders it and as the attacker reports it.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

/// How the attacker makes the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Trick {
    /// A blocking `connect()`.
    Tcp,
    /// A non-blocking one.
    NonBlocking,
    /// `sendto(MSG_FASTOPEN)`.
    FastOpen,
    /// `TCP_FASTOPEN_CONNECT`, then `connect()` and `write()`.
    FastOpenConnect,
    /// `IPPROTO_MPTCP`.
    Mptcp,
    /// A socket that was connected before and dissolved by `AF_UNSPEC`.
    Again,
    /// `SO_MARK`.
    Mark(u32),
    /// `SO_BINDTODEVICE` to `eth0`.
    Device,
    /// The same, on the connection.
    LateDevice,
    /// `IP_FREEBIND` and an address that the host does not have.
    Freebind,
    /// `IP_TRANSPARENT` and an address that the host does not have.
    Transparent,
    /// A source port that belongs to the proxy.
    SourcePort(u16),
    /// Another protocol's stream: SCTP is 132, DCCP is 33, UDP-Lite is 136.
    Protocol(i32),
    /// The socket is made in a new network namespace of the attacker's own user namespace.
    NestedNamespace,
    /// The process takes the proxy's user first.
    SetUid(u32),
    /// The process takes the proxy's group first.
    SetGid(u32),
    /// The socket passes through `SCM_RIGHTS` before it connects.
    Passed,
    /// A thread other than the one that made the socket connects.
    Thread,
    /// A TCP SYN by a raw socket. Only the destination host answers a closed port with RST.
    RawSyn,
    /// The same by a packet socket.
    PacketSyn,
    /// `connect()` by a 32-bit system call.
    Compat,
    /// `connect()` and `write()` by `io_uring`.
    IoUring,
    /// A source route or a routing header.
    Route(Route),
    /// A socket or a ring passes between two processes.
    HandedOver(Handover),
    /// No connection: a listener on this port of the proxy.
    Listen(u16),
    /// A connected datagram socket.
    Udp,
    /// `sendto()`.
    UdpUnconnected,
    /// Many datagrams by one `sendmmsg()`.
    UdpMany,
    /// `sendmsg()` with `IP_PKTINFO`, whose source is the Pod's address; another socket receives.
    UdpPacketInfo,
    /// `sendto()` a v4-mapped address by a socket that is connected to `::1`; another socket receives.
    UdpAfterV6,
}

/// How a route is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Route {
    /// Before `connect()`.
    Early,
    /// On the connection.
    Late,
    /// On the connection, by a 32-bit system call.
    Compat,
}

/// What passes between two processes of different Pods or users. "Elsewhere" is a Pod that is not
/// meshed, with which this one shares a Unix socket; "the proxy's user" is a process with that user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Handover {
    /// A socket of this Pod; a process elsewhere connects it.
    Away,
    /// A socket from elsewhere; a process of this Pod connects it.
    In,
    /// A socket of this Pod; a process elsewhere connects it, as the proxy's user.
    AwayToProxyUser,
    /// A socket of this Pod; a process of this Pod connects it, as the proxy's user.
    ToProxyUser,
    /// A socket that the proxy's user made; a process of another user connects it.
    FromProxyUser,
    /// A connection of this Pod; a process elsewhere uses it.
    ConnectedAway,
    /// A connection from elsewhere; a process of this Pod uses it.
    ConnectedIn,
    /// A listener of this Pod; a process elsewhere accepts.
    ListenerAway,
    /// A listener from elsewhere; a process of this Pod accepts.
    ListenerIn,
    /// A socket that another process made; the proxy's user elsewhere binds the proxy's port to it.
    BoundAway,
    /// A ring with a registered socket of this Pod; the proxy's user elsewhere submits `connect()`.
    RingAway,
    /// A ring with a registered socket from elsewhere; a process of this Pod submits `connect()`.
    RingIn,
    /// A ring with registered credentials of the proxy's user; another user connects by them.
    RingCredentials,
    /// The same; they also make the socket.
    RingSocket,
}

/// One attempt.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Try {
    pub(crate) to: SocketAddr,
    /// The first hop of a route.
    pub(crate) hop: IpAddr,
    /// Another network namespace.
    pub(crate) elsewhere: PathBuf,
    /// The address to bind before.
    pub(crate) source: Option<IpAddr>,
    pub(crate) trick: Trick,
}

/// The outcome.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Got {
    /// The answering server.
    pub(crate) by: Option<String>,
    /// Name of the error, such as `ECONNREFUSED`.
    pub(crate) errno: Option<String>,
}
