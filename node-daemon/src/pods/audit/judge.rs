//! Judges an existing connection by the functions that decide about new ones. Pure.
//!
//! How legitimate sockets of a meshed Pod look:
//!
//! | Socket | Local | Remote | Owner |
//! |---|---|---|---|
//! | the application's, redirected | Pod IP, or loopback | alias or loopback address at the proxy's port | any |
//! | the proxy's, accepted outbound | alias or loopback address at the proxy's port | Pod IP, or loopback | proxy |
//! | the proxy's, accepted inbound | the original destination: `sk_lookup` rewrites no address | the peer | proxy |
//! | the proxy's upstream connection | any | the upstream | proxy |
//! | the proxy's call to the application | `127.0.0.6`, `::6`, or with TPROXY the peer's address | an address of the Pod | proxy |
//! | the application's, accepted from the proxy | an address of the Pod | as above | any |
//! | excluded by a rule | any | any | any |

use sluice_abi::{
    Endpoint, Facts, PodConfig, Reason, SourceVerdict,
    decide::{Arrival, Verdict},
    original_source,
};

use crate::{
    netns::{Side, TcpSocket},
    pods::explain::{Caller, Subject},
};

/// A user that neither a mesh nor a kernel assigns (`INVALID_UID` is the next one).
const NO_USER: u32 = u32::MAX - 1;

/// The path of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Path {
    /// Through the proxy.
    Proxied,
    /// Past the proxy, as the rule allows.
    Direct(Reason),
    /// Past the proxy, against the rule.
    Bypass(Reason),
    /// Past the proxy, because its process has the proxy's user and is not the proxy. The rule would
    /// redirect any other user.
    Impostor(Reason),
}

/// The owner of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    /// The group of its process in the initial user namespace.
    pub(super) gid: u32,
    /// The proxy's processes are known, and its process is none of them.
    pub(super) foreign: bool,
}

/// The end that a socket is. The hooks of `bind` deny a client an alias address with a port of the proxy: such a
/// socket is the proxy's. Neither the kernel's counters nor the end of its listener change that. A socket that
/// neither the counters nor a listener identify is taken for a client, which most rules concern.
pub(super) fn side(socket: &TcpSocket, listeners: &[Endpoint], pod: Option<&PodConfig>) -> Side {
    let Endpoint { addr, port, .. } = socket.local;
    let is_redirected = addr.is_alias() && pod.is_some_and(|pod| pod.reserves(port, false));
    let accepts =
        |one: &Endpoint| one.port == port && (one.addr == addr || one.addr.is_unspecified());
    let by_listener = || {
        if listeners.iter().any(accepts) {
            Side::Server
        } else {
            Side::Client
        }
    };
    if is_redirected {
        return Side::Server;
    }
    socket.side.unwrap_or_else(by_listener)
}

/// The path of a connection in a meshed Pod. `None` if the Pod has no rules.
pub(super) fn path(
    subject: Subject<'_>,
    socket: &TcpSocket,
    side: Side,
    owner: Owner,
) -> Option<Path> {
    let pod = subject.state.netns_entry?.pod;
    match side {
        Side::Client => outbound(subject, &pod, socket, owner),
        Side::Server => inbound(subject, &pod, socket, owner),
    }
}

fn outbound(
    subject: Subject<'_>,
    pod: &PodConfig,
    socket: &TcpSocket,
    owner: Owner,
) -> Option<Path> {
    let to = socket.remote;
    let here = to.addr.is_loopback() || to.addr.is_alias() || subject.owns(to.addr.into());
    if here && pod.reserves(to.port, false) {
        return Some(Path::Proxied);
    }
    if let Some(path) = kept_source(subject, pod, socket, owner) {
        return Some(path);
    }
    let caller = Caller {
        uid: socket.uid,
        gid: owner.gid,
        mark: socket.mark,
        source: socket.local.addr,
        interface: socket.interface,
    };
    let reason = match subject.outbound(&caller, to.into(), false)? {
        Verdict::ToProxy(_, reason) | Verdict::Refused(reason) => {
            return Some(Path::Bypass(reason));
        }
        Verdict::Direct(reason) => reason,
    };
    if !owner.foreign || !is_proxys(pod, socket, owner) {
        return Some(Path::Direct(reason));
    }
    let other = Caller {
        uid: NO_USER,
        gid: NO_USER,
        mark: 0,
        ..caller
    };
    Some(match subject.outbound(&other, to.into(), false)? {
        Verdict::ToProxy(_, violated) | Verdict::Refused(violated) => Path::Impostor(violated),
        Verdict::Direct(_) => Path::Direct(reason),
    })
}

/// The path of the proxy's connection to its own Pod from its client's address, if it is one.
fn kept_source(
    subject: Subject<'_>,
    pod: &PodConfig,
    socket: &TcpSocket,
    owner: Owner,
) -> Option<Path> {
    let (source, to) = (socket.local.addr, socket.remote);
    let marked = pod.source_mark != 0 && socket.mark == pod.source_mark;
    let local = source.is_loopback() || source.is_passthrough_source();
    let inbound = subject.inbound(source.into(), to.port.get())?;
    let by_proxy = is_proxys(pod, socket, owner) || (marked && pod.mark_mask != 0);
    let facts = Facts::default()
        .with_if(Facts::BY_PROXY, by_proxy)
        .with_if(Facts::MARKED, marked)
        .with_if(
            Facts::FOREIGN_SOURCE,
            !local && !subject.owns(source.into()),
        )
        .with_if(Facts::LOCAL, subject.owns(to.addr.into()))
        .with_if(Facts::TO_LOOPBACK, to.addr.connects_to_loopback())
        .with_if(
            Facts::INBOUND_REDIRECTED,
            matches!(inbound, Verdict::ToProxy(..)),
        )
        .with_if(Facts::TO_LISTENER, to.port.const_eq(pod.inbound_port));
    Some(match original_source(pod, facts)? {
        SourceVerdict::Keep => Path::Direct(Reason::OutboundOriginalSource),
        SourceVerdict::Refuse => Path::Bypass(Reason::OutboundLoop),
    })
}

fn inbound(
    subject: Subject<'_>,
    pod: &PodConfig,
    socket: &TcpSocket,
    owner: Owner,
) -> Option<Path> {
    let (local, from) = (socket.local, socket.remote.addr);
    let arrival = Arrival {
        from,
        to: local.addr,
        interface: 0,
    };
    let own = subject.owns(from.into());
    if arrival.is_over_loopback() || arrival.is_local(own) || local.addr.is_alias() {
        let at_proxy = pod.reserves(local.port, false) && is_proxys(pod, socket, owner);
        return Some(if at_proxy {
            Path::Proxied
        } else {
            Path::Direct(Reason::InboundLocal)
        });
    }
    Some(match subject.inbound(from.into(), local.port.get())? {
        Verdict::Direct(reason) => Path::Direct(reason),
        Verdict::Refused(reason) => Path::Bypass(reason),
        Verdict::ToProxy(_, reason) if !is_proxys(pod, socket, owner) => Path::Bypass(reason),
        Verdict::ToProxy(_, reason) if owner.foreign => Path::Impostor(reason),
        Verdict::ToProxy(..) => Path::Proxied,
    })
}

/// Whether the rules take the owner of a socket for the proxy.
fn is_proxys(pod: &PodConfig, socket: &TcpSocket, owner: Owner) -> bool {
    socket.uid == pod.proxy_uid || owner.gid == pod.proxy_gid || pod.mark_matches(socket.mark)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::pods::{
        mesh::Mesh,
        plan::{self, KernelState},
        policy::{PodPolicy, ResolvedPolicy},
        store::Changes,
    };

    const APPLICATION: u32 = 1000;
    const PROXY: u32 = 1337;

    fn policy() -> ResolvedPolicy {
        PodPolicy {
            excluded_outbound: [(8000, 8999)].into(),
            ..PodPolicy::of(Mesh::preset("istio"))
        }
        .provisional()
    }

    fn state_of(policy: &ResolvedPolicy) -> KernelState {
        let addresses = ["10.0.0.5".parse().unwrap(), "fd00::5".parse().unwrap()];
        plan::desired(7, policy, &addresses, Changes::PASSTHROUGH)
    }

    fn judged(side: Side, (local, remote): (&str, &str), uid: u32, foreign: bool) -> Path {
        let policy = policy();
        let subject = Subject {
            policy: &policy,
            state: &state_of(&policy),
            captures_dns: true,
            before_proxy: false,
        };
        let end = |text: &str| text.parse::<SocketAddr>().unwrap().into();
        let socket = TcpSocket::example(end(local), end(remote), uid);
        let owner = Owner { gid: uid, foreign };
        path(subject, &socket, side, owner).unwrap()
    }

    #[test]
    fn clients_are_judged_by_peer_and_user() {
        use Path::{Bypass, Direct, Impostor, Proxied};
        for (remote, uid, foreign, expected) in [
            ("127.64.1.2:15001", APPLICATION, true, Proxied),
            ("[100::7f40:1]:15001", APPLICATION, true, Proxied),
            ("127.0.0.1:15053", APPLICATION, true, Proxied),
            ("127.0.0.1:15006", PROXY, false, Proxied),
            (
                "127.0.0.1:9090",
                APPLICATION,
                true,
                Direct(Reason::OutboundLocal),
            ),
            (
                "10.0.0.5:80",
                APPLICATION,
                true,
                Direct(Reason::OutboundLocal),
            ),
            ("10.0.0.5:80", PROXY, false, Bypass(Reason::OutboundHairpin)),
            (
                "192.0.2.1:8080",
                APPLICATION,
                true,
                Direct(Reason::OutboundPortExcluded),
            ),
            (
                "192.0.2.1:80",
                APPLICATION,
                true,
                Bypass(Reason::OutboundToProxy),
            ),
            (
                "192.0.2.1:53",
                APPLICATION,
                true,
                Bypass(Reason::OutboundDns),
            ),
            (
                "[::ffff:192.0.2.1]:80",
                APPLICATION,
                true,
                Bypass(Reason::OutboundToProxy),
            ),
            (
                "192.0.2.1:15001",
                APPLICATION,
                true,
                Bypass(Reason::OutboundToProxy),
            ),
            (
                "192.0.2.1:80",
                PROXY,
                false,
                Direct(Reason::OutboundByProxy),
            ),
            (
                "192.0.2.1:80",
                PROXY,
                true,
                Impostor(Reason::OutboundToProxy),
            ),
            (
                "192.0.2.1:8080",
                PROXY,
                true,
                Direct(Reason::OutboundPortExcluded),
            ),
        ] {
            let ends = ("10.0.0.5:40000", remote);
            let path = judged(Side::Client, ends, uid, foreign);
            assert_eq!(path, expected, "{remote} {uid} {foreign}");
        }
        let passthrough = ("127.0.0.6:40000", "10.0.0.5:80");
        assert_eq!(
            judged(Side::Client, passthrough, PROXY, false),
            Direct(Reason::OutboundPassthrough)
        );
    }

    #[test]
    fn servers_are_judged_by_acceptor_and_peer() {
        use Path::{Bypass, Direct, Impostor, Proxied};
        for (local, remote, uid, foreign, expected) in [
            ("10.0.0.5:8080", "192.0.2.1:5000", PROXY, false, Proxied),
            (
                "[::ffff:10.0.0.5]:8080",
                "[::ffff:192.0.2.1]:5000",
                PROXY,
                false,
                Proxied,
            ),
            (
                "10.0.0.5:8080",
                "192.0.2.1:5000",
                APPLICATION,
                true,
                Bypass(Reason::InboundToProxy),
            ),
            (
                "10.0.0.5:8080",
                "192.0.2.1:5000",
                PROXY,
                true,
                Impostor(Reason::InboundToProxy),
            ),
            (
                "10.0.0.5:15021",
                "192.0.2.1:5000",
                PROXY,
                false,
                Direct(Reason::InboundPortExcluded),
            ),
            (
                "10.0.0.5:8080",
                "127.0.0.6:5000",
                APPLICATION,
                true,
                Direct(Reason::InboundLocal),
            ),
            (
                "10.0.0.5:8080",
                "10.0.0.5:5000",
                APPLICATION,
                true,
                Direct(Reason::InboundLocal),
            ),
            (
                "127.0.0.1:8080",
                "127.0.0.1:5000",
                APPLICATION,
                true,
                Direct(Reason::InboundLocal),
            ),
            ("127.64.1.2:15001", "10.0.0.5:5000", PROXY, false, Proxied),
            (
                "[100::7f40:1]:15001",
                "[fd00::5]:5000",
                PROXY,
                false,
                Proxied,
            ),
        ] {
            let path = judged(Side::Server, (local, remote), uid, foreign);
            assert_eq!(path, expected, "{local} {remote} {uid} {foreign}");
        }
    }

    #[test]
    fn unclear_sockets_are_servers_at_a_listener_and_clients_elsewhere() {
        let end = |text: &str| text.parse::<SocketAddr>().unwrap().into();
        let socket = TcpSocket::example(end("10.0.0.5:8080"), end("192.0.2.1:5000"), 0);
        for (listener, expected) in [
            ("0.0.0.0:8080", Side::Server),
            ("[::]:8080", Side::Server),
            ("10.0.0.5:8080", Side::Server),
            ("10.0.0.6:8080", Side::Client),
            ("0.0.0.0:8081", Side::Client),
        ] {
            assert_eq!(
                side(&socket, &[end(listener)], None),
                expected,
                "{listener}"
            );
        }
    }

    #[test]
    fn sockets_at_an_alias_address_and_a_port_of_the_proxy_are_its_own() {
        let end = |text: &str| text.parse::<SocketAddr>().unwrap().into();
        let state = state_of(&policy());
        let pod = state.netns_entry.as_ref().map(|entry| &entry.pod);
        for (local, expected) in [
            ("127.67.36.205:15001", Side::Server),
            ("127.67.36.205:8080", Side::Client),
            ("10.0.0.5:15001", Side::Client),
        ] {
            let mut socket = TcpSocket::example(end(local), end("10.0.0.5:5000"), 0);
            for by_counters in [None, Some(Side::Client)] {
                socket.side = by_counters;
                assert_eq!(side(&socket, &[], pod), expected, "{local}");
            }
        }
    }
}
