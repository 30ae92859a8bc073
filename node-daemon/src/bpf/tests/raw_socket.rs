//! Tests of raw sockets in a meshed Pod.

use std::io::ErrorKind;

use sluice_abi::Reason;
use socket2::{Domain, Protocol, Socket, Type};

use super::lab::{APP, Lab, Netns, await_that};

/// A raw socket of root, by its protocol.
fn raw(netns: &Netns, domain: Domain, protocol: Protocol) -> Result<(), ErrorKind> {
    netns.run(
        move || match Socket::new(domain, Type::RAW, Some(protocol)) {
            Ok(_) => Ok(()),
            Err(error) => Err(error.kind()),
        },
    )
}

const EACH: [(Domain, Protocol); 4] = [
    (Domain::IPV4, Protocol::TCP),
    (Domain::IPV4, Protocol::ICMPV4),
    (Domain::IPV6, Protocol::TCP),
    (Domain::IPV6, Protocol::ICMPV6),
];

#[test]
fn raw_sockets_are_allowed_by_default() {
    let lab = Lab::meshed();
    for (domain, protocol) in EACH {
        raw(&lab.pod, domain, protocol).unwrap();
    }
    assert_eq!(lab.hooks("sock_create"), 0);
}

#[test]
fn configuration_denies_raw_sockets_in_meshed_pods() {
    let lab = Lab::meshed().restart_without_raw_sockets();
    assert_eq!(lab.hooks("sock_create"), 1);
    for (domain, protocol) in EACH {
        assert_eq!(
            raw(&lab.pod, domain, protocol),
            Err(ErrorKind::PermissionDenied)
        );
        raw(&lab.world, domain, protocol).unwrap();
    }
    assert_eq!(lab.count(Reason::RawSocketDenied), 4);
    for kind in [Type::STREAM, Type::DGRAM] {
        (lab.pod
            .run_as(APP, move || Socket::new(Domain::IPV6, kind, None)))
        .unwrap();
    }
    // The next daemon's configuration allows them again.
    let lab = lab.restart();
    assert_eq!(lab.hooks("sock_create"), 0);
    // The kernel ends a link some time after its last pin.
    await_that(|| raw(&lab.pod, Domain::IPV4, Protocol::TCP).is_ok());
}
