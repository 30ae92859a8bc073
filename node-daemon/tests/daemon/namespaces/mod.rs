//! Tests of network namespaces that no runtime reported: the evidence that the daemon accepts, the
//! power of their owners over the daemon, and their number.

mod crowd;
mod foreign_process;
mod owner;

use std::time::{Duration, Instant};

use sluice_api::{AddResponse, PodView, Status, code, path};

use crate::{
    api_server::{ApiServer, pod},
    node::{Daemon, Pod},
    pods::add,
    wait,
};
pub(crate) use crowd::times;
use foreign_process::{ForeignProcess, PRETENDER, USER};

const INJECTED: (&str, &str) = ("sidecar.istio.io/status", "{}");
const UID: &str = "8c26f6c5-6b8c-4a0e-9d3b-0f3f4b4cfa11";

fn pods(daemon: &Daemon) -> Vec<PodView> {
    daemon.get(path::PODS).ok()
}

/// Waits for the API server's list, which has a pending Pod.
fn await_list(daemon: &Daemon) {
    let has_come = || daemon.get(path::STATUS).ok::<Status>().pending_pods > 0;
    wait::until(has_come, || "the list does not come");
}

#[test]
fn namespace_of_another_user_is_never_a_pod() {
    let mut daemon = Daemon::start("pretender");
    let stranger = ForeignProcess::start(&USER, PRETENDER, "");
    daemon.move_below(stranger.process.id(), "");
    daemon.crash();
    daemon.restart();
    assert_eq!(pods(&daemon), []);
    // The same appearance, in a Pod's namespace.
    let mut home = Pod::new("pretender", &["10.1.0.1/24"]);
    home.listen(&[15001, 15006]);
    home.join(&daemon);
    daemon.crash();
    daemon.restart();
    assert_eq!(pods(&daemon)[0].netns, home.path());
}

#[test]
fn nested_namespace_of_a_pod_is_not_the_pod() {
    let mut listed = pod("cart", &["10.1.0.1"], &[INJECTED]);
    listed["metadata"]["uid"] = UID.into();
    let server = ApiServer::start(vec![listed]);
    let files = tempfile::tempdir().unwrap();
    let config = server.kubeconfig(files.path(), "first");
    let mut daemon = Daemon::configured("nested", &config);
    let stranger = ForeignProcess::start(&USER, PRETENDER, "");
    daemon.move_below(stranger.process.id(), &format!("kubepods/pod{UID}"));
    daemon.crash();
    daemon.restart();
    await_list(&daemon);
    assert_eq!(pods(&daemon), []);
}

#[test]
fn kubelet_cgroup_decides_on_nodes_with_a_kubelet() {
    let mut daemon = Daemon::start("kubelet");
    let mut homes = [("in", "10.1.0.1/24"), ("out", "10.1.0.2/24")]
        .map(|(name, address)| Pod::new(&format!("kubelet-{name}"), &[address]));
    for home in &mut homes {
        home.listen(&[15001, 15006]);
    }
    homes[0].join_below(&daemon, &format!("kubepods/burstable/pod{UID}/container"));
    homes[1].join_below(&daemon, &format!("user/session/kubepods/pod{UID}"));
    daemon.crash();
    daemon.restart();
    let found: Vec<_> = pods(&daemon).into_iter().map(|pod| pod.netns).collect();
    assert_eq!(found, [homes[0].path()]);
}

#[test]
fn listeners_of_another_user_make_no_pod_and_get_no_traffic() {
    let mut daemon = Daemon::start("foreign");
    let mut home = Pod::new("foreign", &["10.1.0.1/24"]);
    home.listen_as(1000, &[15001, 15006, 15053]);
    home.join(&daemon);
    daemon.crash();
    daemon.restart();
    assert_eq!(pods(&daemon), []);
    let request = add("a", &home.path(), &["10.1.0.1"]);
    assert!(daemon.post(path::ADD, &request).ok::<AddResponse>().meshed);
    assert_eq!(pods(&daemon)[0].listeners, 0);
    let status: Status = daemon.get(path::STATUS).ok();
    // Two families, three ports.
    let expected = "6 sockets on the proxy's ports belong to another user";
    assert!(status.problems[0].starts_with(expected), "{status:?}");
    assert!(status.ready && daemon.get("/readyz").status == 200);
    assert_eq!(daemon.post(path::CHECK, &request.attachment).status, 204);
}

#[test]
fn reported_pod_takes_its_address_from_a_found_one() {
    let mut daemon = Daemon::start("evict");
    let mut squatter = Pod::new("evict-squatter", &["10.1.0.1/24"]);
    squatter.listen(&[15001, 15006]);
    squatter.join(&daemon);
    daemon.crash();
    daemon.restart();
    assert_eq!(pods(&daemon)[0].netns, squatter.path());
    let home = Pod::new("evict", &["10.1.0.1/24"]);
    let request = add("a", &home.path(), &["10.1.0.1"]);
    assert!(daemon.post(path::ADD, &request).ok::<AddResponse>().meshed);
    let left: Vec<_> = pods(&daemon).into_iter().map(|pod| pod.netns).collect();
    assert_eq!(left, [home.path()]);
    // The other one does not return.
    daemon.crash();
    daemon.restart();
    assert_eq!(pods(&daemon).len(), 1);
    assert_eq!(daemon.post(path::CHECK, &request.attachment).status, 204);
}

#[test]
fn idle_namespace_releases_its_address() {
    let daemon = Daemon::start("forgotten");
    let mut forgotten = Pod::new("forgotten", &["10.1.0.1/24"]);
    let heir = Pod::new("forgotten-heir", &["10.1.0.1/24"]);
    let [first, second] = [("a", &forgotten), ("b", &heir)]
        .map(|(name, home)| add(name, &home.path(), &["10.1.0.1"]));
    assert!(daemon.post(path::ADD, &first).ok::<AddResponse>().meshed);
    // An address or a process is enough.
    let refused = || daemon.post(path::ADD, &second).api_error(422).code;
    assert_eq!(refused(), code::ADDRESS_REFUSED);
    forgotten.listen(&[8080]);
    forgotten.configure("link del eth0");
    assert_eq!(refused(), code::ADDRESS_REFUSED);
    forgotten.end();
    assert!(daemon.post(path::ADD, &second).ok::<AddResponse>().meshed);
    assert_eq!(daemon.post(path::CHECK, &second.attachment).status, 204);
    assert_eq!(daemon.post(path::DEL, &first.attachment).status, 200);
}

#[test]
fn path_that_is_no_namespace_is_refused_at_once() {
    let daemon = Daemon::start("paths");
    let files = tempfile::tempdir().unwrap();
    let fifo = files.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for netns in [
        fifo.to_str().unwrap(),
        "/dev/tty",
        "/dev/zero",
        "/dev/null",
        "/proc/self/ns/mnt",
        "/proc/1/ns/net",
        "/",
    ] {
        let begin = Instant::now();
        let api_error = daemon.post(path::ADD, &add("a", netns, &[])).api_error(422);
        assert_eq!(
            api_error.code,
            code::NETNS_REFUSED,
            "{netns}: {api_error:?}"
        );
        assert!(begin.elapsed() < Duration::from_secs(2), "{netns}");
    }
}
