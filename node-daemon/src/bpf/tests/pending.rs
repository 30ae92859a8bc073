//! Tests of pending Pods, of which only the addresses are known.

use std::net::{IpAddr, SocketAddr};

use sluice_abi::{NetworkPrefix, Reason};

use super::{
    destinations,
    lab::{APP, Lab, Netns, PROVISIONAL, PROXY, SOON},
    sockets::{Accepted, accept, connect, expect_greeting, listen},
};
use crate::bpf::Rule;

/// The addresses of one test: the tests share a cgroup, and only its address identifies a pending Pod.
struct Home {
    pod: [&'static str; 2],
    world: [&'static str; 2],
}

/// One for each test.
const HOMES: [Home; 5] = [
    home(["10.78.0.2", "fd78::2"], ["10.78.0.1", "fd78::1"]),
    home(["10.78.1.2", "fd78:1::2"], ["10.78.1.1", "fd78:1::1"]),
    home(["10.78.2.2", "fd78:2::2"], ["10.78.2.1", "fd78:2::1"]),
    home(["10.78.3.2", "fd78:3::2"], ["10.78.3.1", "fd78:3::1"]),
    home(["10.78.4.2", "fd78:4::2"], ["10.78.4.1", "fd78:4::1"]),
];

const fn home(pod: [&'static str; 2], world: [&'static str; 2]) -> Home {
    Home { pod, world }
}

fn pending_lab(home: &Home) -> Lab {
    let mut lab = Lab::at(home.pod, home.world);
    lab.add_pending(home.pod);
    lab
}

/// Connects a socket after `option` has configured it. Returns the socket's source address.
fn connect_with(
    netns: &Netns,
    to: &str,
    option: impl FnOnce(&socket2::Socket) + Send + 'static,
) -> SocketAddr {
    let to: SocketAddr = to.parse().unwrap();
    netns.run_as(APP, move || {
        let domain = socket2::Domain::for_address(to);
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None).unwrap();
        option(&socket);
        socket.connect(&to.into()).unwrap();
        socket.local_addr().unwrap().as_socket().unwrap()
    })
}

#[test]
fn first_connection_of_a_pending_pod_is_redirected() {
    let home = &HOMES[0];
    for index in 0..3 {
        let lab = pending_lab(home);
        let proxy = listen(&lab.pod, "[::]:15001");
        let (written, at) = &destinations(home.world, 80)[index];
        for _ in 0..2 {
            let stream = connect(&lab.pod, APP, written);
            let seen = Some(Accepted {
                peer: home.pod[usize::from(at.is_ipv6())].parse().unwrap(),
                original: Some(*at),
            });
            assert_eq!(accept(&lab.pod, &proxy, SOON), seen, "{written}");
            expect_greeting(stream);
        }
        assert_eq!(lab.count(Reason::PodNetnsFound), 1);
        let found = lab.datapath.netns_entry(lab.cookie).unwrap().unwrap();
        assert_eq!(found.pod.cookie, PROVISIONAL);
    }
}

#[test]
fn hairpin_calls_resolve_pending_pods() {
    let home = &HOMES[1];
    let lab = pending_lab(home);
    let inbound = listen(&lab.pod, "[::]:15006");
    let (written, at) = &destinations(home.pod, 8080)[0];
    let stream = connect(&lab.pod, PROXY, written);
    let seen = accept(&lab.pod, &inbound, SOON);
    assert_eq!(seen.and_then(|seen| seen.original), Some(*at));
    expect_greeting(stream);
    assert_eq!(lab.count(Reason::PodNetnsFound), 1);
}

#[test]
fn rules_apply_to_pending_pods() {
    let home = &HOMES[2];
    let mut lab = pending_lab(home);
    let world = listen(&lab.world, "[::]:80");
    let server: IpAddr = home.world[0].parse().unwrap();
    let prefix = NetworkPrefix::new(PROVISIONAL, server.into(), 32);
    lab.datapath.add_rule(&Rule::ExcludeCidr(prefix)).unwrap();
    let stream = connect(&lab.pod, APP, &format!("{}:80", home.world[0]));
    assert!(accept(&lab.world, &world, SOON).is_some());
    expect_greeting(stream);
    assert_eq!(lab.count(Reason::OutboundNetworkExcluded), 1);
}

#[test]
fn nonlocal_bind_never_matches_a_pending_pod() {
    let home = &HOMES[3];
    let lab = pending_lab(home);
    let _app = listen(&lab.pod, "[::]:8080");
    let sources = || {
        destinations(home.pod, 8080).map(|(to, at)| {
            let own: IpAddr = home.world[usize::from(at.is_ipv6())].parse().unwrap();
            for free in [false, true] {
                let source = connect_with(&lab.world, &to, move |socket| {
                    if at.is_ipv4() {
                        // Also for the IPv6 socket of a v4-mapped destination.
                        socket.set_freebind_v4(free).unwrap();
                    } else {
                        socket.set_freebind_v6(free).unwrap();
                    }
                });
                assert_eq!(source.ip().to_canonical(), own, "{to}");
            }
        })
    };
    sources();
    lab.world.run(|| {
        for family in ["ipv4", "ipv6"] {
            std::fs::write(format!("/proc/sys/net/{family}/ip_nonlocal_bind"), "1").unwrap();
        }
    });
    sources();
    assert_eq!(lab.count(Reason::PodNetnsFound), 0);
}

#[test]
fn local_and_bound_callers_never_match_pending_pods() {
    let home = &HOMES[4];
    let lab = pending_lab(home);
    let app = listen(&lab.pod, "[::]:8080");
    let world = listen(&lab.world, "[::]:80");
    for (from, to, at) in [
        (
            "0.0.0.0:0".to_owned(),
            "127.0.0.1:8080".to_owned(),
            (&lab.pod, &app),
        ),
        (
            format!("{}:0", home.pod[0]),
            format!("{}:80", home.world[0]),
            (&lab.world, &world),
        ),
    ] {
        let from: SocketAddr = from.parse().unwrap();
        connect_with(&lab.pod, &to, move |socket| {
            socket.bind(&from.into()).unwrap();
        });
        assert!(accept(at.0, at.1, SOON).is_some());
    }
    assert_eq!(lab.count(Reason::PodNetnsFound), 0);
}
