//! Tests of sockets that pass from one user to another: the rules about owners judge the process that
//! made the socket and the one that uses it.

use std::{io::ErrorKind, net::SocketAddr};

use sluice_abi::Reason;
use socket2::{Domain, Socket, Type};

use super::{
    destinations,
    lab::{APP, Lab, PATIENCE, PROXY, WORLD},
};

/// A socket that a user of the Pod makes.
fn made_by(lab: &Lab, user: u32, domain: Domain) -> Socket {
    let socket = lab
        .pod
        .run_as(user, move || Socket::new(domain, Type::STREAM, None));
    socket.unwrap()
}

#[test]
fn proxy_connection_needs_the_proxy_as_maker_and_caller() {
    let lab = Lab::meshed();
    for (maker, caller, reason) in [
        (APP, PROXY, Reason::OutboundToProxy),
        (PROXY, APP, Reason::OutboundToProxy),
        (PROXY, PROXY, Reason::OutboundByProxy),
    ] {
        let before = lab.count(reason);
        for (written, _) in destinations(WORLD, 80) {
            let to: SocketAddr = written.parse().unwrap();
            let socket = made_by(&lab, maker, Domain::for_address(to));
            // Nothing listens: the decision is what counts.
            lab.pod.run_as(caller, move || {
                drop(socket.connect_timeout(&to.into(), PATIENCE));
            });
        }
        assert_eq!(lab.count(reason) - before, 3, "{maker} {caller}");
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
        let socket = made_by(&lab, maker, Domain::IPV4);
        let bound = lab.pod.run_as(caller, move || {
            socket.bind(&at.into()).map_err(|error| error.kind())
        });
        assert_eq!(bound, expected, "{maker} {caller}");
    }
}
