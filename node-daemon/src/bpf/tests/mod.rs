//! Tests of the programs on the running kernel, with real sockets in real namespaces.

mod accel_bounds;
mod accelerate;
mod adoption;
mod bind;
mod device;
mod dns;
mod dst_alias;
mod edges;
mod filter;
mod fuzz_accel;
mod inbound;
mod lab;
mod netns;
mod node_conns;
mod original_source;
mod own_addrs;
mod owner;
mod pending;
mod raw_socket;
mod reroute;
mod routes;
mod sockets;
mod syn;

use std::{
    io::ErrorKind,
    net::{SocketAddr, TcpListener},
    time::Duration,
};

use lab::{APP, Lab, NEVER, Netns, POD, PROXY, SOON, WORLD, await_that, port};
use sluice_abi::{PodFlags, PortList, Reason};
use sockets::{Accepted, Listener, accept, call, connect, expect_greeting, listen};

use crate::netns::SourceRoute;

/// Each destination in the client's notation, and in its canonical form.
fn destinations(of: [&str; 2], port: u16) -> [(String, SocketAddr); 3] {
    let [v4, v6] = of;
    let plain = |text: String| (text.clone(), text.parse().unwrap());
    let (v4_text, v4_at) = plain(format!("{v4}:{port}"));
    [
        (v4_text, v4_at),
        plain(format!("[{v6}]:{port}")),
        (format!("[::ffff:{v4}]:{port}"), v4_at),
    ]
}

/// The alias routes of the Pod.
fn alias_routes() -> [SourceRoute; 2] {
    [("127.64.0.0/10", POD[0]), ("100::7f40:0/106", POD[1])].map(|(dst, prefsrc)| SourceRoute {
        dst: dst.parse().unwrap(),
        prefsrc: prefsrc.parse().unwrap(),
    })
}

fn canonical(at: SocketAddr) -> SocketAddr {
    SocketAddr::new(at.ip().to_canonical(), at.port())
}

/// Connects to each destination. The proxy's listener of the family must get the connection, with its
/// source and its original destination.
fn expect_redirected(
    lab: &Lab,
    (from, sources): (&Netns, [&str; 2]),
    to: [(String, SocketAddr); 3],
    listeners: [&TcpListener; 2],
) {
    for (written, at) in to {
        let family = usize::from(at.is_ipv6());
        let expected = Accepted {
            peer: sources[family].parse().unwrap(),
            original: Some(at),
        };
        let stream = connect(from, APP, &written);
        assert_eq!(stream.peer_addr().map(canonical).unwrap(), at, "{written}");
        let seen = accept(&lab.pod, listeners[family], SOON);
        assert_eq!(seen, Some(expected), "{written}");
        expect_greeting(stream);
    }
}

#[test]
fn outbound_connections_reach_the_proxy_with_original_dst() {
    let lab = Lab::meshed();
    let v4 = listen(&lab.pod, "0.0.0.0:15001");
    let v6 = listen(&lab.pod, "[::1]:15001");
    let to = destinations(WORLD, 80);
    expect_redirected(&lab, (&lab.pod, POD), to, [&v4, &v6]);
    assert_eq!(lab.count(Reason::OutboundToProxy), 3);
    assert_eq!(lab.count(Reason::OrigDstMissing), 0);
}

#[test]
fn dual_stack_listeners_get_ipv4_original_dst() {
    let lab = Lab::meshed();
    let both = listen(&lab.pod, "[::]:15001");
    let to = destinations(WORLD, 443);
    expect_redirected(&lab, (&lab.pod, POD), to, [&both, &both]);
}

#[test]
fn inbound_connections_reach_the_proxy_with_source() {
    let lab = Lab::meshed();
    let app = listen(&lab.pod, "[::]:8080");
    let v4 = listen(&lab.pod, "0.0.0.0:15006");
    let v6 = listen(&lab.pod, "[::1]:15006");
    let to = destinations(POD, 8080);
    expect_redirected(&lab, (&lab.world, WORLD), to, [&v4, &v6]);
    assert_eq!(accept(&lab.pod, &app, NEVER), None);
    assert_eq!(lab.count(Reason::InboundToProxy), 3);
}

#[test]
fn a_pod_whose_proxy_does_not_listen_refuses_connections() {
    let lab = Lab::meshed();
    let app = listen(&lab.pod, "[::]:8080");
    for (written, _) in destinations(POD, 8080) {
        let refused = Err(ErrorKind::ConnectionRefused);
        assert_eq!(call(&lab.world, APP, &written), refused, "{written}");
    }
    for (written, _) in destinations(WORLD, 80) {
        let refused = Err(ErrorKind::ConnectionRefused);
        assert_eq!(call(&lab.pod, APP, &written), refused, "{written}");
    }
    assert_eq!(accept(&lab.pod, &app, NEVER), None);
    assert_eq!(lab.count(Reason::InboundNoProxy), 3);
}

#[test]
fn closed_listener_leaves_the_others_in_use() {
    let lab = Lab::meshed();
    let to = format!("{}:8080", POD[0]);
    let mut workers: Vec<_> = (0..4).map(|_| listen(&lab.pod, "0.0.0.0:15006")).collect();
    assert_eq!(lab.datapath.listeners(lab.cookie).unwrap(), 4);
    while !workers.is_empty() {
        let stream = connect(&lab.world, APP, &to);
        await_that(|| {
            let takes = |one: &Listener| accept(&lab.pod, one, Duration::ZERO).is_some();
            workers.iter().any(takes)
        });
        expect_greeting(stream);
        drop(workers.remove(0));
    }
    let refused = Err(ErrorKind::ConnectionRefused);
    assert_eq!(call(&lab.world, APP, &to), refused);
    await_that(|| lab.datapath.listeners(lab.cookie).unwrap() == 0);
    let again = listen(&lab.pod, "0.0.0.0:15006");
    expect_greeting({
        let stream = connect(&lab.world, APP, &to);
        assert!(accept(&lab.pod, &again, SOON).is_some());
        stream
    });
}

#[test]
fn registered_listener_from_before_enrollment_gets_connections() {
    let mut lab = Lab::bare();
    let early = listen(&lab.pod, "0.0.0.0:15006");
    lab.enroll();
    let to = format!("{}:8080", POD[0]);
    assert_eq!(
        call(&lab.world, APP, &to),
        Err(ErrorKind::ConnectionRefused)
    );
    let fd = std::os::fd::AsFd::as_fd(&*early);
    lab.datapath.add_listener(lab.cookie, 2, fd).unwrap();
    let stream = connect(&lab.world, APP, &to);
    assert!(accept(&lab.pod, &early, SOON).is_some());
    expect_greeting(stream);
}

#[test]
fn hairpin_calls_reach_the_inbound_listener() {
    let lab = Lab::meshed();
    let app = listen(&lab.pod, "[::]:8080");
    let inbound = listen(&lab.pod, "[::]:15006");
    for (written, at) in destinations(POD, 8080) {
        let stream = connect(&lab.pod, PROXY, &written);
        let seen = accept(&lab.pod, &inbound, SOON);
        assert_eq!(seen.and_then(|seen| seen.original), Some(at), "{written}");
        expect_greeting(stream);
    }
    assert_eq!(accept(&lab.pod, &app, NEVER), None);
}

#[test]
fn excluded_and_proxy_traffic_is_direct() {
    let mut lab = Lab::meshed();
    let world = listen(&lab.world, "[::]:80");
    let app = listen(&lab.pod, "[::]:8080");
    let status = listen(&lab.pod, "[::]:15021");
    let _inbound = listen(&lab.pod, "[::]:15006");
    lab.list(port(PortList::InboundExcluded, 15021, 15021));
    for index in 0..3 {
        let (own, _) = &destinations(POD, 8080)[index];
        let (out, _) = &destinations(WORLD, 80)[index];
        let (health, _) = &destinations(POD, 15021)[index];
        let rows = [
            (&lab.pod, APP, own, &lab.pod, &app),
            (&lab.pod, PROXY, out, &lab.world, &world),
            (&lab.world, APP, health, &lab.pod, &status),
        ];
        for (from, user, to, home, listener) in rows {
            let stream = connect(from, user, to);
            assert!(accept(home, listener, SOON).is_some(), "{user} to {to}");
            expect_greeting(stream);
        }
    }
}

#[test]
fn unenrolled_netns_is_not_intercepted() {
    let lab = Lab::bare();
    let world = listen(&lab.world, "[::]:80");
    let app = listen(&lab.pod, "[::]:8080");
    let _proxy = listen(&lab.pod, "[::]:15006");
    for index in 0..3 {
        let stream = connect(&lab.pod, APP, &destinations(WORLD, 80)[index].0);
        let seen = accept(&lab.world, &world, SOON).unwrap();
        assert_eq!(seen.original, None);
        expect_greeting(stream);
        let stream = connect(&lab.world, APP, &destinations(POD, 8080)[index].0);
        assert!(accept(&lab.pod, &app, SOON).is_some());
        expect_greeting(stream);
    }
    assert_eq!(lab.count(Reason::OutboundToProxy), 0);
}

#[test]
fn pinned_data_path_works_until_its_pins_end() {
    let lab = Lab::meshed();
    let world = listen(&lab.world, "[::]:80");
    let app = listen(&lab.pod, "[::]:8080");
    let proxy = listen(&lab.pod, "[::]:15006");
    let (outside, inside) = (format!("{}:80", WORLD[0]), format!("{}:8080", POD[0]));
    let Lab {
        pod,
        world: node,
        datapath,
        pins,
        cgroup: _cgroup,
        ..
    } = lab;
    drop(datapath);
    assert_eq!(call(&pod, APP, &outside), Err(ErrorKind::ConnectionRefused));
    let stream = connect(&node, APP, &inside);
    assert!(accept(&pod, &proxy, SOON).is_some());
    expect_greeting(stream);

    drop(pins);
    // The kernel frees the pinned objects after the file system is gone.
    await_that(|| call(&pod, APP, &outside).is_ok());
    assert!(accept(&node, &world, SOON).is_some());
    let stream = connect(&pod, APP, &outside);
    assert!(accept(&node, &world, SOON).is_some());
    expect_greeting(stream);
    let stream = connect(&node, APP, &inside);
    assert!(accept(&pod, &app, SOON).is_some());
    expect_greeting(stream);
}

#[test]
fn restart_replaces_programs_and_keeps_orig_dst() {
    let lab = Lab::meshed();
    let proxy = listen(&lab.pod, "0.0.0.0:15001");
    let to = format!("{}:80", WORLD[0]);
    let stream = connect(&lab.pod, APP, &to);
    let lab = lab.restart();
    assert_eq!(stream.peer_addr().unwrap(), to.parse().unwrap());
    let seen = accept(&lab.pod, &proxy, SOON).unwrap();
    assert_eq!(seen.original, Some(to.parse().unwrap()));
    expect_greeting(stream);
    assert_eq!(lab.count(Reason::OutboundToProxy), 1);
}

#[test]
fn no_hairpin_connects_proxy_to_the_application() {
    let mut lab = Lab::bare();
    lab.enroll_with(PodFlags::NO_HAIRPIN);
    let proxy = listen(&lab.pod, "[::]:15006");
    let app = listen(&lab.pod, "[::]:8080");
    for (written, _) in destinations(POD, 8080) {
        let stream = connect(&lab.pod, PROXY, &written);
        assert!(accept(&lab.pod, &app, SOON).is_some(), "{written}");
        expect_greeting(stream);
    }
    assert!(accept(&lab.pod, &proxy, NEVER).is_none());
    assert_eq!(lab.count(Reason::OutboundByProxy), 3);
}
