//! Tests of the address predicates against the running kernel.

use std::{
    fs,
    io::ErrorKind,
    net::{IpAddr, SocketAddr, TcpStream},
};

use nix::sys::socket::Backlog;
use proptest::prelude::*;
use sluice_abi::Addr;

use super::{
    lab::{Lab, Netns, POD, await_that, ip},
    sockets::listen,
    syn::{self, Syn},
};

/// Addresses at the edges of the predicates' ranges.
const EDGES: [&str; 33] = [
    "0.0.0.0",
    "0.0.0.1",
    "0.255.255.255",
    "126.255.255.255",
    "127.0.0.0",
    "127.0.0.1",
    "127.0.0.6",
    "127.64.0.1",
    "127.255.255.254",
    "128.0.0.1",
    "169.254.0.1",
    "240.0.0.1",
    "224.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::2",
    "::6",
    "::127.0.0.1",
    "::ffff:0.0.0.0",
    "::ffff:127.0.0.1",
    "::ffff:127.9.9.9",
    "::ffff:128.0.0.1",
    "fe80::1",
    "fec0::1",
    "fd00::1",
    "ff01::1",
    "ff02::1",
    "100::",
    "100::7f40:1",
    "64:ff9b::7f00:1",
    "2001:db8::1",
    "::1:0:0:1",
];

/// Whether a connection in a namespace with only `lo` and no routes reaches the namespace itself:
/// without a listener, it is refused at once.
fn stays(netns: &Netns, to: IpAddr) -> bool {
    netns.run(move || {
        let error = TcpStream::connect(SocketAddr::new(to, 9)).unwrap_err();
        error.kind() == ErrorKind::ConnectionRefused
    })
}

fn any_address() -> impl Strategy<Value = IpAddr> {
    let near = |base: [u8; 4]| {
        any::<u16>().prop_map(move |low| {
            let [a, b, ..] = base;
            let [c, d] = low.to_be_bytes();
            IpAddr::from([a, b, c, d])
        })
    };
    // TCP does not connect to a broadcast address of `lo`.
    let broadcast = IpAddr::from([127, 255, 255, 255]);
    let any = prop_oneof![
        near([127, 0, 0, 0]),
        near([127, 255, 0, 0]),
        near([126, 255, 0, 0]),
        near([128, 0, 0, 0]),
        near([0, 0, 0, 0]),
        any::<u32>().prop_map(|ip| IpAddr::from(ip.to_be_bytes())),
        any::<u32>().prop_map(|ip| IpAddr::from(u128::from(ip).to_be_bytes())),
        any::<u32>()
            .prop_map(|ip| IpAddr::from((0xffff_u128 << 32 | u128::from(ip)).to_be_bytes())),
        (0_u32..128).prop_map(|bit| IpAddr::from((1_u128 << bit).to_be_bytes())),
        any::<u128>().prop_map(|ip| IpAddr::from(ip.to_be_bytes())),
    ];
    any.prop_filter("a broadcast address", move |ip| {
        ip.to_canonical() != broadcast
    })
}

#[test]
fn destination_predicate_agrees_with_connect_at_the_edges() {
    let netns = Netns::new();
    for text in EDGES {
        let ip: IpAddr = text.parse().unwrap();
        assert_eq!(
            Addr::from(ip).connects_to_loopback(),
            stays(&netns, ip),
            "{text}"
        );
    }
}

#[test]
fn destination_predicate_agrees_with_connect_at_random() {
    let netns = Netns::new();
    proptest!(ProptestConfig::with_cases(2000), |(ip in any_address())| {
        prop_assert_eq!(Addr::from(ip).connects_to_loopback(), stays(&netns, ip));
    });
}

/// Whether a namespace has a half-open connection with a port of a peer.
fn is_half_open(netns: &Netns, peer: u16) -> bool {
    const SYN_RECV: &str = "03";
    netns.run(move || {
        let tables = ["tcp", "tcp6"].map(|typed_map| format!("/proc/thread-self/net/{typed_map}"));
        let text = tables
            .map(|path| fs::read_to_string(path).unwrap())
            .concat();
        let end = format!(":{peer:04X}");
        text.lines().any(|line| {
            let mut words = line.split_whitespace().skip(2);
            words.next().is_some_and(|remote| remote.ends_with(&end))
                && words.next() == Some(SYN_RECV)
        })
    })
}

/// Sends SYNs with an ordinary source until the kernel has received one, and so all earlier packets.
fn send_until_taken(lab: &Lab, to: &str) {
    let from = if to.contains(':') {
        "fd77::250"
    } else {
        "10.77.0.250"
    };
    await_that(|| {
        let plain = Syn::new(from, to, 8080);
        syn::send(lab, &plain);
        is_half_open(&lab.pod, plain.client)
    });
}

/// Without the data path: the kernel accepts or drops a SYN with such a source from another host.
#[test]
fn source_predicate_holds_only_where_the_kernel_drops() {
    let lab = Lab::bare();
    let app = listen(&lab.pod, "[::]:8080");
    // Each SYN occupies a backlog entry during the whole test.
    nix::sys::socket::listen(&*app, Backlog::new(1024).unwrap()).unwrap();
    lab.pod.run(|| {
        ip("route add default via 10.77.0.1");
        ip("-6 route add default via fd77::1");
    });
    // The link starts to carry packets a moment after its setup.
    for to in POD {
        send_until_taken(&lab, to);
    }
    let mut taken = Vec::new();
    for text in EDGES {
        let from: IpAddr = text.parse().unwrap();
        let to = POD[usize::from(from.is_ipv6())];
        let edge = Syn::new(text, to, 8080);
        syn::send(&lab, &edge);
        send_until_taken(&lab, to);
        if is_half_open(&lab.pod, edge.client) {
            assert!(
                !Addr::from(from).is_loopback(),
                "a neighbour's SYN from {text} is taken"
            );
            taken.push(text);
        }
    }
    // The kernel accepts the unspecified source of IPv6.
    assert!(
        taken.contains(&"::") && taken.contains(&"128.0.0.1"),
        "{taken:?}"
    );
}
