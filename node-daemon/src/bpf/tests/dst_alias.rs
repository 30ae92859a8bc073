//! Tests of alias addresses.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr, TcpStream},
};

use sluice_abi::{
    Addr, AliasKey, AliasUsage, Endpoint, PodFlags, Port, Reason, maps::DESTINATIONS_PER_POD,
};
use socket2::{Domain, Protocol, Socket, Type};

use super::{
    destinations,
    lab::{APP, Lab, Netns, POD, PROXY, SOON, WORLD, await_that, ip},
    sockets::{
        Accepted, accept, begin, call, connect, disconnect, expect_greeting, listen, original_dst,
        take,
    },
};

const OUTBOUND: u16 = 15001;
const ROUTED: PodFlags = PodFlags::ALIAS_ROUTE_V4.with(PodFlags::ALIAS_ROUTE_V6);

/// A meshed Pod with alias routes.
fn routed() -> Lab {
    let mut lab = Lab::bare();
    lab.pod.run(|| {
        let [v4, v6] = POD;
        ip(&format!("route add local 127.64.0.0/10 dev lo src {v4}"));
        ip(&format!(
            "route add local 100::7f40:0/106 dev lo table local src {v6}"
        ));
    });
    lab.enroll_with(ROUTED);
    lab
}

impl Lab {
    /// The original destination of an alias address.
    fn dst_of(&self, at: SocketAddr) -> Option<SocketAddr> {
        let key = AliasKey::from_addr(self.cookie, at.into())?;
        self.datapath.alias_to_dst.get(key).unwrap().map(Into::into)
    }

    /// Assigns the first alias probes of a destination to another destination.
    fn occupy(&mut self, to: SocketAddr, probes: u32) {
        let unassigned = Endpoint::new(Addr::from(to.ip()).unassigned(), Port::new(1));
        for probe in 0..probes {
            let key = AliasKey::from_addr(self.cookie, alias(to, probe)).unwrap();
            self.datapath.alias_to_dst.set(key, unassigned).unwrap();
        }
    }
}

fn alias(to: SocketAddr, probe: u32) -> Endpoint {
    let at = Addr::from(to.ip()).alias(Port::new(to.port()), probe);
    Endpoint::new(at, Port::new(OUTBOUND))
}

/// Connects an application and checks the proxy's original destination. Returns the alias address.
fn redirect(lab: &Lab, proxy: &std::net::TcpListener, written: &str, to: SocketAddr) -> IpAddr {
    let client = connect(&lab.pod, APP, written);
    let server = take(&lab.pod, proxy);
    let alias_ip = server.local_addr().unwrap().ip().to_canonical();
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
    alias_ip
}

#[test]
fn each_destination_has_an_alias_in_every_family() {
    let lab = routed();
    let proxy = listen(&lab.pod, "[::]:15001");
    for port in [80, 443] {
        for (written, to) in destinations(WORLD, port) {
            let alias_ip = redirect(&lab, &proxy, &written, to);
            assert_eq!(IpAddr::from(alias(to, 0).addr), alias_ip);
            assert_eq!(lab.dst_of(SocketAddr::new(alias_ip, OUTBOUND)), Some(to));
            assert_eq!(redirect(&lab, &proxy, &written, to), alias_ip);
        }
    }
    assert_eq!(lab.datapath.alias_to_dst.keys().unwrap().len(), 4);
    assert_eq!(lab.count(Reason::OutboundToProxy), 12);
    assert_eq!(lab.count(Reason::OrigDstFromState), 12);
    assert_eq!(lab.count(Reason::OutboundNoAlias), 0);
}

#[test]
fn missing_alias_route_binds_sockets_and_limits_ipv6() {
    let lab = Lab::meshed();
    let proxy = listen(&lab.pod, "[::]:15001");
    for (written, to) in destinations(WORLD, 80) {
        let alias_ip = redirect(&lab, &proxy, &written, to);
        let expected = if to.is_ipv4() {
            alias(to, 0).addr
        } else {
            Addr::V6_LOOPBACK
        };
        assert_eq!(Addr::from(alias_ip), expected);
    }
    assert_eq!(lab.count(Reason::OrigDstMissing), 0);
    assert_eq!(lab.count(Reason::OutboundNoAlias), 0);
}

#[test]
fn occupied_alias_probes_are_skipped() {
    let mut lab = routed();
    let proxy = listen(&lab.pod, "[::]:15001");
    for (written, to) in destinations(WORLD, 80) {
        lab.occupy(to, 2);
        let alias_ip = redirect(&lab, &proxy, &written, to);
        assert_eq!(IpAddr::from(alias(to, 2).addr), alias_ip);
        assert_eq!(redirect(&lab, &proxy, &written, to), alias_ip);
    }
}

#[test]
fn full_alias_probes_fall_back_to_sk_storage() {
    let mut lab = routed();
    let proxy = listen(&lab.pod, "[::]:15001");
    for (written, to) in destinations(WORLD, 80) {
        lab.occupy(to, Addr::ALIAS_PROBES);
        let alias_ip = Addr::from(redirect(&lab, &proxy, &written, to));
        assert!(alias_ip.is_loopback() && !alias_ip.is_alias());
    }
    assert_eq!(lab.count(Reason::OutboundNoAlias), 3);
    assert_eq!(lab.count(Reason::OrigDstMissing), 0);
}

#[test]
fn services_on_alias_addresses_keep_their_name() {
    let lab = routed();
    let proxy = listen(&lab.pod, "[::]:15001");
    let (written, to) = &destinations(WORLD, 80)[0];
    let alias_ip = redirect(&lab, &proxy, written, *to);
    let service = listen(&lab.pod, "[::]:80");
    let at = SocketAddr::new(alias_ip, 80);
    let client = connect(&lab.pod, APP, &at.to_string());
    let seen = accept(&lab.pod, &service, SOON).unwrap();
    assert_eq!(client.peer_addr().unwrap(), at);
    assert_eq!(seen.original, Some(at));
    expect_greeting(client);
}

#[test]
fn remote_peers_cannot_reach_alias_addresses() {
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
    // The Pod's own connection to such an address is accepted.
    let client = connect(&lab.pod, PROXY, "[100::7f40:1]:8080");
    assert!(accept(&lab.pod, &app, SOON).is_some());
    expect_greeting(client);
}

#[test]
fn clients_may_read_so_original_dst() {
    let lab = routed();
    let _proxy = listen(&lab.pod, "[::]:15001");
    for (written, to) in destinations(WORLD, 80) {
        let client = connect(&lab.pod, APP, &written);
        let v4 = to.is_ipv4();
        let asked = lab.pod.run_as(APP, move || original_dst(&client));
        assert_eq!(asked, Some(to), "{v4}");
    }
}

/// The peers that a socket sees when it connects to each address in turn.
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
fn reconnecting_clears_the_original_dst() {
    for kind in [Protocol::TCP, Protocol::MPTCP] {
        let mut lab = routed();
        let _proxy = listen(&lab.pod, "[::]:15001");
        let at = |port| SocketAddr::new(WORLD[0].parse().unwrap(), port);
        lab.occupy(at(80), Addr::ALIAS_PROBES);
        let all = vec![at(80), at(443), at(80), at(81)];
        assert_eq!(peers(&lab.pod, kind, all.clone()), all);
        assert_eq!(lab.count(Reason::OutboundNoAlias), 2);
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
fn stale_aliases_are_removed() {
    let mut lab = routed();
    lab.enroll_world(PodFlags::default());
    let proxy = listen(&lab.pod, "[::]:15001");
    let other = listen(&lab.world, "[::]:15001");
    let (written, to) = &destinations(WORLD, 80)[0];
    redirect(&lab, &proxy, written, *to);
    let client = connect(&lab.world, APP, &format!("{}:80", POD[0]));
    drop((take(&lab.world, &other), client));
    assert_eq!(lab.datapath.remove_stale_aliases().unwrap(), 0);
    lab.datapath.remove_netns_entry(lab.world.cookie()).unwrap();
    assert_eq!(lab.datapath.remove_stale_aliases().unwrap(), 1);
    let left = lab.datapath.alias_to_dst.keys().unwrap();
    assert!(left.iter().all(|alias| alias.cookie == lab.cookie));
    redirect(&lab, &proxy, written, *to);
    let seen = Accepted {
        peer: POD[0].parse().unwrap(),
        original: Some(*to),
    };
    let client = connect(&lab.pod, APP, written);
    assert_eq!(accept(&lab.pod, &proxy, SOON), Some(seen));
    expect_greeting(client);
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
            let mut accepted = None;
            await_that(|| {
                accepted = proxy.accept().ok();
                accepted.is_some()
            });
            drop((accepted, socket));
        }
    });
}

#[test]
fn pod_at_its_share_falls_back_and_others_do_not() {
    let mut lab = routed();
    lab.enroll_world(PodFlags::default());
    let proxy = listen(&lab.pod, "[::]:15001");
    connect_to_many(&lab.pod, &proxy, DESTINATIONS_PER_POD + 100);
    let usage = lab.datapath.alias_usage(lab.cookie).unwrap();
    assert_eq!(
        (usage.held, usage.fallbacks),
        (DESTINATIONS_PER_POD, 100),
        "all choices were taken for some destination, or the share does not hold"
    );
    let held = lab.datapath.alias_to_dst.keys().unwrap().len();
    assert_eq!(u64::try_from(held).unwrap(), usage.held);
    assert_eq!(lab.count(Reason::OutboundNoAlias), usage.fallbacks);
    assert_eq!(lab.count(Reason::OrigDstMissing), 0);

    // A known destination needs no new entry, and another Pod has its own share.
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
        let alias_ip = Addr::from(redirect(&lab, &proxy, &written, to));
        assert!(alias_ip.is_loopback() && !alias_ip.is_alias());
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
    assert_eq!(lab.datapath.remove_stale_aliases().unwrap(), 0);
    let usage = lab.datapath.alias_usage(lab.cookie).unwrap();
    assert_eq!((usage.held, usage.fallbacks), (20, 2));
}

#[test]
fn share_of_a_removed_pod_is_released() {
    let mut lab = routed();
    let proxy = listen(&lab.pod, "[::]:15001");
    let (written, to) = &destinations(WORLD, 80)[0];
    redirect(&lab, &proxy, written, *to);
    assert_eq!(lab.datapath.alias_usage(lab.cookie).unwrap().held, 1);
    assert_eq!(lab.datapath.remove_stale_aliases().unwrap(), 0);
    assert_eq!(lab.datapath.alias_usage(lab.cookie).unwrap().held, 1);
    lab.datapath.remove_netns_entry(lab.cookie).unwrap();
    assert_eq!(lab.datapath.remove_stale_aliases().unwrap(), 1);
    assert!(lab.datapath.alias_usage.keys().unwrap().is_empty());
}

#[test]
fn socket_bound_to_loopback_is_refused_by_the_kernel() {
    let lab = Lab::meshed();
    let _proxy = listen(&lab.pod, "[::]:15001");
    for (from, to) in [
        ("127.0.0.1:0", format!("{}:80", WORLD[0])),
        ("127.0.0.6:0", format!("{}:80", WORLD[0])),
        ("[::ffff:127.0.0.1]:0", format!("[::ffff:{}]:80", WORLD[0])),
    ] {
        let error = lab.pod.run_as(APP, move || {
            let [from, to] = [from, &to].map(|at| at.parse::<SocketAddr>().unwrap());
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
            socket.bind(&from.into()).unwrap();
            socket.connect(&to.into()).unwrap_err().raw_os_error()
        });
        assert_eq!(error, Some(libc::EINVAL), "{from}");
    }
    assert_eq!(lab.count(Reason::OutboundToProxy), 0);
}

/// Connects from a socket that is bound to another host's address, without waiting.
fn begin_from(lab: &Lab, user: u32, source: &'static str, to: &str) {
    let (source, to): (SocketAddr, SocketAddr) = (source.parse().unwrap(), to.parse().unwrap());
    lab.pod.run_as(user, move || {
        begin(to, |socket| {
            if to.is_ipv4() {
                socket.set_ip_transparent_v4(true).unwrap();
            } else {
                socket.set_freebind_v6(true).unwrap();
            }
            socket.bind(&source.into()).unwrap();
        });
    });
}

#[test]
fn foreign_ipv6_sources_get_no_alias_address() {
    let lab = routed();
    let _proxy = listen(&lab.pod, "[::]:15001");
    let to = format!("[{}]:80", WORLD[1]);
    begin_from(&lab, APP, "[fd77::1]:0", &to);
    assert_eq!(lab.count(Reason::OutboundToProxy), 1);
    assert_eq!(lab.datapath.alias_usage(lab.cookie).unwrap().held, 0);
    begin_from(&lab, APP, "[fd77::2]:0", &to);
    assert_eq!(lab.count(Reason::OutboundToProxy), 2);
    assert_eq!(lab.datapath.alias_usage(lab.cookie).unwrap().held, 1);
}

#[test]
fn unspecified_destination_of_a_foreign_source_is_redirected() {
    let lab = routed();
    let _proxy = listen(&lab.pod, "[::]:15001");
    begin_from(&lab, 0, "10.77.0.1:0", "0.0.0.0:80");
    assert_eq!(lab.count(Reason::OutboundLocal), 0);
    assert_eq!(lab.count(Reason::OutboundToProxy), 1);
    let app = listen(&lab.pod, "[::]:8080");
    begin_from(&lab, 0, "10.77.0.2:0", "0.0.0.0:8080");
    assert!(accept(&lab.pod, &app, SOON).is_some());
    assert_eq!(lab.count(Reason::OutboundLocal), 1);
}
