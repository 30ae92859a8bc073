//! Tests of source routes and routing headers, which send a connection's packets to another host than
//! its destination.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

use sluice_abi::Reason;
use socket2::{Domain, Socket, Type};

use super::{
    lab::{APP, Lab, POD, PROXY, SOON, WORLD},
    sockets::{accept, connect, expect_greeting, listen},
};

/// A level, a name and a value of `setsockopt(2)`.
type Option = (libc::c_int, libc::c_int, Vec<u8>);

const IPV6_2292PKTOPTIONS: libc::c_int = 6;

/// `IP_OPTIONS` with a loose or a strict source route over the world.
fn source_route(kind: u8) -> Option {
    let hop: Ipv4Addr = WORLD[0].parse().unwrap();
    // Kind, length, pointer, one address, end of the list.
    let value = [&[kind, 7, 4][..], &hop.octets(), &[0]].concat();
    (libc::SOL_IP, libc::IP_OPTIONS, value)
}

/// `IPV6_RTHDR` with a segment routing header over the world, the kind that every kernel accepts.
fn routing_header() -> Option {
    let hop: Ipv6Addr = WORLD[1].parse().unwrap();
    // Next header, length, type, segments left, last entry, flags, tag.
    let value = [&[0, 2, 4, 0, 0, 0, 0, 0][..], &hop.octets()].concat();
    (libc::SOL_IPV6, libc::IPV6_RTHDR, value)
}

fn each() -> Vec<Option> {
    // The kernel parses the content after the hook.
    let legacy = (libc::SOL_IPV6, IPV6_2292PKTOPTIONS, vec![0; 16]);
    vec![
        source_route(131),
        source_route(137),
        routing_header(),
        legacy,
    ]
}

fn set(socket: &impl std::os::fd::AsRawFd, (level, name, value): &Option) -> io::Result<()> {
    // SAFETY: the value has the length that is passed.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            *level,
            *name,
            value.as_ptr().cast(),
            libc::socklen_t::try_from(value.len()).unwrap(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn code(result: io::Result<()>) -> std::option::Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

#[test]
fn meshed_pod_sets_no_route_before_connect() {
    let lab = Lab::meshed();
    let options = each();
    let count = options.len();
    for user in [0, APP, PROXY] {
        for kind in [Type::STREAM, Type::DGRAM] {
            let options = options.clone();
            lab.pod.run_as(user, move || {
                let socket = Socket::new(Domain::IPV6, kind, None).unwrap();
                for option in options {
                    assert_eq!(code(set(&socket, &option)), Some(libc::EPERM), "{option:?}");
                }
            });
        }
    }
    assert_eq!(lab.count(Reason::SourceRouteDenied), 6 * count as u64);
}

#[test]
fn meshed_pod_sets_no_route_on_connections() {
    let lab = Lab::meshed();
    let proxy = listen(&lab.pod, "[::]:15001");
    for (to, option) in [
        (format!("{}:80", WORLD[0]), source_route(131)),
        (format!("[{}]:80", WORLD[1]), routing_header()),
    ] {
        let stream = connect(&lab.pod, APP, &to);
        assert_eq!(code(set(&stream, &option)), Some(libc::EPERM));
        assert!(accept(&lab.pod, &proxy, SOON).is_some());
        expect_greeting(stream);
    }
}

#[test]
fn options_without_a_route_stay_free() {
    let lab = Lab::meshed();
    lab.pod.run_as(APP, || {
        let socket = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
        let none = Vec::new();
        for (level, name, value) in [
            (libc::SOL_IP, libc::IP_OPTIONS, none.clone()),
            (libc::SOL_IPV6, libc::IPV6_RTHDR, none),
            (libc::SOL_IP, libc::IP_TOS, vec![16, 0, 0, 0]),
            (libc::SOL_IPV6, libc::IPV6_TCLASS, vec![16, 0, 0, 0]),
            (libc::SOL_SOCKET, libc::SO_KEEPALIVE, vec![1, 0, 0, 0]),
        ] {
            set(&socket, &(level, name, value)).unwrap();
        }
    });
    assert_eq!(lab.count(Reason::SourceRouteDenied), 0);
}

/// The kernel's own behaviour, without which no denial were necessary: the packet leaves the Pod for
/// the first hop, although the destination is a loopback address.
#[test]
fn routes_are_followed_outside_meshed_pods() {
    let lab = Lab::bare();
    for option in [source_route(131), routing_header()] {
        let domain = if option.0 == libc::SOL_IP {
            Domain::IPV4
        } else {
            Domain::IPV6
        };
        let to: SocketAddr = if option.0 == libc::SOL_IP {
            ([127, 64, 0, 1], 15001).into()
        } else {
            (Ipv6Addr::LOCALHOST, 15001).into()
        };
        // Root: newer kernels demand `CAP_NET_RAW` for a source route of IPv4.
        let taken = lab.pod.run(move || {
            let socket = Socket::new(domain, Type::STREAM, None).unwrap();
            set(&socket, &option).unwrap();
            socket.set_nonblocking(true).unwrap();
            let _in_progress = socket.connect(&to.into());
            socket.local_addr().unwrap().as_socket().unwrap()
        });
        let own = POD[usize::from(taken.is_ipv6())];
        assert_eq!(taken.ip().to_string(), own, "the source of packets on eth0");
    }
}
