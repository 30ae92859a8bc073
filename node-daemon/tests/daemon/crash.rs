//! Crash tests: the daemon is killed at every state change, and restarted.

use aya::maps::{HashMap, MapData};
use sluice_abi::{ABI_VERSION, Addr, NetnsEntry, PortKey, maps};
use sluice_api::{AddRequest, AddResponse, DelResponse, PodView, path};

use crate::{
    client::try_send,
    node::{Daemon, Pod},
    pods::add,
};

/// The size of the kernel state.
#[derive(Debug, PartialEq, Eq)]
struct Holding {
    processes: usize,
    addresses: usize,
    ports: usize,
    hooks: usize,
    /// Whether `lo` has `::6`.
    passthrough: bool,
}

const NOTHING: Holding = Holding {
    processes: 0,
    addresses: 0,
    ports: 0,
    hooks: 0,
    passthrough: false,
};
/// By default three inbound ports and one outbound port are excluded. Two of the inbound ports are
/// neighbours: `port_ranges` has them as one entry.
const ALL: Holding = Holding {
    processes: 1,
    addresses: 2,
    ports: 2,
    hooks: 1,
    passthrough: true,
};

fn holding(daemon: &Daemon, pod: &Pod) -> Holding {
    let generation = daemon.pins().join(format!("v{ABI_VERSION}"));
    let map = |name| {
        aya::maps::Map::HashMap(MapData::from_pin(generation.join("maps").join(name)).unwrap())
    };
    let processes: HashMap<_, u64, NetnsEntry> = map(maps::PROCESS_IP).try_into().unwrap();
    let addresses: HashMap<_, Addr, sluice_abi::PodConfig> =
        map(maps::LOCAL_POD_IPS).try_into().unwrap();
    let ports: HashMap<_, PortKey, u8> = map(maps::PORTS).try_into().unwrap();
    Holding {
        processes: processes.keys().count(),
        addresses: addresses.keys().count(),
        ports: ports.keys().count(),
        hooks: std::fs::read_dir(generation.join("pods")).unwrap().count(),
        passthrough: pod.loopback().contains("::6/128"),
    }
}

/// Whether the daemon knows the Pod; the kernel state must be complete, or empty.
fn is_whole(daemon: &Daemon, pod: &Pod, request: &AddRequest) -> bool {
    let known = !daemon.get(path::PODS).ok::<Vec<PodView>>().is_empty();
    let expected = if known { ALL } else { NOTHING };
    assert_eq!(holding(daemon, pod), expected);
    if known {
        assert_eq!(daemon.post(path::CHECK, &request.attachment).status, 204);
    }
    known
}

/// The runtime retries the ADD, and later deletes the Pod.
fn live_on(daemon: &Daemon, pod: &Pod, request: &AddRequest) {
    assert!(daemon.post(path::ADD, request).ok::<AddResponse>().meshed);
    assert!(is_whole(daemon, pod, request));
    daemon
        .post(path::DEL, &request.attachment)
        .ok::<DelResponse>();
    assert!(!is_whole(daemon, pod, request));
}

/// Posts a request. `true` if the daemon answered.
fn post(daemon: &Daemon, path: &str, body: &impl serde::Serialize) -> bool {
    let body = serde_json::to_string(body).unwrap();
    try_send(&daemon.socket, "POST", path, &body).is_some_and(|reply| reply.status == 200)
}

const ADDRESSES: [&str; 2] = ["10.1.0.1", "fd00::1"];

fn pod(test: &str) -> (Pod, AddRequest) {
    let pod = Pod::new(test, &["10.1.0.1/24", "fd00::1/64"]);
    let request = add("a", &pod.path(), &ADDRESSES);
    (pod, request)
}

#[test]
fn crash_during_add_is_repaired_on_restart() {
    let mut daemon = Daemon::start("crash-admit");
    let (mut halves, mut wholes) = (0, 0);
    for moment in 0.. {
        let (pod, request) = pod(&format!("crash-admit-{moment}"));
        daemon.crash();
        assert!(daemon.restart_crashing(moment));
        if post(&daemon, path::ADD, &request) {
            break;
        }
        daemon.await_crash();
        daemon.restart();
        if is_whole(&daemon, &pod, &request) {
            wholes += 1;
        } else {
            halves += 1;
        }
        live_on(&daemon, &pod, &request);
    }
    // Before the record is written nothing has been changed; after that, every change is completed.
    assert!(halves == 1 && wholes > 9, "{halves} and {wholes}");
}

#[test]
fn crash_during_del_is_repaired_on_restart() {
    let mut daemon = Daemon::start("crash-retire");
    let mut crashes = 0;
    for moment in 0.. {
        let (pod, request) = pod(&format!("crash-retire-{moment}"));
        assert!(daemon.post(path::ADD, &request).ok::<AddResponse>().meshed);
        daemon.crash();
        // The takeover is skipped: it restores `::6`, and finds the other state in place.
        let ready = daemon.restart_crashing(moment);
        if !ready {
            daemon.restart();
            live_on(&daemon, &pod, &request);
            continue;
        }
        if post(&daemon, path::DEL, &request.attachment) {
            break;
        }
        crashes += 1;
        daemon.await_crash();
        daemon.restart();
        is_whole(&daemon, &pod, &request);
        live_on(&daemon, &pod, &request);
    }
    assert!(crashes > 9, "{crashes}");
}

#[test]
fn crash_during_restore_is_repaired_on_restart() {
    let mut daemon = Daemon::start("crash-repair");
    let mut crashes = 0;
    'admits: for first in 1.. {
        for second in 0.. {
            let (pod, request) = pod(&format!("crash-repair-{first}-{second}"));
            daemon.crash();
            assert!(daemon.restart_crashing(first));
            if post(&daemon, path::ADD, &request) {
                break 'admits;
            }
            daemon.await_crash();
            let ready = daemon.restart_crashing(second);
            if ready {
                daemon.crash();
            }
            crashes += usize::from(!ready);
            daemon.restart();
            assert!(is_whole(&daemon, &pod, &request));
            live_on(&daemon, &pod, &request);
            if ready {
                break;
            }
        }
    }
    assert!(crashes > 9, "{crashes}");
}
