//! Tests of sockets that pass from one user to another: the rules about owners judge the process that
//! made the socket and the one that uses it.

use std::{io::ErrorKind, net::SocketAddr, path::Path};

use sluice_abi::Reason;
use socket2::{Domain, Protocol, Socket, Type};

use super::{
    destinations,
    lab::{APP, Lab, PATIENCE, PROXY, WORLD},
};

/// A socket that a user of the Pod makes.
fn made_by(lab: &Lab, user: u32, domain: Domain, protocol: Protocol) -> Socket {
    let socket = lab.pod.run_as(user, move || {
        Socket::new(domain, Type::STREAM, Some(protocol))
    });
    socket.unwrap()
}

/// TCP, and MPTCP where the kernel has it: its first subflow is a socket of the kernel.
fn protocols() -> Vec<Protocol> {
    let mptcp = Path::new("/proc/sys/net/mptcp").exists();
    let mut protocols = vec![Protocol::TCP];
    protocols.extend(mptcp.then_some(Protocol::MPTCP));
    protocols
}

#[test]
fn proxy_connection_needs_the_proxy_as_maker_and_caller() {
    let lab = Lab::meshed();
    for (maker, caller, reason) in [
        (APP, PROXY, Reason::OutboundToProxy),
        (PROXY, APP, Reason::OutboundToProxy),
        (PROXY, PROXY, Reason::OutboundByProxy),
    ] {
        for protocol in protocols() {
            let before = lab.count(reason);
            for (written, _) in destinations(WORLD, 80) {
                let to: SocketAddr = written.parse().unwrap();
                let socket = made_by(&lab, maker, Domain::for_address(to), protocol);
                // Nothing listens: the decision is what counts.
                lab.pod.run_as(caller, move || {
                    drop(socket.connect_timeout(&to.into(), PATIENCE));
                });
            }
            let count = lab.count(reason) - before;
            assert_eq!(count, 3, "{maker} {caller} {protocol:?}");
        }
    }
}

#[test]
fn proxy_connection_needs_the_proxy_as_real_and_effective_user() {
    let lab = Lab::meshed();
    for (real, effective, reason) in [
        (PROXY, APP, Reason::OutboundToProxy),
        (APP, PROXY, Reason::OutboundToProxy),
        (PROXY, PROXY, Reason::OutboundByProxy),
    ] {
        for protocol in protocols() {
            let before = lab.count(reason);
            for (written, _) in destinations(WORLD, 80) {
                let to: SocketAddr = written.parse().unwrap();
                lab.pod.run_with_users(real, effective, move || {
                    let domain = Domain::for_address(to);
                    let socket = Socket::new(domain, Type::STREAM, Some(protocol)).unwrap();
                    drop(socket.connect_timeout(&to.into(), PATIENCE));
                });
            }
            let count = lab.count(reason) - before;
            assert_eq!(count, 3, "real {real}, effective {effective}, {protocol:?}");
        }
    }
}

#[test]
fn bind_of_a_proxy_port_needs_the_proxy_as_maker_and_caller() {
    let lab = Lab::meshed();
    let at: SocketAddr = "0.0.0.0:15001".parse().unwrap();
    for (maker, caller, expected) in [
        (APP, PROXY, Err(ErrorKind::PermissionDenied)),
        (PROXY, APP, Err(ErrorKind::PermissionDenied)),
        (PROXY, PROXY, Ok(())),
    ] {
        let socket = made_by(&lab, maker, Domain::IPV4, Protocol::TCP);
        let bound = lab.pod.run_as(caller, move || {
            socket.bind(&at.into()).map_err(|error| error.kind())
        });
        assert_eq!(bound, expected, "{maker} {caller}");
    }
}
