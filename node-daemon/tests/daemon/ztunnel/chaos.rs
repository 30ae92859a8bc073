//! Pods come and go, ztunnel is replaced and the daemon is killed, all at once and under load.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
    thread::{self, sleep},
    time::{Duration, Instant},
};

use serde_json::Value;
use sluice_api::{AddRequest, PodView, path};

use super::{
    Node, Ztunnel, labelled,
    listeners::SERVED,
    load::{ALL_SERVED, Load},
    request,
    stand_in::Seen,
};
use crate::{client, node::Pod, wait};

/// Threads that add and remove Pods: as many as a runtime starts at once.
const WORKERS: usize = 8;
/// The time that one request may take over all its attempts.
const LIMIT: Duration = Duration::from_mins(1);

/// A size of the test.
struct Size {
    /// Pods that are added and removed.
    pods: usize,
    /// How often ztunnel is replaced, and how often the daemon is killed.
    ends: usize,
}

/// Sends a request until it succeeds, as a runtime repeats an ADD and the plugin a DEL.
fn insist(socket: &Path, path: &str, body: &str) {
    let end = Instant::now() + LIMIT;
    loop {
        let reply = client::try_send(socket, "POST", path, body);
        match reply {
            Some(reply) if reply.status == 200 => return,
            other => assert!(Instant::now() < end, "{path} {body}: {other:?}"),
        }
        sleep(Duration::from_millis(50));
    }
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap()
}

/// Adds and removes every Pod, in threads.
fn come_and_go(socket: &Path, requests: &[(Pod, AddRequest)]) {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some((_, request)) = requests.get(next.fetch_add(1, Ordering::Relaxed)) {
                    insist(socket, path::ADD, &json(request));
                    sleep(Duration::from_millis(100));
                    insist(socket, path::DEL, &json(&request.attachment));
                }
            });
        }
    });
}

/// The Pod that serves during the test, and its only peer, which is outside the mesh.
struct Served {
    home: Pod,
    peer: Pod,
}

impl Served {
    const HOME: &str = "10.98.0.1";
    const PEER: &str = "10.98.0.2";

    fn new(test: &str) -> Self {
        let [home, peer] = ["home", "peer"].map(|name| Pod::new(&format!("{test}-{name}"), &[]));
        home.link("10.98.0.1/24", &peer, "10.98.0.2/24");
        // A listener that closes passes its queue on: what TCP loses without is not what is tested.
        home.sysctl("net.ipv4.tcp_migrate_req=1");
        Self { home, peer }
    }

    /// Clients of both directions.
    fn load(&self, members: &str) -> [Load; 2] {
        let from = |home: &Pod, to: &str| {
            let network = format!("--net={}", home.path());
            Load::start(
                |program| place(&network, members, program),
                (to, 8080),
                SERVED,
            )
        };
        [from(&self.peer, Self::HOME), from(&self.home, Self::PEER)]
    }
}

fn place(network: &str, members: &str, program: &str) -> Command {
    let join = "echo 0 >\"$1\"; shift; exec \"$@\"";
    let mut command = Command::new("nsenter");
    command
        .args([network, "sh", "-c", join, "sh", members])
        .args(["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups"])
        .args(["/usr/bin/python3", "-c", program]);
    command
}

fn chaos(test: &str, size: &Size) {
    let names: Vec<_> = (0..size.pods)
        .map(|index| format!("{test}-{index}"))
        .collect();
    let known = names.iter().map(String::as_str).chain(["cart"]);
    let known: Vec<Value> = known.map(|name| labelled(name, Some("ambient"))).collect();
    let mut node = Node::start(test, known);
    let socket: PathBuf = node.daemon.socket.clone();
    let served = Served::new(test);
    let members = node.daemon.members();
    let mut ztunnel = Ztunnel::start_in(&node.socket, &members);
    node.await_ztunnels(1);
    let cart = request("cart", &served.home.path(), Served::HOME);
    node.mesh(&cart);
    let requests: Vec<_> = (names.iter().enumerate())
        .map(|(index, name)| {
            let address = format!("10.97.{}.{}", index / 200, index % 200 + 1);
            let home = Pod::new(name, &[&format!("{address}/32")]);
            let request = request(name, &home.path(), &address);
            (home, request)
        })
        .collect();
    let load = served.load(&members);
    thread::scope(|scope| {
        let pods = scope.spawn(|| come_and_go(&socket, &requests));
        for _ in 0..size.ends {
            // As in an upgrade, the next one serves before the last one ends.
            let next = Ztunnel::start_in(&node.socket, &members);
            next.await_seen(&Seen::Snapshot);
            drop(std::mem::replace(&mut ztunnel, next));
            node.daemon.crash();
            node.daemon.restart();
        }
        pods.join().unwrap();
    });
    for load in load {
        assert_eq!(load.finish(), ALL_SERVED);
    }
    let pods: Vec<PodView> = node.daemon.get(path::PODS).ok();
    assert_eq!(pods.len(), 1, "{pods:?}");
    wait::until(
        || ztunnel.pods() == ["uid-cart"],
        || format!("{:?}", ztunnel.pods()),
    );
}

#[test]
fn pods_change_while_both_sides_end_under_load() {
    chaos("zds-chaos", &Size { pods: 16, ends: 2 });
}

#[test]
#[ignore = "takes a minute; make chaos runs it"]
fn hundred_pods_change_while_both_sides_end_ten_times() {
    let size = Size {
        pods: 100,
        ends: 10,
    };
    chaos("zds-chaos-long", &size);
}
