//! The decisions. Pure: everything they depend on is an argument.
//!
//! They follow the rules that Istio's sidecar writes into iptables, in the order of the chains;
//! the first that matches wins.

use crate::{Addr, Pod, Port, Reason};

/// HBONE: mutual TLS tunnels that the application's own socket or a ztunnel terminates; the
/// sidecar's rules never send them to the inbound listener.
pub const HBONE: Port = Port::new(15008);

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Left as it is.
    Direct(Reason),
    /// Handed to the proxy's listener at this port.
    ToProxy(Port, Reason),
}

impl Verdict {
    /// Why.
    #[must_use]
    pub const fn reason(self) -> Reason {
        match self {
            Self::Direct(reason) | Self::ToProxy(_, reason) => reason,
        }
    }
}

/// A socket in a meshed Pod that connects.
#[derive(Clone, Copy, Debug)]
pub struct Outbound {
    /// The caller's user, as the initial user namespace numbers it.
    pub uid: u32,
    /// The caller's group, likewise.
    pub gid: u32,
    /// The address that the socket is bound to, or unspecified.
    pub source: Addr,
    /// The address asked for.
    pub addr: Addr,
    /// The port asked for.
    pub port: Port,
    /// `addr` belongs to the caller's Pod.
    pub own: bool,
    /// The Pod excludes `port`.
    pub excluded: bool,
}

/// Where a TCP connection that a socket in `pod` opens goes.
#[must_use]
pub const fn outbound(pod: &Pod, to: &Outbound) -> Verdict {
    if to.excluded {
        return Verdict::Direct(Reason::OutboundPortExcluded);
    }
    let by_proxy = to.uid == pod.proxy_uid || to.gid == pod.proxy_gid;
    if to.own || to.addr.is_loopback() {
        return over_loopback(pod, to, by_proxy);
    }
    if by_proxy {
        return Verdict::Direct(Reason::OutboundByProxy);
    }
    Verdict::ToProxy(pod.outbound_port, Reason::OutboundToProxy)
}

/// The rows for packets that leave over `lo`.
const fn over_loopback(pod: &Pod, to: &Outbound, by_proxy: bool) -> Verdict {
    if to.source.is_passthrough_source() {
        return Verdict::Direct(Reason::OutboundPassthrough);
    }
    if !by_proxy {
        return Verdict::Direct(Reason::OutboundLocal);
    }
    if to.addr.is_canonical_loopback() || to.port.same(HBONE) {
        return Verdict::Direct(Reason::OutboundByProxy);
    }
    Verdict::ToProxy(pod.inbound_port, Reason::OutboundOwnPod)
}

/// A TCP connection that arrives at an address of a meshed Pod.
#[derive(Clone, Copy, Debug)]
pub struct Inbound {
    /// The port that the peer asked for.
    pub port: Port,
    /// The peer is the Pod itself: the packet came over `lo`.
    pub local: bool,
    /// The Pod excludes `port`.
    pub excluded: bool,
}

/// Where a TCP connection to `pod` goes.
#[must_use]
pub const fn inbound(pod: &Pod, from: &Inbound) -> Verdict {
    if from.local {
        return Verdict::Direct(Reason::InboundLocal);
    }
    if from.excluded || from.port.same(HBONE) {
        return Verdict::Direct(Reason::InboundPortExcluded);
    }
    Verdict::ToProxy(pod.inbound_port, Reason::InboundToProxy)
}

#[cfg(test)]
mod tests;
