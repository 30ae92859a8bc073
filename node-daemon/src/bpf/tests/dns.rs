//! Tests of DNS capture.

use std::{
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use sluice_abi::{PodFlags, PortList, Reason};
use socket2::{Domain, Socket, Type};

use super::{
    canonical, destinations,
    lab::{APP, Lab, NEVER, Netns, PROXY, SOON, WORLD, port},
    sockets::{Listener, accept, connect, expect_greeting, listen, owner_of},
};

/// A meshed Pod whose proxy answers queries, and an outside server.
struct Servers {
    lab: Lab,
    dns_capture: [UdpSocket; 2],
    world: UdpSocket,
    announced: Listener,
}

fn servers() -> Servers {
    let lab = Lab::meshed();
    let dns_capture = ["127.0.0.1:15053", "[::1]:15053"].map(|at| bind(&lab.pod, at));
    let world = bind(&lab.world, "[::]:53");
    let announced = listen(&lab.pod, "127.0.0.1:15053");
    Servers {
        lab,
        dns_capture,
        world,
        announced,
    }
}

fn bind(netns: &Netns, at: &str) -> UdpSocket {
    bind_as(netns, owner_of(at.parse().unwrap()), at)
}

fn bind_as(netns: &Netns, user: u32, at: &str) -> UdpSocket {
    let at: SocketAddr = at.parse().unwrap();
    netns.run_as(user, move || {
        let socket = UdpSocket::bind(at).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        socket
    })
}

/// A client socket of the family in which an address is written.
fn client(lab: &Lab, to: &str) -> UdpSocket {
    client_of(lab, 0, to)
}

/// The same, made by a user.
fn client_of(lab: &Lab, user: u32, to: &str) -> UdpSocket {
    let any = if to.starts_with('[') {
        "[::]:0"
    } else {
        "0.0.0.0:0"
    };
    bind_as(&lab.pod, user, any)
}

/// Sends a query as a user, to an address or, with `None`, on a connected socket.
fn ask(lab: &Lab, user: u32, socket: &UdpSocket, to: Option<&str>) {
    let socket = socket.try_clone().unwrap();
    let to: Option<SocketAddr> = to.map(|to| to.parse().unwrap());
    lab.pod.run_as(user, move || match to {
        Some(to) => socket.send_to(b"query", to).unwrap(),
        None => socket.send(b"query").unwrap(),
    });
}

/// Answers the next query, and returns its source. `None` if none arrives.
fn answer(server: &UdpSocket, wait: Duration) -> Option<SocketAddr> {
    let mut query = [0; 16];
    server.set_read_timeout(Some(wait)).unwrap();
    match server.recv_from(&mut query) {
        Ok((_, from)) => {
            server.send_to(b"answer", from).unwrap();
            Some(from)
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
            None
        }
    }
}

/// The source of the reply that the client sees.
fn heard(socket: &UdpSocket) -> SocketAddr {
    let mut text = [0; 16];
    canonical(socket.recv_from(&mut text).unwrap().1)
}

#[test]
fn replies_show_the_queried_server() {
    let servers = servers();
    for (written, at) in destinations(WORLD, 53) {
        let resolver = &servers.dns_capture[usize::from(at.is_ipv6())];
        let socket = client(&servers.lab, &written);
        ask(&servers.lab, APP, &socket, Some(&written));
        assert!(answer(resolver, SOON).is_some(), "{written}");
        assert_eq!(heard(&socket), at, "{written}");
    }
    assert_eq!(answer(&servers.world, NEVER), None);
    assert_eq!(servers.lab.count(Reason::OutboundDns), 3);
}

#[test]
fn a_connected_socket_is_shown_the_server_as_its_peer() {
    let servers = servers();
    for (written, at) in destinations(WORLD, 53) {
        let resolver = &servers.dns_capture[usize::from(at.is_ipv6())];
        let socket = client(&servers.lab, &written);
        let (clone, to) = (socket.try_clone().unwrap(), written.clone());
        servers
            .lab
            .pod
            .run_as(APP, move || clone.connect(to).unwrap());
        assert_eq!(canonical(socket.peer_addr().unwrap()), at, "{written}");
        ask(&servers.lab, APP, &socket, None);
        assert!(answer(resolver, SOON).is_some(), "{written}");
        assert_eq!(heard(&socket), at, "{written}");
    }
}

#[test]
fn queries_over_tcp_and_to_a_loopback_resolver_are_captured_too() {
    let servers = servers();
    let announced = &servers.announced;
    let to = format!("{}:53", WORLD[0]);
    let stream = connect(&servers.lab.pod, APP, &to);
    let seen = accept(&servers.lab.pod, announced, SOON).unwrap();
    assert_eq!(seen.original, Some(to.parse().unwrap()));
    expect_greeting(stream);

    let stub = "127.0.0.53:53";
    let socket = client(&servers.lab, stub);
    ask(&servers.lab, APP, &socket, Some(stub));
    assert!(answer(&servers.dns_capture[0], SOON).is_some());
    assert_eq!(heard(&socket), stub.parse().unwrap());
}

#[test]
fn dns_of_proxy_and_excluded_ports_is_direct() {
    let mut servers = servers();
    let to = format!("{}:53", WORLD[0]);
    let reaches = |servers: &Servers, user| {
        let socket = client_of(&servers.lab, user, &to);
        ask(&servers.lab, user, &socket, Some(&to));
        assert!(answer(&servers.world, SOON).is_some());
        assert_eq!(heard(&socket), to.parse().unwrap());
    };
    reaches(&servers, PROXY);
    servers.lab.list(port(PortList::OutboundExcluded, 53, 53));
    reaches(&servers, APP);

    let other = bind(&servers.lab.world, "[::]:5353");
    let socket = client(&servers.lab, &to);
    let to = format!("{}:5353", WORLD[0]);
    ask(&servers.lab, APP, &socket, Some(&to));
    assert!(answer(&other, SOON).is_some());
    assert_eq!(heard(&socket), to.parse().unwrap());
}

#[test]
fn queries_are_direct_until_the_resolver_listens() {
    let lab = Lab::meshed();
    let world = bind(&lab.world, "[::]:53");
    let to = format!("{}:53", WORLD[0]);
    let socket = client(&lab, &to);
    ask(&lab, APP, &socket, Some(&to));
    assert!(answer(&world, SOON).is_some());
    assert_eq!(heard(&socket), to.parse().unwrap());
    assert_eq!(lab.count(Reason::OutboundDns), 0);
}

#[test]
fn unspecified_server_is_shown_as_the_loopback_address() {
    let servers = servers();
    for (written, shown, index) in [
        ("0.0.0.0:53", "127.0.0.1:53", 0),
        ("[::]:53", "[::1]:53", 1),
    ] {
        let shown: SocketAddr = shown.parse().unwrap();
        let socket = client(&servers.lab, written);
        ask(&servers.lab, APP, &socket, Some(written));
        assert!(
            answer(&servers.dns_capture[index], SOON).is_some(),
            "{written}"
        );
        assert_eq!(heard(&socket), shown, "{written}");
        let (clone, to) = (socket.try_clone().unwrap(), written.to_owned());
        servers
            .lab
            .pod
            .run_as(APP, move || clone.connect(to).unwrap());
        assert_eq!(canonical(socket.peer_addr().unwrap()), shown, "{written}");
    }
}

/// The kernel replaces `0.0.0.0` by the source of the socket, also if that is an address of another host: the
/// query would leave the Pod.
#[test]
fn query_to_the_unspecified_address_from_a_foreign_source_is_captured() {
    let mut servers = servers();
    servers.lab.enroll_with(PodFlags::BYPASS_LOCAL_DNS);
    let lab = &servers.lab;
    let (source, to): (SocketAddr, SocketAddr) = (
        format!("{}:0", WORLD[0]).parse().unwrap(),
        "0.0.0.0:53".parse().unwrap(),
    );
    for connects in [true, false] {
        lab.pod.run_as(0, move || {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
            socket.set_ip_transparent_v4(true).unwrap();
            socket.bind(&source.into()).unwrap();
            if connects {
                socket.connect(&to.into()).unwrap();
            } else {
                let _unreachable = socket.send_to(b"query", &to.into());
            }
        });
    }
    assert_eq!(lab.count(Reason::OutboundLocal), 0);
    assert_eq!(lab.count(Reason::OutboundDns), 2);
}
