//! Tests of a proxy that connects to its application from the addresses of its clients: with the
//! sockets, marks and source addresses of ztunnel, and of Envoy's `original_src` filter.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use sluice_abi::{PodFlags, PortList, Reason};

use super::{
    destinations,
    lab::{APP, Lab, NEVER, Netns, POD, PROXY, SOON, WORLD, add_ipv6, ip, port},
    sockets::{accept, call, connect, expect_greeting, listen},
};

/// The mark of Istio's `original_src` filter, and those of ztunnel: of its calls to the Pod under
/// Istio's rules, and of its sockets.
const ENVOY: u32 = 1337;
const ZTUNNEL: (u32, u32) = (0x111, 0x539);

/// The limit of a refusal: a lost reset takes a second.
const AT_ONCE: Duration = Duration::from_millis(900);

/// A socket of the proxy.
#[derive(Clone, Copy)]
struct Caller {
    user: u32,
    mark: u32,
}

impl Caller {
    const ENVOY: Self = Self {
        user: PROXY,
        mark: ENVOY,
    };
    /// Without a mark of its own.
    const UNMARKED: Self = Self {
        user: PROXY,
        mark: 0,
    };
    const ZTUNNEL: Self = Self {
        user: 0,
        mark: ZTUNNEL.1,
    };

    /// Connects from an address that is not the Pod's, with `IP_TRANSPARENT` and `IP_FREEBIND`.
    fn connect(self, netns: &Netns, from: &str, to: &str) -> io::Result<TcpStream> {
        let to: SocketAddr = to.parse().unwrap();
        let from = source_of(from, to);
        // The rules about owners judge the process that made the socket, too.
        let socket = netns.run_as(self.user, move || {
            let domain = socket2::Domain::for_address(to);
            socket2::Socket::new(domain, socket2::Type::STREAM, None).unwrap()
        });
        let socket = netns.run(move || {
            // The flag of a socket is the same for both families.
            socket.set_ip_transparent_v4(true).unwrap();
            socket.set_freebind_v4(true).unwrap();
            if self.mark != 0 {
                socket.set_mark(self.mark).unwrap();
            }
            socket.bind(&from.into()).unwrap();
            socket
        });
        netns.run_as(self.user, move || {
            socket.connect_timeout(&to.into(), Duration::from_secs(5))?;
            Ok(socket.into())
        })
    }
}

/// A source in the form that a socket for this destination needs.
fn source_of(from: &str, to: SocketAddr) -> SocketAddr {
    let from: IpAddr = from.parse().unwrap();
    match (from, to) {
        (IpAddr::V4(v4), SocketAddr::V6(_)) => (v4.to_ipv6_mapped(), 0).into(),
        _ => (from, 0).into(),
    }
}

fn client_of(at: SocketAddr) -> &'static str {
    WORLD[usize::from(at.is_ipv6())]
}

/// A Pod whose proxy keeps its clients' addresses.
fn lab(source_mark: u32, proxy_mark: u32) -> Lab {
    let mut lab = Lab::bare();
    lab.enroll_with(PodFlags::TPROXY);
    lab.keep_source(source_mark, proxy_mark);
    lab
}

#[test]
fn proxy_reaches_the_application_from_the_clients_address() {
    for (marks, caller) in [
        ((ENVOY, 0), Caller::ENVOY),
        ((ENVOY, 0), Caller::UNMARKED),
        (ZTUNNEL, Caller::ZTUNNEL),
    ] {
        let lab = lab(marks.0, marks.1);
        let app = listen(&lab.pod, "[::]:8080");
        let proxy = listen(&lab.pod, "[::]:15006");
        for (written, at) in destinations(POD, 8080) {
            let client = connect(&lab.world, APP, &written);
            assert!(accept(&lab.pod, &proxy, SOON).is_some(), "{written}");
            let stream = caller.connect(&lab.pod, client_of(at), &written).unwrap();
            let seen = accept(&lab.pod, &app, SOON).unwrap();
            assert_eq!(seen.peer.to_string(), client_of(at), "{written}");
            expect_greeting(stream);
            expect_greeting(client);
        }
        assert_eq!(accept(&lab.pod, &proxy, NEVER), None);
        assert_eq!(lab.count(Reason::OutboundOriginalSource), 3);
        assert_eq!(lab.count(Reason::InboundToProxy), 3);
    }
}

/// The proxy connects to the application at each destination, from the address of a client.
fn expect_clients(lab: &Lab, app: &TcpListener, to: [&str; 2]) {
    for (client, to) in WORLD.into_iter().zip(to) {
        let stream = Caller::ENVOY.connect(&lab.pod, client, to).unwrap();
        let seen = accept(&lab.pod, app, SOON).unwrap();
        assert_eq!(seen.peer.to_string(), client);
        expect_greeting(stream);
    }
}

#[test]
fn loopback_destinations_keep_the_clients_address() {
    let lab = lab(ENVOY, 0);
    let app = listen(&lab.pod, "[::]:8080");
    expect_clients(&lab, &app, ["127.0.0.1:8080", "[::1]:8080"]);
}

#[test]
fn unlisted_addresses_keep_a_marked_source() {
    let lab = lab(ENVOY, 0);
    lab.pod.run(|| {
        ip("addr add 10.77.0.99/24 dev eth0");
        add_ipv6("fd77::99/64", "eth0");
    });
    let app = listen(&lab.pod, "[::]:8080");
    let _proxy = listen(&lab.pod, "[::]:15006");
    expect_clients(&lab, &app, ["10.77.0.99:8080", "[fd77::99]:8080"]);
}

#[test]
fn closed_ports_refuse_the_proxy_at_once() {
    let lab = lab(ZTUNNEL.0, ZTUNNEL.1);
    let _proxy = listen(&lab.pod, "[::]:15006");
    for (written, at) in destinations(POD, 8080) {
        let begin = Instant::now();
        let refused = Caller::ZTUNNEL.connect(&lab.pod, client_of(at), &written);
        let refused = refused.map(drop).map_err(|error| error.kind());
        assert_eq!(refused, Err(ErrorKind::ConnectionRefused), "{written}");
        assert!(
            begin.elapsed() < AT_ONCE,
            "{written}: {:?}",
            begin.elapsed()
        );
    }
}

#[test]
fn proxy_connections_to_itself_are_refused() {
    let mut lab = Lab::meshed();
    lab.list(port(PortList::InboundExcluded, 15021, 15021));
    let app = listen(&lab.pod, "[::]:8080");
    let proxy = listen(&lab.pod, "[::]:15006");
    for (written, at) in destinations(POD, 8080) {
        let refused = Caller::UNMARKED.connect(&lab.pod, client_of(at), &written);
        let refused = refused.map(drop).map_err(|error| error.kind());
        assert_eq!(refused, Err(ErrorKind::PermissionDenied), "{written}");
    }
    assert_eq!(accept(&lab.pod, &proxy, NEVER), None);
    assert_eq!(accept(&lab.pod, &app, NEVER), None);
    assert_eq!(lab.count(Reason::OutboundLoop), 3);
}

#[test]
fn other_connections_of_the_pod_are_not_affected() {
    let lab = lab(ENVOY, 0);
    let app = listen(&lab.pod, "[::]:8080");
    let outside = listen(&lab.world, "[::]:80");
    let outbound = listen(&lab.pod, "[::]:15001");
    for index in 0..3 {
        let (own, _) = &destinations(POD, 8080)[index];
        let (out, _) = &destinations(WORLD, 80)[index];
        let own_call = connect(&lab.pod, APP, own);
        assert!(accept(&lab.pod, &app, SOON).is_some(), "{own}");
        expect_greeting(own_call);
        let by_app = connect(&lab.pod, APP, out);
        assert!(accept(&lab.pod, &outbound, SOON).is_some(), "{out}");
        expect_greeting(by_app);
        let by_proxy = connect(&lab.pod, PROXY, out);
        assert!(accept(&lab.world, &outside, SOON).is_some(), "{out}");
        expect_greeting(by_proxy);
    }
    let refused = call(&lab.world, APP, &format!("{}:8080", POD[0]));
    assert_eq!(refused, Err(ErrorKind::ConnectionRefused));
    assert_eq!(lab.count(Reason::OutboundOriginalSource), 0);
}

#[test]
fn connections_that_keep_their_source_are_not_accelerated() {
    let mut lab = Lab::bare();
    lab.enroll_with(
        PodFlags::TPROXY
            .with(PodFlags::ACCELERATE_PROXIES)
            .with(PodFlags::ACCELERATE_ALL),
    );
    lab.keep_source(ENVOY, 0);
    let app = listen(&lab.pod, "[::]:8080");
    let to = format!("{}:8080", POD[0]);
    let stream = Caller::ENVOY.connect(&lab.pod, WORLD[0], &to).unwrap();
    assert!(accept(&lab.pod, &app, SOON).is_some());
    expect_greeting(stream);
    assert_eq!(lab.count(Reason::AccelStarted), 0);
    assert_eq!(lab.count(Reason::AccelSockhashFailed), 0);
}
