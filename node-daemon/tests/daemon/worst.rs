//! A Pod that misbehaves, and the effect on its neighbour.

use sluice_api::{AddResponse, PodView, path};

use crate::{
    namespaces::times,
    node::{Daemon, Pod},
    pods::{add, annotated},
};

const APPLICATION: u32 = 1000;

/// Listeners, open connections and destinations without end. All stay, and 100 connections a second follow,
/// until the process is ended.
const WORST: &str = "
import itertools, socket, time
listeners = [socket.create_server(('0.0.0.0', 20000 + n)) for n in range(300)]
held = [socket.create_connection(('127.0.0.1', 20000 + n % 300)) for n in range(500)]
for n in itertools.count():
    one = socket.socket()
    one.setblocking(False)
    try:
        one.connect((f'10.{2 + (n >> 16) % 200}.{n >> 8 & 255}.{n & 255}', 80))
    except OSError:
        pass
    one.close()
    if n == 30000:
        print('listening', flush=True)
    if n > 30000:
        time.sleep(0.01)
";

/// The median duration of a connection to the proxy, in microseconds. The proxy accepts none: all runs
/// together fit into its backlog.
const CONNECT: &str = "
import time
times = []
for n in range(50):
    begin = time.perf_counter()
    socket.create_connection(('10.200.0.1', 80), timeout=5).close()
    times.append(time.perf_counter() - begin)
print(int(sorted(times)[25] * 1e6))
";

#[test]
fn neighbours_of_the_worst_pod_work_as_before() {
    let daemon = Daemon::start("worst");
    let mut worst = Pod::new("worst", &["10.1.0.1/24"]);
    let mut neighbour = Pod::new("worst-neighbour", &["10.1.0.2/24"]);
    let newcomer = Pod::new("worst-newcomer", &["10.1.0.3/24"]);
    neighbour.listen(&[15001, 15006]);
    let request = add("neighbour", &neighbour.path(), &["10.1.0.2"]);
    assert!(daemon.post(path::ADD, &request).ok::<AddResponse>().meshed);
    let measure = || {
        let request = add("newcomer", &newcomer.path(), &["10.1.0.3"]);
        let adds = times(50, || {
            assert!(daemon.post(path::ADD, &request).ok::<AddResponse>().meshed);
            assert_eq!(daemon.post(path::DEL, &request.attachment).status, 200);
        });
        let connect = neighbour.run(&daemon, APPLICATION, CONNECT);
        (adds[25], connect.trim().parse::<u128>().expect("a number"))
    };
    let before = measure();
    // Every second port: neighbouring ports become one range.
    let ports: Vec<_> = (0..500).map(|n| (1 + 2 * n).to_string()).collect();
    let mut request = add("worst", &worst.path(), &["10.1.0.1"]);
    let lists = [(
        "traffic.sidecar.istio.io/excludeOutboundPorts",
        &*ports.join(","),
    )];
    request.annotations = Some(annotated(&lists));
    assert!(daemon.post(path::ADD, &request).ok::<AddResponse>().meshed);
    worst.hold(&daemon, APPLICATION, WORST);
    let after = measure();
    let pods: Vec<PodView> = daemon.get(path::PODS).ok();
    let aliases = pods.iter().map(|pod| pod.aliases).max();
    eprintln!(
        "ADD and DEL {} µs, before {} µs; connect {} µs, before {} µs; {aliases:?} destinations",
        after.0, before.0, after.1, before.1
    );
    // Other tests run at the same time.
    assert!(after.0 < 4 * before.0, "{after:?} {before:?}");
    assert!(after.1 < 4 * before.1, "{after:?} {before:?}");
}
