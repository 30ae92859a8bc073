//! Tests of connections that processes of the node open to Pods which do not intercept them.

use std::{
    net::{SocketAddr, TcpStream},
    thread,
};

use aya::maps::{HashMap, Map, MapData};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use sluice_abi::{Addr, ConnKey, Endpoint, PodFlags, Port, Reason, maps};

use super::{
    destinations,
    lab::{APP, Lab, NEVER, POD, SOON, WORLD, await_that, ip},
    sockets::{accept, begin, connect, expect_greeting, listen},
    syn::{self, Syn},
};

/// Whether the programs hold an entry of an open connection.
fn is_recorded(lab: &Lab, stream: &(SocketAddr, SocketAddr)) -> bool {
    let (client, server) = *stream;
    let conns = lab.datapath.node_conns();
    conns.has(client.into(), server.into()).unwrap()
}

fn ends(stream: &TcpStream) -> (SocketAddr, SocketAddr) {
    (stream.local_addr().unwrap(), stream.peer_addr().unwrap())
}

#[test]
fn node_reaches_application_while_its_socket_is_open() {
    let lab = Lab::bypassing_node(PodFlags::BYPASS_NODE);
    let app = listen(&lab.pod, "[::]:8080");
    let proxy = listen(&lab.pod, "[::]:15006");
    for (written, at) in destinations(POD, 8080) {
        let stream = connect(&lab.world, APP, &written);
        let seen = accept(&lab.pod, &app, SOON).unwrap_or_else(|| panic!("{written}"));
        let node = WORLD[usize::from(at.is_ipv6())];
        assert_eq!(seen.peer.to_string(), node, "{written}");
        let ends = ends(&stream);
        assert!(is_recorded(&lab, &ends), "{written}");
        expect_greeting(stream);
        await_that(|| !is_recorded(&lab, &ends));
    }
    assert_eq!(accept(&lab.pod, &proxy, NEVER), None);
    assert_eq!(lab.count(Reason::InboundFromNode), 3);
    assert_eq!(lab.count(Reason::NodeConnEvicted), 0);
}

#[test]
fn refused_connections_leave_no_entry() {
    let lab = Lab::bypassing_node(PodFlags::BYPASS_NODE);
    for (written, _) in destinations(POD, 8081) {
        let to: SocketAddr = written.parse().unwrap();
        let stream = lab.world.run_as(APP, move || begin(to, |_| ()));
        let client = stream.local_addr().unwrap();
        await_that(|| !is_recorded(&lab, &(client, to)));
    }
    assert_eq!(lab.count(Reason::InboundFromNode), 3);
}

#[test]
fn packets_with_the_node_address_reach_the_proxy() {
    let lab = Lab::bypassing_node(PodFlags::BYPASS_NODE);
    let _app = listen(&lab.pod, "[::]:8080");
    let _proxy = listen(&lab.pod, "[::]:15006");
    for (from, to) in WORLD.into_iter().zip(POD) {
        syn::send(&lab, &Syn::new(from, to, 8080));
    }
    await_that(|| lab.count(Reason::InboundToProxy) == 2);
    assert_eq!(lab.count(Reason::InboundFromNode), 0);
}

#[test]
fn pods_without_the_flag_intercept_the_node() {
    let lab = Lab::bypassing_node(PodFlags::default());
    let _app = listen(&lab.pod, "[::]:8080");
    let proxy = listen(&lab.pod, "[::]:15006");
    for (written, _) in destinations(POD, 8080) {
        let stream = connect(&lab.world, APP, &written);
        assert!(accept(&lab.pod, &proxy, SOON).is_some(), "{written}");
        assert!(!is_recorded(&lab, &ends(&stream)), "{written}");
        expect_greeting(stream);
    }
}

#[test]
fn next_daemon_keeps_connections_of_the_node() {
    let lab = Lab::bypassing_node(PodFlags::BYPASS_NODE);
    let app = listen(&lab.pod, "[::]:8080");
    let _proxy = listen(&lab.pod, "[::]:15006");
    let to = format!("{}:8080", POD[0]);
    let before = connect(&lab.world, APP, &to);
    assert!(accept(&lab.pod, &app, SOON).is_some());
    let lab = lab.restart_bypassing_node();
    assert!(is_recorded(&lab, &ends(&before)));
    let after = connect(&lab.world, APP, &to);
    assert!(accept(&lab.pod, &app, SOON).is_some());
    expect_greeting(after);
    let ends = ends(&before);
    expect_greeting(before);
    await_that(|| !is_recorded(&lab, &ends));
}

/// Fills the map, so that the kernel evicts what it holds: from each CPU, because each keeps its latest
/// entries in a list of its own (`bpf_lru_list.c`).
fn evict_all(lab: &Lab) {
    let cpus = thread::available_parallelism().unwrap().get();
    for cpu in 0..cpus {
        let pinned = || {
            let mut set = CpuSet::new();
            set.set(cpu).unwrap();
            sched_setaffinity(Pid::from_raw(0), &set).unwrap();
            fill(lab);
        };
        thread::scope(|scope| scope.spawn(pinned).join()).unwrap();
    }
}

fn fill(lab: &Lab) {
    let pin = lab.datapath.generation.map(maps::NODE_CONNS);
    let map = Map::LruHashMap(MapData::from_pin(pin).unwrap());
    let mut map: HashMap<_, ConnKey, u8> = map.try_into().unwrap();
    let mut conn = ConnKey {
        cookie: 7,
        ..ConnKey::default()
    };
    for index in 0..4 * u32::try_from(maps::MAX_NODE_CONNS).unwrap() {
        conn.client = Endpoint::new(Addr::v4(index), Port::new(1));
        map.insert(conn, 0, 0).unwrap();
    }
}

#[test]
fn evicted_connections_reach_the_proxy_and_are_counted() {
    let lab = Lab::bypassing_node(PodFlags::BYPASS_NODE);
    let app = listen(&lab.pod, "[::]:8080");
    let proxy = listen(&lab.pod, "[::]:15006");
    let to = SocketAddr::new(POD[0].parse().unwrap(), 8080);
    // The Pod drops the first packet: it is not addressed to its interface.
    lab.world
        .run(|| ip("neigh replace 10.77.0.2 lladdr 02:00:00:00:00:01 dev eth0 nud permanent"));
    let stream = lab.world.run_as(APP, move || begin(to, |_| ()));
    let ends = (stream.local_addr().unwrap(), to);
    assert!(is_recorded(&lab, &ends));
    evict_all(&lab);
    assert!(!is_recorded(&lab, &ends));
    lab.world.run(|| ip("neigh delete 10.77.0.2 dev eth0"));
    assert!(accept(&lab.pod, &proxy, SOON).is_some());
    assert_eq!(accept(&lab.pod, &app, NEVER), None);
    await_that(|| lab.count(Reason::NodeConnEvicted) == 1);
    assert_eq!(lab.count(Reason::InboundFromNode), 0);
}
