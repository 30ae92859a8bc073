//! Connections from socket to socket.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    thread,
};

use sluice_abi::{BUDGET, PodFlags, PortList, PortPrefix, Reason};

use crate::bpf::Entry;

use super::lab::{APP, Lab, PROXY, WORLD, connect_from, listen, meet, take};

const PROXIES: PodFlags = PodFlags::ACCELERATE_PROXIES;
const ALL: PodFlags = PROXIES.with(PodFlags::ACCELERATE_ALL);

/// What is written at one time.
const PIECE: usize = 32 * 1024;

/// A Pod, and the proxy's outbound listener in it.
fn pod(flags: PodFlags) -> (Lab, TcpListener) {
    let mut lab = Lab::bare();
    lab.enrol_with(flags);
    let proxy = listen(&lab.pod, "[::]:15001");
    (lab, proxy)
}

/// A connection of the application to the world, and the proxy's end of it.
fn through(lab: &Lab, proxy: &TcpListener, to: &str) -> (TcpStream, TcpStream) {
    meet((&lab.pod, APP, to), (&lab.pod, proxy))
}

/// Sends a pattern one way, and compares what arrives.
fn carry(mut from: &TcpStream, mut to: &TcpStream, length: usize, seed: u8) {
    let pattern = (0..251_u8).map(|byte| byte ^ seed).cycle();
    let sent: Vec<u8> = pattern.take(length).collect();
    thread::scope(|threads| {
        let pieces = sent.chunks(PIECE);
        threads.spawn(|| pieces.for_each(|piece| from.write_all(piece).unwrap()));
        let mut arrived = vec![0; length];
        let mut missing = &mut arrived[..];
        while !missing.is_empty() {
            match to.read(missing) {
                Ok(0) => panic!("{} bytes are missing", missing.len()),
                Ok(some) => missing = &mut missing[some..],
                // A socket in a sockhash that waits wakes for the acknowledgement of its own FIN,
                // too, and does not wait again (`tcp_msg_wait_data`).
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
        assert!(arrived == sent, "{length} bytes arrive as they were sent");
    });
}

fn counts(lab: &Lab) -> [u64; 4] {
    [
        Reason::Accelerated,
        Reason::AccelerationSpent,
        Reason::AccelerationPeerMissing,
        Reason::AccelerationRefused,
    ]
    .map(|reason| lab.count(reason))
}

#[test]
fn application_and_proxy_are_joined_in_both_directions_whatever_the_family() {
    let (lab, proxy) = pod(ALL);
    for (number, to) in ["10.77.0.1:80", "[fd77::1]:80", "[::ffff:10.77.0.1]:80"]
        .into_iter()
        .enumerate()
    {
        let (client, server) = through(&lab, &proxy, to);
        for round in 0..20 {
            carry(&client, &server, 700, round);
            carry(&server, &client, 9000, round);
        }
        assert_eq!(counts(&lab), [2 * (number as u64 + 1), 0, 0, 0], "{to}");
    }
}

#[test]
fn proxies_of_two_pods_are_joined_and_nothing_else_is() {
    let mut lab = Lab::bare();
    lab.enrol_with(PROXIES);
    lab.enrol_world(PROXIES);
    let inbound = listen(&lab.world, "[::]:15006");
    let outbound = listen(&lab.pod, "[::]:15001");
    let to = format!("{}:8080", WORLD[0]);
    let (client, server) = meet((&lab.pod, PROXY, &to), (&lab.world, &inbound));
    carry(&client, &server, 5000, 1);
    carry(&server, &client, 5000, 2);
    assert_eq!(counts(&lab), [2, 0, 0, 0]);

    // The application and its proxy are not both proxies.
    let (client, server) = meet((&lab.pod, APP, &to), (&lab.pod, &outbound));
    carry(&client, &server, 5000, 3);
    assert_eq!(counts(&lab), [2, 0, 0, 0]);
}

#[test]
fn a_pod_that_does_not_want_it_is_left_to_tcp() {
    let mut lab = Lab::bare();
    lab.enrol_with(PROXIES);
    lab.enrol_world(PodFlags::default());
    let inbound = listen(&lab.world, "[::]:15006");
    let to = format!("{}:8080", WORLD[0]);
    let (client, server) = meet((&lab.pod, PROXY, &to), (&lab.world, &inbound));
    carry(&client, &server, 5000, 1);
    carry(&server, &client, 5000, 2);
    assert_eq!(counts(&lab), [0; 4]);
}

#[test]
fn an_excluded_port_of_the_other_pod_belongs_to_its_application() {
    let mut lab = Lab::bare();
    lab.enrol_with(ALL);
    lab.enrol_world(ALL);
    let prefix = PortPrefix::first(lab.world.cookie(), PortList::InboundExcluded, 9090, 9090);
    lab.datapath.list(&Entry::Port(prefix.0)).unwrap();
    let app = listen(&lab.world, "[::]:9090");
    let to = format!("{}:9090", WORLD[0]);
    let (client, server) = meet((&lab.pod, PROXY, &to), (&lab.world, &app));
    carry(&client, &server, 500, 1);
    carry(&server, &client, 500, 2);
    let [accelerated, .., refused] = counts(&lab);
    assert_eq!((accelerated, refused), (0, 0));
}

#[test]
fn a_direction_whose_budget_is_spent_moves_to_tcp_without_a_byte_out_of_order() {
    let (lab, proxy) = pod(ALL);
    let (client, server) = through(&lab, &proxy, "10.77.0.1:80");
    carry(&client, &server, 8 * BUDGET as usize, 5);
    assert_eq!(counts(&lab), [1, 1, 0, 0]);
    // The other direction is as fast as before.
    carry(&server, &client, 100, 6);
    assert_eq!(counts(&lab), [2, 1, 0, 0]);
    carry(&client, &server, 3 * BUDGET as usize, 7);
}

#[test]
fn a_reader_that_never_reads_holds_the_sender_up() {
    let (lab, proxy) = pod(ALL);
    let (mut client, server) = through(&lab, &proxy, "10.77.0.1:80");
    client.set_nonblocking(true).unwrap();
    let mut taken = 0;
    let block = vec![7; 65536];
    let error = loop {
        match client.write(&block) {
            Ok(length) => taken += length,
            Err(error) => break error,
        }
        assert!(taken < 64 << 20, "{taken} bytes were taken");
    };
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    assert_eq!(counts(&lab)[1], 1);
    drop(server);
}

#[test]
fn a_half_closed_connection_carries_the_rest_and_ends() {
    let (lab, proxy) = pod(ALL);
    let (mut client, mut server) = through(&lab, &proxy, "10.77.0.1:80");
    client.write_all(b"question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut heard = Vec::new();
    server.read_to_end(&mut heard).unwrap();
    assert_eq!(heard, b"question");
    carry(&server, &client, 4000, 8);
    drop(server);
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"");
}

#[test]
fn what_is_sent_before_a_close_arrives() {
    let (lab, proxy) = pod(ALL);
    for round in 0..50_u8 {
        let (mut client, mut server) = through(&lab, &proxy, "10.77.0.1:80");
        client.write_all(&[round; 3000]).unwrap();
        drop(client);
        let mut heard = Vec::new();
        server.read_to_end(&mut heard).unwrap();
        assert_eq!(heard, [round; 3000]);
    }
}

#[test]
fn two_pods_with_equal_connections_on_loopback_never_hear_each_other() {
    let (mut lab, proxy) = pod(ALL);
    lab.enrol_world(ALL);
    let others = listen(&lab.world, "[::]:15001");
    let to = "10.99.0.1:80";
    let a = connect_from(&lab.pod, 40_001, to);
    let c = connect_from(&lab.world, 40_001, to);
    let (b, d) = (take(&lab.pod, &proxy), take(&lab.world, &others));
    let names = [&a, &c].map(|one| one.local_addr().unwrap());
    assert_eq!(names[0], names[1]);
    for (from, to, seed) in [(&a, &b, 1), (&c, &d, 2), (&b, &a, 3), (&d, &c, 4)] {
        carry(from, to, 1000, seed);
    }
    assert_eq!(counts(&lab), [4, 0, 0, 0]);
}
