//! Tests of the proxy's reserved ports in a meshed Pod.

use std::{
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
};

use sluice_abi::{Event, ForeignKey, PodFlags, Port, Reason};

use super::{
    lab::{APP, Lab, NEVER, Netns, POD, PROXY, SOON, VALIDATOR, WORLD},
    sockets::{PROXY_PORTS, accept, call, connect, expect_greeting, listen, listen_as},
};

const TCP: u16 = 6;
const UDP: u16 = 17;

fn bind_udp(netns: &Netns, user: u32, at: &str) -> Result<UdpSocket, ErrorKind> {
    let at: SocketAddr = at.parse().unwrap();
    netns.run_as(user, move || {
        UdpSocket::bind(at).map_err(|error| error.kind())
    })
}

fn refused(lab: &Lab) -> Vec<(ForeignKey, u32)> {
    let all = lab.datapath.foreign_binds().unwrap();
    let mut all: Vec<_> = (all.into_iter())
        .map(|(key, found)| (key, found.uid))
        .collect();
    all.sort_by_key(|(key, _)| (key.port.get(), key.protocol));
    all
}

fn key(lab: &Lab, port: u16, protocol: u16) -> ForeignKey {
    ForeignKey {
        cookie: lab.cookie,
        port: Port::new(port),
        protocol,
        pad: 0,
    }
}

#[test]
fn foreign_users_cannot_bind_proxy_ports() {
    let lab = Lab::meshed();
    for user in [0, APP] {
        for at in [
            "0.0.0.0",
            "127.0.0.1",
            "[::]",
            "[::1]",
            "[::ffff:127.0.0.1]",
        ] {
            for port in PROXY_PORTS {
                let error = listen_as(&lab.pod, user, &format!("{at}:{port}")).unwrap_err();
                assert_eq!(
                    error.kind(),
                    ErrorKind::PermissionDenied,
                    "{user} {at}:{port}"
                );
            }
            let udp = bind_udp(&lab.pod, user, &format!("{at}:15053"));
            assert_eq!(udp.unwrap_err(), ErrorKind::PermissionDenied, "{user} {at}");
        }
    }
    assert_eq!(lab.count(Reason::ForeignBind), 2 * 5 * 4);
    assert!(!lab.datapath.captures_dns(lab.cookie).unwrap());
    assert_eq!(lab.datapath.listeners(lab.cookie).unwrap(), 0);
    let by_app = [(15001, TCP), (15006, TCP), (15053, TCP), (15053, UDP)];
    assert_eq!(
        refused(&lab),
        by_app.map(|(port, protocol)| (key(&lab, port, protocol), APP))
    );
}

#[test]
fn validator_gets_its_own_connection_before_the_proxy_listens() {
    let lab = Lab::meshed();
    for (at, to) in [("0.0.0.0:15001", WORLD[0]), ("[::1]:15001", WORLD[1])] {
        let validator = listen_as(&lab.pod, VALIDATOR, at).unwrap();
        let to = SocketAddr::new(to.parse().unwrap(), 20001).to_string();
        let stream = connect(&lab.pod, VALIDATOR, &to);
        assert!(accept(&lab.pod, &validator, SOON).is_some(), "{at}");
        expect_greeting(stream);
    }
    for at in ["0.0.0.0:15006", "0.0.0.0:15053"] {
        let refused = listen_as(&lab.pod, VALIDATOR, at).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::PermissionDenied, "{at}");
    }
    assert_eq!(lab.count(Reason::ForeignBind), 2);
    assert_eq!(lab.count(Reason::ForeignListener), 0);
    assert_eq!(lab.count(Reason::ListenerAdded), 0);
}

#[test]
fn every_other_port_stays_free() {
    let lab = Lab::meshed();
    for at in ["0.0.0.0:15008", "[::]:8080", "127.0.0.1:15000"] {
        listen_as(&lab.pod, APP, at).unwrap();
    }
    bind_udp(&lab.pod, APP, "0.0.0.0:15001").unwrap();
    bind_udp(&lab.pod, APP, "0.0.0.0:15006").unwrap();
    for port in PROXY_PORTS {
        listen_as(&lab.world, APP, &format!("[::]:{port}")).unwrap();
        listen_as(&lab.pod, PROXY, &format!("[::]:{port}")).unwrap();
    }
    assert_eq!(lab.count(Reason::ForeignBind), 0);
    assert_eq!(refused(&lab), []);
}

#[test]
fn listener_bound_before_its_pod_gets_nothing() {
    for (port, reached) in [(15006, false), (15053, false)] {
        let mut lab = Lab::bare();
        let early = lab.pod.run_as(APP, move || {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
            let socket = socket.unwrap();
            let at = SocketAddr::from(([0, 0, 0, 0], port));
            socket.bind(&at.into()).unwrap();
            socket
        });
        lab.enroll();
        early.listen(16).unwrap();
        early.set_nonblocking(true).unwrap();
        assert_eq!(lab.count(Reason::ForeignListener), 1);
        assert_eq!(lab.datapath.captures_dns(lab.cookie).unwrap(), reached);
        assert_eq!(lab.datapath.listeners(lab.cookie).unwrap(), 0);
        assert_eq!(refused(&lab), [(key(&lab, port, TCP), Event::NO_UID)]);
    }
}

#[test]
fn refused_foreign_bind_keeps_the_proxys_listener() {
    let lab = Lab::meshed();
    let proxy = listen(&lab.pod, "0.0.0.0:15006");
    listen_as(&lab.pod, APP, "0.0.0.0:15006").unwrap_err();
    let stream = connect(&lab.world, APP, &format!("{}:8080", POD[0]));
    assert!(accept(&lab.pod, &proxy, SOON).is_some());
    expect_greeting(stream);
    assert!(accept(&lab.pod, &proxy, NEVER).is_none());
}

#[test]
fn pod_that_ends_leaves_no_refused_user() {
    let mut lab = Lab::meshed();
    listen_as(&lab.pod, APP, "0.0.0.0:15006").unwrap_err();
    lab.datapath.remove_netns_entry(lab.cookie).unwrap();
    assert_eq!(refused(&lab), []);
}

#[test]
fn rewritten_entry_keeps_its_foreign_listener() {
    let mut lab = Lab::meshed();
    let to = format!("{}:8080", WORLD[0]);
    lab.datapath
        .set_foreign_listener(lab.cookie, Some(APP))
        .unwrap();
    for refused in 1..=2 {
        let denied = call(&lab.pod, APP, &to).unwrap_err();
        assert_eq!(denied, ErrorKind::PermissionDenied);
        assert_eq!(lab.count(Reason::OutboundLoop), refused);
        // Readers do not see the flag, so the entry is written without it.
        let entry = lab.datapath.netns_entry(lab.cookie).unwrap().unwrap();
        assert!(!entry.pod.flags.has(PodFlags::FOREIGN_LISTENER));
        let all = lab.datapath.all_netns_entries().unwrap();
        assert_eq!(all, [(lab.cookie, entry)]);
        lab.datapath.set_netns_entry(lab.cookie, &entry).unwrap();
    }
    lab.datapath.set_foreign_listener(lab.cookie, None).unwrap();
    let refused = call(&lab.pod, APP, &to).unwrap_err();
    assert_eq!(refused, ErrorKind::ConnectionRefused);
    assert_eq!(lab.count(Reason::OutboundLoop), 2);
}
