//! Tests of what accelerated connections queue for a reader that does not read.

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use sluice_abi::PodFlags;

use super::{
    accelerate::{ALL, PROXIES, call, counts, pod, some, through},
    lab::{Lab, PROXY, WORLD, await_that},
    sockets::{connect_pair_nonblocking, listen},
};

/// Writes until the kernel accepts no more, while the peer sends a byte now and then and reads nothing.
/// Returns the number of accepted bytes.
fn fill(mut client: &TcpStream, mut server: &TcpStream) -> usize {
    let (block, mut taken) = (vec![7; 16_384], 0);
    let mut idle = Instant::now();
    while idle.elapsed() < Duration::from_millis(300) {
        match client.write(&block) {
            Ok(length) => {
                taken += length;
                idle = Instant::now();
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        some(|| server.write(&[1]));
        some(|| client.read(&mut [0; 64]));
        assert!(taken < 256 << 20, "{taken} bytes were taken");
    }
    taken
}

#[test]
fn reader_with_heartbeats_queues_no_more_than_twice_tcps() {
    let (plain, plain_proxy) = pod(PodFlags::default());
    let (client, server) = through(&plain, &plain_proxy, "10.77.0.1:80");
    let by_tcp = fill(&client, &server);

    let (lab, proxy) = pod(ALL);
    let (client, server) = through(&lab, &proxy, "10.77.0.1:80");
    call(&client, &server, 1);
    let by_all = fill(&client, &server);
    assert_eq!(counts(&lab), [2, 1, 0, 0]);

    let mut lab = Lab::bare();
    lab.enroll_with(PROXIES);
    lab.enroll_world(PROXIES);
    let inbound = listen(&lab.world, "[::]:15006");
    let to = format!("{}:8080", WORLD[0]);
    let (client, server) = connect_pair_nonblocking((&lab.pod, PROXY, &to), (&lab.world, &inbound));
    call(&client, &server, 1);
    let by_proxies = fill(&client, &server);
    assert_eq!(counts(&lab), [2, 1, 0, 0]);
    println!("taken: {by_tcp} by TCP, {by_all} with all, {by_proxies} with proxies");
    assert!(by_all <= 2 * by_tcp && by_proxies <= 2 * by_tcp);
}

/// Bytes that the machine's TCP sockets hold (`tcp_mem`), other tests included.
fn tcp_memory() -> usize {
    const PAGE: usize = 4096;
    let text = fs::read_to_string("/proc/net/sockstat").unwrap();
    let line = text.lines().find(|line| line.starts_with("TCP:")).unwrap();
    let mut words = line.split(' ').skip_while(|word| *word != "mem");
    words.nth(1).unwrap().parse::<usize>().unwrap() * PAGE
}

#[test]
fn unread_bytes_are_freed_with_their_connection() {
    const ROUNDS: usize = 8;
    let (lab, proxy) = pod(ALL);
    let (before, mut taken) = (tcp_memory(), 0);
    for _ in 0..ROUNDS {
        let (client, server) = through(&lab, &proxy, "10.77.0.1:80");
        call(&client, &server, 1);
        taken += fill(&client, &server);
    }
    let mut left = 0;
    await_that(|| {
        left = tcp_memory().saturating_sub(before);
        left < taken / 4
    });
    println!("taken: {taken}, left: {left}");
}
