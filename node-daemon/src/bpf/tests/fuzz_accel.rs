//! Random tests of acceleration with many connections. The seed, which a failure reports, determines a
//! connection's behaviour.

mod endpoint;
mod scenario;
mod syscalls;

use std::{fs, ops::Range, time::Instant};

use scenario::{PathKind, Scenario};
use sluice_abi::{PodFlags, Reason};

use super::{
    lab::{APP, Lab, Netns, PROXY, WORLD, await_that},
    sockets::{Listener, listen},
};

const ALL: PodFlags = PodFlags::ACCELERATE_PROXIES.with(PodFlags::ACCELERATE_ALL);
/// The seed of the first connection.
const SEED: u64 = 20_260_101;
/// One in this many connections is between two proxies.
const PROXIES_EACH: u64 = 4;

/// Connections in one namespace: few enough that IPv6, with its single loopback address, does not reuse
/// a client port.
const ROUND: u64 = 4_000;

#[test]
fn random_connections_carry_correct_bytes() {
    run_round(SEED);
}

#[test]
#[ignore = "takes minutes; 'make safety' runs it"]
fn two_hundred_thousand_connections_carry_correct_bytes() {
    for round in 0..50 {
        run_round(SEED + round * ROUND);
    }
}

/// Two Pods, and the listeners of their proxies.
struct Fixture {
    lab: Lab,
    outbound: Listener,
    inbound: Listener,
}

impl Fixture {
    fn new() -> Self {
        let mut lab = Lab::bare();
        lab.enroll_with(ALL);
        lab.enroll_world(ALL);
        let outbound = listen(&lab.pod, "[::]:15001");
        let inbound = listen(&lab.world, "[::]:15006");
        for (netns, listener) in [(&lab.pod, &outbound), (&lab.world, &inbound)] {
            netns.run(|| fs::write("/proc/sys/net/ipv4/tcp_fastopen", "3").unwrap());
            scenario::option(&**listener, libc::TCP_FASTOPEN, 16);
        }
        Self {
            lab,
            outbound,
            inbound,
        }
    }

    /// Runs the scenarios one after the other. Returns the number of bytes that arrived.
    fn run(&self, path: PathKind, seeds: Range<u64>) -> u64 {
        let (user, listener) = match path {
            PathKind::ToOwnProxy => (APP, &self.outbound),
            PathKind::BetweenProxies => (PROXY, &self.inbound),
        };
        let listener = listener.try_clone().unwrap();
        self.lab.pod.run_as(user, move || {
            seeds
                .map(|seed| Scenario::of(seed, path).run(&listener))
                .sum()
        })
    }
}

/// Runs a round of scenarios, and reports.
fn run_round(first: u64) {
    let fixture = Fixture::new();
    let before = sockets(&fixture.lab.pod);
    let start = Instant::now();
    let (middle, last) = (first + ROUND / PROXIES_EACH, first + ROUND);
    let bytes = fixture.run(PathKind::BetweenProxies, first..middle)
        + fixture.run(PathKind::ToOwnProxy, middle..last);
    let took = start.elapsed().as_millis();
    let [accelerated, spent, missing] = [
        Reason::AccelStarted,
        Reason::AccelStoppedWindow,
        Reason::AccelStoppedNoPeer,
    ]
    .map(|reason| fixture.lab.count(reason));
    let fast = fast_opened(&fixture.lab.pod) + fast_opened(&fixture.lab.world);
    println!(
        "{ROUND} connections, {bytes} bytes in {took} ms, none wrong: {accelerated} directions \
         accelerated, {spent} moved to TCP by their budget, {missing} by a peer that was gone, \
         {fast} connections with data in the SYN"
    );
    assert!(accelerated > ROUND, "the paths are accelerated ones");
    assert!(spent > 0 && fast > 0, "every path was taken");
    await_that(|| sockets(&fixture.lab.pod) <= before);
}

/// The number of used TCP sockets of a namespace.
fn sockets(netns: &Netns) -> u64 {
    netns.run(|| {
        let text = fs::read_to_string("/proc/thread-self/net/sockstat").unwrap();
        let line = text.lines().find(|line| line.starts_with("TCP:")).unwrap();
        let mut words = line.split(' ').skip_while(|word| *word != "inuse");
        words.nth(1).unwrap().parse().unwrap()
    })
}

/// The number of accepted connections with data in their SYN.
fn fast_opened(netns: &Netns) -> u64 {
    netns.run(|| {
        let text = fs::read_to_string("/proc/thread-self/net/netstat").unwrap();
        let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
        let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
        let mut pairs = names.split(' ').zip(values.split(' '));
        let found = pairs.find(|(name, _)| *name == "TCPFastOpenPassive");
        found.unwrap().1.parse().unwrap()
    })
}
