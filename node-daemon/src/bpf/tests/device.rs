//! Tests of sockets that are bound to a device: their packets leave the Pod with any destination.

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
    time::Duration,
};

use sluice_abi::Reason;
use socket2::{Domain, Socket, Type};

use super::{
    alias_routes, destinations,
    lab::{APP, Lab, NEVER, Netns, POD, SOON, WORLD},
    netns::ip,
    sockets::{Listener, accept, connect, expect_greeting, listen},
};

/// The errors of `connect` and `sendto` on a socket that is bound to a device.
fn call_on(netns: &Netns, device: &'static str, to: &str) -> [io::Result<()>; 3] {
    let to: SocketAddr = to.parse().unwrap();
    netns.run_as(APP, move || {
        let socket = |kind| {
            let socket = Socket::new(Domain::for_address(to), kind, None).unwrap();
            socket.bind_device(Some(device.as_bytes())).unwrap();
            socket
        };
        [
            socket(Type::STREAM).connect_timeout(&to.into(), Duration::from_secs(1)),
            socket(Type::DGRAM).connect(&to.into()),
            socket(Type::DGRAM).send_to(b"query", &to.into()).map(drop),
        ]
    })
}

fn kinds(results: [io::Result<()>; 3]) -> [Option<ErrorKind>; 3] {
    results.map(|one| one.err().map(|error| error.kind()))
}

/// A Pod whose gateway has every alias address, and listens on the proxy's port.
fn meshed_with_gateway() -> (Lab, Listener) {
    let lab = Lab::meshed();
    lab.world
        .run(|| ip("-6 route add local 100::7f40:0/106 dev lo"));
    lab.pod
        .run(|| ip(&format!("-6 route add default via {}", WORLD[1])));
    let gateway = listen(&lab.world, "[::]:15001");
    (lab, gateway)
}

#[test]
fn redirected_connections_of_device_bound_sockets_are_refused() {
    let (mut lab, gateway) = meshed_with_gateway();
    let mut entry = lab.datapath.netns_entry(lab.cookie).unwrap().unwrap();
    entry.pod.flags = entry.pod.flags.with(sluice_abi::PodFlags::ALIAS_ROUTE_V6);
    lab.datapath.set_netns_entry(lab.cookie, &entry).unwrap();
    for (written, _) in destinations(WORLD, 80) {
        let [stream, ..] = kinds(call_on(&lab.pod, "eth0", &written));
        assert_eq!(stream, Some(ErrorKind::PermissionDenied), "{written}");
    }
    assert_eq!(lab.count(Reason::OutboundDevice), 3);
    assert_eq!(accept(&lab.world, &gateway, NEVER), None);
}

#[test]
fn dns_queries_of_device_bound_sockets_are_refused() {
    let lab = Lab::meshed();
    let _resolver = listen(&lab.pod, "[::]:15053");
    for (written, _) in destinations(WORLD, 53) {
        let errors = kinds(call_on(&lab.pod, "eth0", &written));
        assert_eq!(errors, [Some(ErrorKind::PermissionDenied); 3], "{written}");
    }
    assert_eq!(lab.count(Reason::OutboundDevice), 9);
}

#[test]
fn other_datagrams_and_the_device_lo_stay_free() {
    let lab = Lab::meshed();
    let _resolver = listen(&lab.pod, "[::]:15053");
    let [stream, connected, sent] = kinds(call_on(&lab.pod, "eth0", &format!("{}:5353", WORLD[0])));
    assert_eq!(stream, Some(ErrorKind::PermissionDenied));
    assert_eq!([connected, sent], [None, None]);
    let [_, connected, sent] = kinds(call_on(&lab.pod, "lo", &format!("{}:53", WORLD[0])));
    assert_eq!([connected, sent], [None, None]);
    assert_eq!(lab.count(Reason::OutboundDevice), 1);
}

#[test]
fn redirected_connections_get_no_device() {
    let lab = Lab::meshed();
    let proxy = listen(&lab.pod, "[::]:15001");
    let app = listen(&lab.pod, "[::]:8080");
    for (written, _) in destinations(WORLD, 80) {
        let stream = connect(&lab.pod, APP, &written);
        let socket = socket2::SockRef::from(&stream);
        let denied = socket.bind_device(Some(b"eth0")).unwrap_err();
        assert_eq!(denied.kind(), ErrorKind::PermissionDenied, "{written}");
        assert!(accept(&lab.pod, &proxy, SOON).is_some());
        expect_greeting(stream);
    }
    assert_eq!(lab.count(Reason::DeviceDenied), 3);
    for (written, _) in destinations(POD, 8080) {
        let stream = connect(&lab.pod, APP, &written);
        socket2::SockRef::from(&stream)
            .bind_device(Some(b"lo"))
            .unwrap();
        assert!(accept(&lab.pod, &app, SOON).is_some());
    }
    assert_eq!(lab.count(Reason::DeviceDenied), 3);
}

#[test]
fn packets_to_ipv6_alias_addresses_do_not_leave_by_a_device() {
    let (lab, _gateway) = meshed_with_gateway();
    let netns = crate::netns::Netns::open(lab.pod.path()).unwrap();
    let routes = alias_routes();
    let networks = routes.map(|route| route.dst);
    let over = |device| {
        let [_, connected, sent] = call_on(&lab.pod, device, "[100::7f40:1]:9");
        [connected, sent].map(|one| one.is_ok())
    };
    // A second time, as a repair installs them.
    for _ in 0..2 {
        let refused = netns.install_local_routes(&[], &routes);
        assert_eq!(refused.unwrap(), []);
        assert_eq!(over("lo"), [true; 2]);
        assert_eq!(over("eth0"), [false; 2]);
    }
    // Without them the device decides.
    let removed = netns.install_local_routes(&networks, &[]);
    assert_eq!(removed.unwrap(), []);
    assert_eq!(over("eth0"), [true; 2]);
    let left = lab.pod.run(|| {
        let mut show = std::process::Command::new("ip");
        show.args(["-6", "nexthop"]).output().unwrap().stdout
    });
    assert_eq!(left, b"");
}
