//! Addresses at which the proxy is met, and that tell where a connection was going.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr, TcpStream},
    os::fd::AsRawFd as _,
};

use sluice_abi::{
    Addr, AliasUsage, Endpoint, Meeting, PodFlags, Port, Reason, maps::DESTINATIONS_PER_POD,
};
use socket2::{Domain, Protocol, Socket, Type};

use super::{
    destinations,
    ends::{Seen, accept, call, connect, greeted, listen, original_dst, take},
    lab::{APP, Lab, Netns, POD, PROXY, SOON, WORLD, ip},
};

const OUTBOUND: u16 = 15001;
const ROUTED: PodFlags = PodFlags::ROUTED_V4.with(PodFlags::ROUTED_V6);

/// A meshed Pod with routes to its proxy.
fn routed() -> Lab {
    let mut lab = Lab::bare();
    lab.pod.run(|| {
        let [v4, v6] = POD;
        ip(&format!("route add local 127.64.0.0/10 dev lo src {v4}"));
        ip(&format!(
            "route add local 100::7f40:0/106 dev lo table local src {v6}"
        ));
    });
    lab.enrol_with(ROUTED);
    lab
}

impl Lab {
    /// The destination that is told at a place.
    fn told(&self, at: SocketAddr) -> Option<SocketAddr> {
        let key = Meeting::at(self.cookie, at.into())?;
        self.datapath.destinations.get(key).unwrap().map(Into::into)
    }

    /// Gives somebody else the first choices of a destination.
    fn occupy(&mut self, to: SocketAddr, choices: u32) {
        let nobody = Endpoint::new(Addr::from(to.ip()).nobodys(), Port::new(1));
        for choice in 0..choices {
            let key = Meeting::at(self.cookie, meeting(to, choice)).unwrap();
            self.datapath.destinations.set(key, nobody).unwrap();
        }
    }
}

fn meeting(to: SocketAddr, choice: u32) -> Endpoint {
    let at = Addr::from(to.ip()).meeting(Port::new(to.port()), choice);
    Endpoint::new(at, Port::new(OUTBOUND))
}

/// An application's connection, and what its proxy is told. Gives the address at which they met.
fn divert(lab: &Lab, proxy: &std::net::TcpListener, written: &str, to: SocketAddr) -> IpAddr {
    let client = connect(&lab.pod, APP, written);
    let server = take(&lab.pod, proxy);
    let met = server.local_addr().unwrap().ip().to_canonical();
    let peer = client.peer_addr().unwrap();
    assert_eq!(
        (peer.ip().to_canonical(), peer.port()),
        (to.ip(), to.port())
    );
    let home: IpAddr = POD[usize::from(to.is_ipv6())].parse().unwrap();
    assert_eq!(server.peer_addr().unwrap().ip().to_canonical(), home);
    assert_eq!(client.local_addr().unwrap().ip().to_canonical(), home);
    let asked = lab.pod.run_as(PROXY, move || original_dst(&server));
    assert_eq!(asked, Some(to), "{written}");
    met
}

#[test]
fn a_destination_has_an_address_to_itself_in_every_family() {
    let lab = routed();
    let proxy = listen(&lab.pod, "[::]:15001");
    for port in [80, 443] {
        for (written, to) in destinations(WORLD, port) {
            let met = divert(&lab, &proxy, &written, to);
            assert_eq!(IpAddr::from(meeting(to, 0).addr), met);
            assert_eq!(lab.told(SocketAddr::new(met, OUTBOUND)), Some(to));
            assert_eq!(divert(&lab, &proxy, &written, to), met);
        }
    }
    assert_eq!(lab.datapath.destinations.keys().unwrap().len(), 4);
    assert_eq!(lab.count(Reason::OutboundToProxy), 12);
    assert_eq!(lab.count(Reason::OriginalRemembered), 12);
    assert_eq!(lab.count(Reason::OutboundAlone), 0);
}

#[test]
fn without_a_route_sockets_are_bound_and_ipv6_has_one_address() {
    let lab = Lab::meshed();
    let proxy = listen(&lab.pod, "[::]:15001");
    for (written, to) in destinations(WORLD, 80) {
        let met = divert(&lab, &proxy, &written, to);
        let expected = if to.is_ipv4() {
            meeting(to, 0).addr
        } else {
            Addr::V6_LOOPBACK
        };
        assert_eq!(Addr::from(met), expected);
    }
    assert_eq!(lab.count(Reason::PairMissing), 0);
    assert_eq!(lab.count(Reason::OutboundAlone), 0);
}

#[test]
fn an_address_that_another_destination_has_is_passed_over() {
    let mut lab = routed();
    let proxy = listen(&lab.pod, "[::]:15001");
    for (written, to) in destinations(WORLD, 80) {
        lab.occupy(to, 2);
        let met = divert(&lab, &proxy, &written, to);
        assert_eq!(IpAddr::from(meeting(to, 2).addr), met);
        assert_eq!(divert(&lab, &proxy, &written, to), met);
    }
}

#[test]
fn a_destination_without_a_free_address_is_remembered_by_its_connection() {
    let mut lab = routed();
    let proxy = listen(&lab.pod, "[::]:15001");
    for (written, to) in destinations(WORLD, 80) {
        lab.occupy(to, Addr::MEETING_CHOICES);
        let met = Addr::from(divert(&lab, &proxy, &written, to));
        assert!(met.is_loopback() && !met.is_meeting());
    }
    assert_eq!(lab.count(Reason::OutboundAlone), 3);
    assert_eq!(lab.count(Reason::PairMissing), 0);
}

#[test]
fn services_at_such_addresses_are_shown_as_themselves() {
    let lab = routed();
    let proxy = listen(&lab.pod, "[::]:15001");
    let (written, to) = &destinations(WORLD, 80)[0];
    let met = divert(&lab, &proxy, written, *to);
    let service = listen(&lab.pod, "[::]:80");
    let at = SocketAddr::new(met, 80);
    let client = connect(&lab.pod, APP, &at.to_string());
    let seen = accept(&lab.pod, &service, SOON).unwrap();
    assert_eq!(client.peer_addr().unwrap(), at);
    assert_eq!(seen.original, Some(at));
    greeted(client);
}

#[test]
fn neighbours_do_not_come_in_by_the_addresses_at_which_the_proxy_is_met() {
    let lab = routed();
    let proxy = listen(&lab.pod, "[::]:15001");
    let app = listen(&lab.pod, "[::]:8080");
    let gateway = POD[1];
    lab.world
        .run(move || ip(&format!("route add 100::/64 via {gateway}")));
    for port in [OUTBOUND, 8080] {
        let at = format!("[100::7f40:1]:{port}");
        let refused = Err(ErrorKind::ConnectionRefused);
        assert_eq!(call(&lab.world, APP, &at), refused, "{at}");
    }
    assert_eq!(accept(&lab.pod, &proxy, super::NEVER), None);
    // What is the Pod's own is no neighbour's.
    let client = connect(&lab.pod, PROXY, "[100::7f40:1]:8080");
    assert!(accept(&lab.pod, &app, SOON).is_some());
    greeted(client);
}

#[test]
fn a_client_is_told_where_it_goes_by_the_proxys_question_too() {
    let lab = routed();
    let _proxy = listen(&lab.pod, "[::]:15001");
    for (written, to) in destinations(WORLD, 80) {
        let client = connect(&lab.pod, APP, &written);
        let v4 = to.is_ipv4();
        let asked = lab.pod.run_as(APP, move || original_dst(&client));
        assert_eq!(asked, Some(to), "{v4}");
    }
}

/// Ends the socket's connection, so that it can be used for another one.
fn disconnect(socket: &Socket) {
    // AF_UNSPEC is zero.
    let unspecified = [0_u8; 16];
    // SAFETY: the address is as long as is said.
    let status = unsafe { libc::connect(socket.as_raw_fd(), unspecified.as_ptr().cast(), 16) };
    assert_eq!(status, 0);
}

/// The peers that a socket is shown, connected to one after the other.
fn peers(netns: &Netns, kind: Protocol, all: Vec<SocketAddr>) -> Vec<SocketAddr> {
    netns.run_as(APP, move || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(kind)).unwrap();
        let one = |to: SocketAddr| {
            socket.connect(&to.into()).unwrap();
            let peer = socket.peer_addr().unwrap().as_socket().unwrap();
            disconnect(&socket);
            peer
        };
        all.into_iter().map(one).collect()
    })
}

#[test]
fn what_a_socket_remembered_ends_with_its_connection() {
    for kind in [Protocol::TCP, Protocol::MPTCP] {
        let mut lab = routed();
        let _proxy = listen(&lab.pod, "[::]:15001");
        let at = |port| SocketAddr::new(WORLD[0].parse().unwrap(), port);
        lab.occupy(at(80), Addr::MEETING_CHOICES);
        let all = vec![at(80), at(443), at(80), at(81)];
        assert_eq!(peers(&lab.pod, kind, all.clone()), all);
        assert_eq!(lab.count(Reason::OutboundAlone), 2);
    }
}

#[test]
fn a_socket_that_is_connected_again_gets_another_source() {
    let mut lab = routed();
    let proxy = listen(&lab.pod, "[::]:15001");
    let world = listen(&lab.world, "[::]:8443");
    lab.list(super::lab::port(
        sluice_abi::PortList::OutboundExcluded,
        8443,
        8443,
    ));
    lab.pod.run(|| {
        ip("addr add 10.77.0.3/24 dev eth0");
        ip("route add 10.77.0.1/32 dev eth0 src 10.77.0.3");
    });
    let (first, second) = (format!("{}:80", WORLD[0]), format!("{}:8443", WORLD[0]));
    let source = lab.pod.run_as(APP, move || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket
            .connect(&first.parse::<SocketAddr>().unwrap().into())
            .unwrap();
        disconnect(&socket);
        socket
            .connect(&second.parse::<SocketAddr>().unwrap().into())
            .unwrap();
        TcpStream::from(socket).local_addr().unwrap().ip()
    });
    assert_eq!(source, IpAddr::from([10, 77, 0, 3]));
    drop((proxy, world));
}

#[test]
fn what_pods_had_asked_for_goes_when_they_have_gone() {
    let mut lab = routed();
    lab.enrol_world(PodFlags::default());
    let proxy = listen(&lab.pod, "[::]:15001");
    let other = listen(&lab.world, "[::]:15001");
    let (written, to) = &destinations(WORLD, 80)[0];
    divert(&lab, &proxy, written, *to);
    let client = connect(&lab.world, APP, &format!("{}:80", POD[0]));
    drop((take(&lab.world, &other), client));
    assert_eq!(lab.datapath.forget_destinations().unwrap(), 0);
    lab.datapath.remove_process(lab.world.cookie()).unwrap();
    assert_eq!(lab.datapath.forget_destinations().unwrap(), 1);
    let left = lab.datapath.destinations.keys().unwrap();
    assert!(left.iter().all(|meeting| meeting.cookie == lab.cookie));
    divert(&lab, &proxy, written, *to);
    let seen = Seen {
        peer: POD[0].parse().unwrap(),
        original: Some(*to),
    };
    let client = connect(&lab.pod, APP, written);
    assert_eq!(accept(&lab.pod, &proxy, SOON), Some(seen));
    greeted(client);
}

/// Connects to many destinations, one after the other, and aborts each connection at both ends.
fn connect_to_many(netns: &Netns, proxy: &std::net::TcpListener, count: u64) {
    let proxy = proxy.try_clone().unwrap();
    netns.run_as(APP, move || {
        for index in 0..u32::try_from(count).unwrap() {
            let ip: [u8; 4] = (0xcb00_7100 + (index >> 12)).to_be_bytes();
            let to = SocketAddr::new(ip.into(), 1 + u16::try_from(index & 0xfff).unwrap());
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.set_linger(Some(std::time::Duration::ZERO)).unwrap();
            socket.connect(&to.into()).unwrap();
            // Over loopback, an established connection is in the listener's queue.
            drop((proxy.accept().unwrap(), socket));
        }
    });
}

#[test]
fn pod_at_its_share_falls_back_and_others_do_not() {
    let mut lab = routed();
    lab.enrol_world(PodFlags::default());
    let proxy = listen(&lab.pod, "[::]:15001");
    connect_to_many(&lab.pod, &proxy, DESTINATIONS_PER_POD + 100);
    let usage = lab.datapath.alias_usage(lab.cookie).unwrap();
    assert_eq!(
        (usage.held, usage.fallbacks),
        (DESTINATIONS_PER_POD, 100),
        "all choices were taken for some destination, or the share does not hold"
    );
    let held = lab.datapath.destinations.keys().unwrap().len();
    assert_eq!(u64::try_from(held).unwrap(), usage.held);
    assert_eq!(lab.count(Reason::OutboundAlone), usage.fallbacks);
    assert_eq!(lab.count(Reason::PairMissing), 0);

    // A known destination needs no entry, and another Pod has a share of its own.
    connect_to_many(&lab.pod, &proxy, 100);
    assert_eq!(lab.datapath.alias_usage(lab.cookie).unwrap(), usage);
    let other = listen(&lab.world, "[::]:15001");
    connect_to_many(&lab.world, &other, 10);
    let cookie = lab.world.cookie();
    let expected = AliasUsage {
        held: 10,
        fallbacks: 0,
    };
    assert_eq!(lab.datapath.alias_usage(cookie).unwrap(), expected);
}

#[test]
fn fallback_beyond_the_share_keeps_the_destination() {
    let mut lab = routed();
    let proxy = listen(&lab.pod, "[::]:15001");
    let full = AliasUsage {
        held: DESTINATIONS_PER_POD,
        fallbacks: 0,
    };
    lab.datapath.alias_usage.set(lab.cookie, full).unwrap();
    for (written, to) in destinations(WORLD, 80) {
        let met = Addr::from(divert(&lab, &proxy, &written, to));
        assert!(met.is_loopback() && !met.is_meeting());
    }
    assert_eq!(lab.datapath.alias_usage(lab.cookie).unwrap().fallbacks, 3);
}

#[test]
fn daemon_corrects_lost_counts() {
    let mut lab = routed();
    let proxy = listen(&lab.pod, "[::]:15001");
    connect_to_many(&lab.pod, &proxy, 20);
    let lost = AliasUsage {
        held: 3,
        fallbacks: 2,
    };
    lab.datapath.alias_usage.set(lab.cookie, lost).unwrap();
    assert_eq!(lab.datapath.forget_destinations().unwrap(), 0);
    let usage = lab.datapath.alias_usage(lab.cookie).unwrap();
    assert_eq!((usage.held, usage.fallbacks), (20, 2));
}

#[test]
fn share_of_a_removed_pod_is_released() {
    let mut lab = routed();
    let proxy = listen(&lab.pod, "[::]:15001");
    let (written, to) = &destinations(WORLD, 80)[0];
    divert(&lab, &proxy, written, *to);
    assert_eq!(lab.datapath.alias_usage(lab.cookie).unwrap().held, 1);
    assert_eq!(lab.datapath.forget_destinations().unwrap(), 0);
    assert_eq!(lab.datapath.alias_usage(lab.cookie).unwrap().held, 1);
    lab.datapath.remove_process(lab.cookie).unwrap();
    assert_eq!(lab.datapath.forget_destinations().unwrap(), 1);
    assert!(lab.datapath.alias_usage.keys().unwrap().is_empty());
}
