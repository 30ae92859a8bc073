//! Tests of accelerated connections.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use sluice_abi::{
    MAX_NEW_CONNS_PER_SEC, PodConfig, PodFlags, PortList, PortPrefix, REDIRECT_WINDOW_BYTES, Reason,
};

use crate::bpf::Rule;

use super::{
    lab::{APP, Lab, POD, PROXY, WORLD, await_that},
    sockets::{Listener, connect_from, connect_pair_nonblocking, disconnect, listen, take},
};

pub(super) const PROXIES: PodFlags = PodFlags::ACCELERATE_PROXIES;
pub(super) const ALL: PodFlags = PROXIES.with(PodFlags::ACCELERATE_ALL);

/// The time limit of a connection.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of one write.
const PIECE: usize = 32 * 1024;

/// A Pod, and the proxy's outbound listener in it.
pub(super) fn pod(flags: PodFlags) -> (Lab, Listener) {
    let mut lab = Lab::bare();
    lab.enroll_with(flags);
    let proxy = listen(&lab.pod, "[::]:15001");
    (lab, proxy)
}

/// Two Pods whose proxies are accelerated, and the inbound listener of the second one's.
fn two_pods() -> (Lab, Listener) {
    let mut lab = Lab::bare();
    lab.enroll_with(PROXIES);
    lab.enroll_world(PROXIES);
    let inbound = listen(&lab.world, "[::]:15006");
    (lab, inbound)
}

/// An application's connection to the world, and the proxy's end of it. Both are nonblocking.
pub(super) fn through(lab: &Lab, proxy: &TcpListener, to: &str) -> (TcpStream, TcpStream) {
    connect_pair_nonblocking((&lab.pod, APP, to), (&lab.pod, proxy))
}

/// Sends a pattern in one direction, and compares the received data.
fn carry(mut from: &TcpStream, mut to: &TcpStream, length: usize, seed: u8) {
    let pattern = (0..251_u8).map(|byte| byte ^ seed).cycle();
    let sent: Vec<u8> = pattern.take(length).collect();
    let mut arrived = vec![0; length];
    let (mut given, mut taken) = (0, 0);
    let end = Instant::now() + PATIENCE;
    while taken < length {
        let piece = &sent[given..length.min(given + PIECE)];
        given += some(|| {
            if piece.is_empty() {
                Ok(0)
            } else {
                from.write(piece)
            }
        });
        taken += some(|| to.read(&mut arrived[taken..]));
        assert!(Instant::now() < end, "{} bytes are missing", length - taken);
    }
    assert!(arrived == sent, "{length} bytes arrive as they were sent");
}

/// The number of bytes of a nonblocking call.
pub(super) fn some(call: impl FnOnce() -> io::Result<usize>) -> usize {
    match call() {
        Ok(length) => length,
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            thread::yield_now();
            0
        }
        Err(error) => panic!("{error}"),
    }
}

/// Exchanges enough messages for both directions to start, and two more.
pub(super) fn call(client: &TcpStream, server: &TcpStream, seed: u8) {
    for round in 0..3 {
        carry(client, server, 700, seed ^ round);
        carry(server, client, 9000, seed ^ round);
    }
}

pub(super) fn counts(lab: &Lab) -> [u64; 4] {
    [
        Reason::AccelStarted,
        Reason::AccelStoppedWindow,
        Reason::AccelStoppedNoPeer,
        Reason::AccelSockhashFailed,
    ]
    .map(|reason| lab.count(reason))
}

#[test]
fn both_directions_are_redirected_in_every_family() {
    let (lab, proxy) = pod(ALL);
    for (number, to) in ["10.77.0.1:80", "[fd77::1]:80", "[::ffff:10.77.0.1]:80"]
        .into_iter()
        .enumerate()
    {
        let (client, server) = through(&lab, &proxy, to);
        // The way in which an application reads is known after its first read.
        carry(&client, &server, 700, 1);
        carry(&server, &client, 700, 1);
        assert_eq!(counts(&lab), [2 * number as u64, 0, 0, 0], "{to}");
        call(&client, &server, 2);
        assert_eq!(counts(&lab), [2 * (number as u64 + 1), 0, 0, 0], "{to}");
    }
}

#[test]
fn proxies_of_two_pods_are_joined_and_nothing_else_is() {
    let (lab, inbound) = two_pods();
    let outbound = listen(&lab.pod, "[::]:15001");
    let to = format!("{}:8080", WORLD[0]);
    let (client, server) = connect_pair_nonblocking((&lab.pod, PROXY, &to), (&lab.world, &inbound));
    call(&client, &server, 1);
    assert_eq!(counts(&lab), [2, 0, 0, 0]);

    // The ends are an application and its proxy, not two proxies.
    let (client, server) = through(&lab, &outbound, &to);
    call(&client, &server, 3);
    assert_eq!(counts(&lab), [2, 0, 0, 0]);
}

#[test]
fn pods_without_acceleration_stay_on_tcp() {
    let mut lab = Lab::bare();
    lab.enroll_with(PROXIES);
    lab.enroll_world(PodFlags::default());
    let inbound = listen(&lab.world, "[::]:15006");
    let to = format!("{}:8080", WORLD[0]);
    let (client, server) = connect_pair_nonblocking((&lab.pod, PROXY, &to), (&lab.world, &inbound));
    call(&client, &server, 1);
    assert_eq!(counts(&lab), [0; 4]);
}

#[test]
fn an_excluded_port_of_the_other_pod_belongs_to_its_application() {
    let mut lab = Lab::bare();
    lab.enroll_with(ALL);
    lab.enroll_world(ALL);
    let prefix = PortPrefix::split_first(lab.world.cookie(), PortList::InboundExcluded, 9090, 9090);
    lab.datapath.add_rule(&Rule::Port(prefix.0)).unwrap();
    let app = listen(&lab.world, "[::]:9090");
    let to = format!("{}:9090", WORLD[0]);
    let (client, server) = connect_pair_nonblocking((&lab.pod, PROXY, &to), (&lab.world, &app));
    call(&client, &server, 1);
    let [accelerated, .., refused] = counts(&lab);
    assert_eq!((accelerated, refused), (0, 0));
}

#[test]
fn spent_window_returns_to_tcp_in_order() {
    let (lab, proxy) = pod(ALL);
    let (client, server) = through(&lab, &proxy, "10.77.0.1:80");
    call(&client, &server, 1);
    flood(&client, &server, 8 * REDIRECT_WINDOW_BYTES as usize, 5);
    assert_eq!(counts(&lab), [2, 1, 0, 0]);
    // Its sockets are plain TCP sockets again.
    await_that(|| {
        call(&client, &server, 6);
        lab.count(Reason::AccelDrained) == 1
    });
    flood(&server, &client, 3 * REDIRECT_WINDOW_BYTES as usize, 8);
    call(&client, &server, 9);
    assert_eq!(counts(&lab), [2, 1, 0, 0]);
}

/// Sends more than the peer reads at first.
fn flood(mut from: &TcpStream, mut to: &TcpStream, length: usize, seed: u8) {
    let pattern = (0..251_u8).map(|byte| byte ^ seed).cycle();
    let sent: Vec<u8> = pattern.take(length).collect();
    let (mut given, mut heard) = (0, Vec::new());
    let mut block = vec![0; PIECE];
    while heard.len() < length {
        while given < length
            && let piece = &sent[given..length.min(given + PIECE)]
            && let taken @ 1.. = some(|| from.write(piece))
        {
            given += taken;
        }
        let taken = some(|| to.read(&mut block));
        heard.extend_from_slice(&block[..taken]);
    }
    assert!(heard == sent, "{length} bytes arrive as they were sent");
}

#[test]
fn a_stream_that_was_never_redirected_goes_back_to_tcp_as_well() {
    let (lab, proxy) = pod(ALL);
    let (client, server) = through(&lab, &proxy, "10.77.0.1:80");
    flood(&client, &server, 8 * REDIRECT_WINDOW_BYTES as usize, 1);
    flood(&client, &server, 8 * REDIRECT_WINDOW_BYTES as usize, 2);
    assert!(counts(&lab)[1] == 1, "{:?}", counts(&lab));
    await_that(|| {
        call(&client, &server, 3);
        lab.count(Reason::AccelDrained) == 1
    });
    call(&client, &server, 4);
}

#[test]
fn high_connection_rates_are_not_accelerated() {
    let (lab, proxy) = pod(ALL);
    for _ in 0..3 * MAX_NEW_CONNS_PER_SEC {
        let (client, server) = through(&lab, &proxy, "10.77.0.1:80");
        carry(&client, &server, 10, 1);
    }
    assert!(lab.count(Reason::AccelSkippedRate) > 0);
    // Another destination has its own rate.
    let before = lab.count(Reason::AccelStarted);
    let (client, server) = through(&lab, &proxy, "10.77.0.1:81");
    call(&client, &server, 1);
    assert_eq!(lab.count(Reason::AccelStarted), before + 2);
}

/// The number of connections, of so few, that are not accelerated if each ends at once.
fn skipped_of_short(lab: &Lab, connect: impl Fn() -> (TcpStream, TcpStream)) -> u64 {
    let before = lab.count(Reason::AccelSkippedRate);
    for _ in 0..MAX_NEW_CONNS_PER_SEC / 4 {
        let (client, server) = connect();
        carry(&client, &server, 10, 1);
    }
    lab.count(Reason::AccelSkippedRate) - before
}

#[test]
fn connections_that_end_at_once_are_soon_not_accelerated() {
    // By alias addresses, and by the destination in the socket's storage.
    for flags in [ALL, ALL.with(PodFlags::PROXY_ON_LOCALHOST_ONLY)] {
        let (lab, proxy) = pod(flags);
        for to in ["10.77.0.1:80", "[fd77::1]:80", "[::ffff:10.77.0.1]:81"] {
            let connect = || through(&lab, &proxy, to);
            assert!(skipped_of_short(&lab, connect) > 0, "{flags:?} {to}");
        }
    }
}

#[test]
fn short_connections_between_proxies_are_soon_not_accelerated() {
    let (lab, inbound) = two_pods();
    let to = format!("{}:8080", WORLD[0]);
    let connect = || connect_pair_nonblocking((&lab.pod, PROXY, &to), (&lab.world, &inbound));
    assert!(skipped_of_short(&lab, connect) > 0);
}

#[test]
fn connections_that_stay_do_not_reach_the_limit_early() {
    let (lab, proxy) = pod(ALL);
    // Such as a probe before the connections of a pool.
    for _ in 0..4 {
        let (client, server) = through(&lab, &proxy, "10.77.0.1:80");
        carry(&client, &server, 10, 1);
    }
    let before = lab.count(Reason::AccelStarted);
    let open: Vec<_> = (0..MAX_NEW_CONNS_PER_SEC / 2)
        .map(|_| through(&lab, &proxy, "10.77.0.1:80"))
        .collect();
    assert_eq!(lab.count(Reason::AccelSkippedRate), 0);
    for (client, server) in &open {
        call(client, server, 1);
    }
    let started = lab.count(Reason::AccelStarted) - before;
    assert_eq!(started, MAX_NEW_CONNS_PER_SEC);
}

#[test]
fn reader_without_reads_stops_the_sender() {
    let (lab, proxy) = pod(ALL);
    let (mut client, server) = through(&lab, &proxy, "10.77.0.1:80");
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
fn namespace_with_the_address_of_another_pod_is_not_enrolled() {
    for stranger in [WORLD[0], POD[0]] {
        let mut lab = Lab::bare();
        lab.enroll_with(PROXIES);
        lab.enroll_world(PROXIES);
        // The maps assign the address to a Pod in neither namespace.
        let owner = PodConfig {
            cookie: 99,
            ..lab.datapath.netns_entry(lab.cookie).unwrap().unwrap().pod
        };
        let address: IpAddr = stranger.parse().unwrap();
        lab.datapath.set_address(address.into(), &owner).unwrap();
        let inbound = listen(&lab.world, "[::]:15006");
        let to = format!("{}:8080", WORLD[0]);
        let (client, server) =
            connect_pair_nonblocking((&lab.pod, PROXY, &to), (&lab.world, &inbound));
        call(&client, &server, 1);
        assert_eq!(lab.count(Reason::AccelStarted), 0, "{stranger}");
    }
}

#[test]
fn a_half_closed_connection_carries_the_rest_and_ends() {
    let (lab, proxy) = pod(ALL);
    let (mut client, server) = through(&lab, &proxy, "10.77.0.1:80");
    call(&client, &server, 1);
    client.write_all(b"question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let late = client.write(b"late").unwrap_err();
    assert_eq!(late.kind(), ErrorKind::BrokenPipe);
    assert_eq!(rest(&server), b"question");
    carry(&server, &client, 4000, 8);
    drop(server);
    assert_eq!(rest(&client), b"");
}

#[test]
fn bytes_before_close_are_delivered() {
    let (lab, proxy) = pod(ALL);
    for round in 0..50_u8 {
        let (mut client, server) = through(&lab, &proxy, "10.77.0.1:80");
        call(&client, &server, round);
        client.write_all(&[round; 3000]).unwrap();
        drop(client);
        assert_eq!(rest(&server), [round; 3000]);
    }
}

/// Reads to the end of data.
fn rest(mut of: &TcpStream) -> Vec<u8> {
    let mut heard = Vec::new();
    await_that(|| match of.read_to_end(&mut heard) {
        Ok(_) => true,
        Err(error) if error.kind() == ErrorKind::WouldBlock => false,
        Err(error) => panic!("{error}"),
    });
    heard
}

#[test]
fn reconnected_socket_reads_nothing_of_its_earlier_connection() {
    let (lab, proxy) = pod(ALL);
    let (client, mut earlier) = through(&lab, &proxy, "10.77.0.1:80");
    call(&client, &earlier, 1);
    assert_eq!(counts(&lab)[0], 2);
    earlier.write_all(b"unread").unwrap();
    disconnect(&client);
    let client = lab.pod.run_as(APP, move || {
        let socket = socket2::Socket::from(client);
        let to: SocketAddr = "10.77.0.1:81".parse().unwrap();
        let begun = socket.connect(&to.into()).unwrap_err();
        assert_eq!(begun.raw_os_error(), Some(libc::EINPROGRESS));
        TcpStream::from(socket)
    });
    let later = take(&lab.pod, &proxy);
    later.set_nonblocking(true).unwrap();
    // The earlier peer may not have noticed yet.
    drop(earlier.write(b"late"));
    call(&client, &later, 2);
    assert_eq!(counts(&lab)[0], 2);
}

/// A socket in the map references the program, and the program the map.
#[test]
fn accelerated_connections_outlive_the_data_path_without_losing_a_byte() {
    let (lab, proxy) = pod(ALL);
    let (mut client, server) = through(&lab, &proxy, "10.77.0.1:80");
    call(&client, &server, 1);
    client.write_all(b"unread").unwrap();
    // Without the namespaces the connection would end.
    let _namespaces = lab.end();
    thread::sleep(Duration::from_millis(200));
    client.write_all(b", and more").unwrap();
    let mut heard = [0; 16];
    let mut taken = 0;
    await_that(|| {
        taken += some(|| (&server).read(&mut heard[taken..]));
        taken == heard.len()
    });
    assert_eq!(&heard, b"unread, and more");
    call(&client, &server, 2);
}

#[test]
fn equal_loopback_connections_of_pods_stay_separate() {
    // Only a connection to a loopback address may have a loopback source.
    let flags = ALL.with(PodFlags::LOOPBACK_INCLUDED);
    let (mut lab, proxy) = pod(flags);
    lab.enroll_world(flags);
    let others = listen(&lab.world, "[::]:15001");
    let to = "127.9.9.9:80";
    let a = connect_from(&lab.pod, 40_001, to);
    let c = connect_from(&lab.world, 40_001, to);
    let (b, d) = (take(&lab.pod, &proxy), take(&lab.world, &others));
    for end in [&b, &d] {
        end.set_nonblocking(true).unwrap();
    }
    let names = [&a, &c].map(|one| one.local_addr().unwrap());
    assert_eq!(names[0], names[1]);
    for (from, to, seed) in [(&a, &b, 1), (&c, &d, 2), (&b, &a, 3), (&d, &c, 4)] {
        carry(from, to, 1000, seed);
        carry(from, to, 1000, seed ^ 7);
    }
    assert_eq!(counts(&lab), [4, 0, 0, 0]);
}
