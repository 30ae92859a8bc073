//! Tests of requests to the API server.

use std::{
    thread,
    time::{Duration, Instant},
};

use sluice_api::{AddRequest, AddResponse, PodView, Status, code, path};

use crate::{
    api_server::{ApiServer, pod},
    node::{Daemon, Pod},
    pods::add,
    wait,
};

const INJECTED: (&str, &str) = ("sidecar.istio.io/status", "{}");
const PATIENCE: Duration = Duration::from_secs(10);
/// Connects once, and prints the error or `open`.
const CALL: &str = "
try:
    socket.create_connection(('10.1.0.9', 80), timeout=5)
    print('open')
except OSError as error:
    print(error.strerror)";

/// The report of a runtime that passes no annotations.
fn unknown(name: &str, netns: &str, address: &str) -> AddRequest {
    let mut request = add(name, netns, &[address]);
    name.clone_into(&mut request.pod.name);
    request.annotations = None;
    request
}

fn daemon(test: &str, server: &ApiServer, more: &str) -> (Daemon, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let config = server.kubeconfig(directory.path(), "first") + more;
    (Daemon::configured(test, &config), directory)
}

/// The Pods that the daemon knows, once there are any.
fn found(daemon: &Daemon) -> Vec<PodView> {
    let end = Instant::now() + PATIENCE;
    loop {
        let pods: Vec<PodView> = daemon.get(path::PODS).ok();
        if !pods.is_empty() || Instant::now() > end {
            return pods;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn api_server_supplies_missing_annotations() {
    let meshed = pod("cart", &[], &[INJECTED]);
    let server = ApiServer::start(vec![meshed, pod("plain", &[], &[])]);
    let (daemon, _files) = daemon("annotations", &server, "");
    let home = Pod::new("annotations", &["10.1.0.1/24"]);
    let request = unknown("cart", &home.path(), "10.1.0.1");
    assert!(daemon.post(path::ADD, &request).ok::<AddResponse>().meshed);
    assert_eq!(daemon.post(path::DEL, &request.attachment).status, 200);
    let request = unknown("plain", &home.path(), "10.1.0.1");
    assert!(!daemon.post(path::ADD, &request).ok::<AddResponse>().meshed);

    let before = server.asked();
    let passed = add("plain", &home.path(), &["10.1.0.1"]);
    assert!(daemon.post(path::ADD, &passed).ok::<AddResponse>().meshed);
    assert_eq!(
        server.asked(),
        before,
        "the API server is not asked for annotations that the runtime passed"
    );
}

#[test]
fn static_pod_is_added_by_the_uid_of_the_runtime() {
    let mirrored = ("kubernetes.io/config.mirror", "0f3a");
    let mut mirror = pod("cart", &[], &[INJECTED, mirrored]);
    mirror["metadata"]["uid"] = "8c26f6c5".into();
    let server = ApiServer::start(vec![mirror]);
    let (daemon, _files) = daemon("static", &server, "");
    let home = Pod::new("static", &["10.1.0.1/24"]);
    let mut request = unknown("cart", &home.path(), "10.1.0.1");
    "0f3a".clone_into(&mut request.pod.uid);
    assert!(daemon.post(path::ADD, &request).ok::<AddResponse>().meshed);
}

#[test]
fn api_server_failures_deny_add_with_reason() {
    let server = ApiServer::start(vec![]);
    let (daemon, _files) = daemon("trouble", &server, "");
    let home = Pod::new("trouble", &["10.1.0.1/24"]);
    let troubles = [
        ("silent", &["does not answer in time"][..]),
        ("garbage", &["returned no usable answer: "]),
        // Whichever occurs first.
        ("endless", &["length limit exceeded", "in time"]),
        ("forbidden", &["not you"]),
        ("broken", &["says 500"]),
        ("absent", &["NotFound"]),
    ];
    let path_of_home = home.path();
    thread::scope(|scope| {
        for (name, why) in troubles {
            let (daemon, netns) = (&daemon, &path_of_home);
            scope.spawn(move || {
                let begin = Instant::now();
                let reply = daemon.post(path::ADD, &unknown(name, netns, "10.1.0.1"));
                let api_error = reply.api_error(503);
                assert_eq!(api_error.code, code::TRY_AGAIN_LATER, "{name}");
                let passed = why.iter().any(|why| api_error.details.contains(why));
                assert!(passed, "{name}: {api_error:?}");
                // The server is silent for longer.
                assert!(begin.elapsed() < PATIENCE, "{name}");
            });
        }
    });
    assert_eq!(daemon.get(path::PODS).ok::<Vec<PodView>>(), []);
}

#[test]
fn unreachable_api_server_denies_add() {
    let server = ApiServer::start(vec![]);
    let (away, _files) = daemon("away", &server, "");
    drop(server);
    let alone = Daemon::start("alone");
    let home = Pod::new("away", &["10.1.0.1/24"]);
    let request = unknown("cart", &home.path(), "10.1.0.1");
    for (daemon, why) in [
        (&away, "returned no usable answer"),
        (&alone, "no API server can be asked"),
    ] {
        let api_error = daemon.post(path::ADD, &request).api_error(503);
        assert_eq!(api_error.code, code::TRY_AGAIN_LATER);
        assert!(api_error.details.contains(why), "{api_error:?}");
        assert!(api_error.details.contains("capabilities"), "{api_error:?}");
    }
    let mut unnamed = request;
    unnamed.pod.name.clear();
    let api_error = alone.post(path::ADD, &unnamed).api_error(503);
    assert!(api_error.details.contains("does not name"), "{api_error:?}");
}

#[test]
fn missing_annotations_policy_is_configurable() {
    let home = Pod::new("policy", &["10.1.0.1/24"]);
    let request = unknown("cart", &home.path(), "10.1.0.1");
    for (policy, meshed) in [("intercept", true), ("bypass", false)] {
        let config = format!("missing-annotations = \"{policy}\"");
        let mut daemon = Daemon::configured(&format!("unknown-{policy}"), &config);
        let added: AddResponse = daemon.post(path::ADD, &request).ok();
        assert_eq!(added.meshed, meshed);
        daemon.crash();
        daemon.restart();
        assert_eq!(found(&daemon)[0].meshed, meshed);
    }
}

#[test]
fn proxy_user_is_read_from_the_pod_spec() {
    let mut cart = pod("cart", &[], &[INJECTED]);
    cart["spec"]["containers"] = serde_json::json!([
        { "name": "istio-proxy", "securityContext": { "runAsUser": 1_000_629_999 } },
    ]);
    let server = ApiServer::start(vec![cart]);
    let (mut daemon, _files) = daemon("spec", &server, "proxy-user = \"pod-spec\"\n");
    let home = Pod::new("spec", &["10.1.0.1/24"]);
    let mut request = add("a", &home.path(), &["10.1.0.1"]);
    "cart".clone_into(&mut request.pod.name);
    assert!(daemon.post(path::ADD, &request).ok::<AddResponse>().meshed);
    // The next daemon reads it from the record.
    drop(server);
    for _ in 0..2 {
        let connection = ["--to", "10.1.0.9:80", "--as", "1000629999:7"];
        let explained = daemon.ask(&[&["explain", "--pod", "shop/cart"], &connection[..]].concat());
        assert!(explained.contains("outbound_by_proxy"), "{explained}");
        daemon.crash();
        daemon.restart();
    }
    let mut plain = request.clone();
    plain.annotations = Some([].into());
    assert!(!daemon.post(path::ADD, &plain).ok::<AddResponse>().meshed);
    let api_error = daemon.post(path::ADD, &request).api_error(503);
    assert_eq!(api_error.code, code::TRY_AGAIN_LATER);
    assert!(api_error.details.contains("proxy-user"), "{api_error:?}");
}

#[test]
fn a_token_that_is_rotated_is_read_again() {
    let server = ApiServer::start(vec![pod("cart", &[], &[INJECTED])]);
    let (daemon, files) = daemon("token", &server, "");
    let home = Pod::new("token", &["10.1.0.1/24"]);
    server.rotate("second");
    thread::scope(|scope| {
        scope.spawn(|| {
            let asked = server.asked();
            while server.asked() == asked {
                thread::sleep(Duration::from_millis(1));
            }
            std::fs::write(files.path().join("token"), "second").unwrap();
        });
        let request = unknown("cart", &home.path(), "10.1.0.1");
        assert!(daemon.post(path::ADD, &request).ok::<AddResponse>().meshed);
    });
}

#[test]
fn pods_of_equal_names_are_distinguished() {
    let mut other = pod("cart", &[], &[]);
    other["metadata"]["uid"] = "old".into();
    let server = ApiServer::start(vec![other]);
    let (daemon, _files) = daemon("another", &server, "");
    let home = Pod::new("another", &["10.1.0.1/24"]);
    let mut request = unknown("cart", &home.path(), "10.1.0.1");
    request.pod.uid = "new".to_owned();
    let api_error = daemon.post(path::ADD, &request).api_error(503);
    assert!(api_error.details.contains("with uid old"), "{api_error:?}");
}

#[test]
fn listed_running_pods_are_adopted_once_their_proxies_listen() {
    let mut home = Pod::new("listed", &["10.1.0.1/24"]);
    home.listen(&[8080]);
    let listed = pod("cart", &["10.1.0.1"], &[INJECTED]);
    let server = ApiServer::start(vec![listed, pod("elsewhere", &["10.9.0.9"], &[INJECTED])]);
    let (mut daemon, _files) = daemon("listed", &server, "");
    home.join(&daemon);
    daemon.crash();
    daemon.restart();
    let pods = found(&daemon);
    assert_eq!(pods.len(), 1);
    assert_eq!((&*pods[0].pod.name, pods[0].meshed), ("cart", false));
    assert!(pods[0].reason.contains("user 1337"), "{pods:?}");
    // Its connections are not refused: there is no route.
    assert_eq!(home.run(&daemon, 1000, CALL), "Network is unreachable\n");
    home.end();
    home.listen(&[15001, 15006]);
    home.join(&daemon);
    daemon.crash();
    daemon.restart();
    // Until the list arrives, the Pod has no name.
    let is_adopted = |pod: &PodView| pod.pod.name == "cart" && pod.meshed;
    wait::until(
        || found(&daemon).iter().any(is_adopted),
        || format!("{:?}", found(&daemon)),
    );
}

#[test]
fn adopted_pods_follow_the_later_list() {
    let addresses = ["10.1.0.1", "10.1.0.2", "10.1.0.3"];
    let mut homes = ["followed", "unmeshed", "diverted"]
        .into_iter()
        .zip(addresses)
        .map(|(name, address)| Pod::new(name, &[&format!("{address}/24")]))
        .collect::<Vec<_>>();
    for home in &mut homes {
        home.listen(&[15001, 15006]);
    }
    let rules = "*nat\n-A OUTPUT -p tcp -j REDIRECT --to-ports 15001\nCOMMIT\n";
    homes[2].restore_rules(rules);
    let excluded = ("traffic.sidecar.istio.io/excludeOutboundPorts", "25");
    let server = ApiServer::start(vec![
        pod("cart", &addresses[..1], &[INJECTED, excluded]),
        pod("plain", &addresses[1..2], &[]),
        pod("old", &addresses[2..], &[INJECTED]),
    ]);
    let (mut daemon, _files) = daemon("followed", &server, "");
    for home in &homes {
        home.join(&daemon);
    }
    daemon.crash();
    daemon.restart();
    let end = Instant::now() + PATIENCE;
    let pods = loop {
        let pods: Vec<PodView> = daemon.get(path::PODS).ok();
        let (meshed, left): (Vec<_>, Vec<_>) = pods.into_iter().partition(|pod| pod.meshed);
        let pods = meshed;
        let followed = pods.len() == 1 && pods[0].pod.name == "cart" && left.len() == 2;
        if followed || Instant::now() > end {
            break pods;
        }
        thread::sleep(Duration::from_millis(5));
    };
    let [cart] = &pods[..] else {
        panic!("{pods:?}")
    };
    assert_eq!((&*cart.pod.name, cart.meshed), ("cart", true));
    // One for each family.
    assert_eq!(cart.listeners, 2);
    assert_eq!(daemon.get(path::STATUS).ok::<Status>().pending_pods, 0);
    let connection = ["--to", "10.1.0.9:25", "--as", "1000"];
    let explained = daemon.ask(&[&["explain", "--pod", "shop/cart"], &connection[..]].concat());
    assert!(explained.contains("outbound_port_excluded"), "{explained}");
}

#[test]
fn pending_pod_is_resolved_by_its_first_connection() {
    let mut home = Pod::new("learned", &["10.1.0.1/24"]);
    let listed = pod("cart", &["10.1.0.1"], &[INJECTED]);
    let server = ApiServer::start(vec![listed]);
    let (daemon, _files) = daemon("learned", &server, "");
    home.listen(&[15001, 15006]);
    wait_for_pending(&daemon, 1);
    // Only now can the survey find it.
    home.join(&daemon);
    assert_eq!(daemon.get(path::PODS).ok::<Vec<PodView>>(), []);
    assert_eq!(home.run(&daemon, 1000, CALL), "open\n");
    assert_eq!(home.run(&daemon, 1000, CALL), "open\n");
    let pods = found(&daemon);
    assert_eq!((&*pods[0].pod.name, pods[0].meshed), ("cart", true));
    assert_eq!(daemon.post(path::CHECK, &pods[0].attachment).status, 204);
}

#[test]
fn pending_pod_without_proxy_is_released_by_its_first_connection() {
    let mut home = Pod::new("released", &["10.1.0.1/24"]);
    let server = ApiServer::start(vec![pod("cart", &["10.1.0.1"], &[INJECTED])]);
    let (daemon, _files) = daemon("released", &server, "");
    home.listen(&[8080]);
    wait_for_pending(&daemon, 1);
    home.join(&daemon);
    // The program cannot know yet that no proxy listens.
    assert_eq!(home.run(&daemon, 1000, CALL), "Connection refused\n");
    wait_for_pending(&daemon, 0);
    assert_eq!(home.run(&daemon, 1000, CALL), "Network is unreachable\n");
    let pods: Vec<PodView> = daemon.get(path::PODS).ok();
    assert!(
        !pods[0].meshed && pods[0].reason.contains("15006"),
        "{pods:?}"
    );
}

fn wait_for_pending(daemon: &Daemon, count: usize) {
    let pending = || daemon.get(path::STATUS).ok::<Status>().pending_pods;
    wait::until(
        || pending() == count,
        || format!("{} pending Pods", pending()),
    );
}

#[test]
fn forged_addresses_do_not_match_listed_pods() {
    let mut thief = Pod::new("thief", &["10.1.0.1/24"]);
    thief.listen(&[15001]);
    let mut listed = pod("cart", &["10.1.0.1"], &[INJECTED]);
    listed["metadata"]["uid"] = "8c26f6c5-6b8c-4a0e-9d3b-0f3f4b4cfa11".into();
    let server = ApiServer::start(vec![listed]);
    let (mut daemon, _files) = daemon("thief", &server, "");
    thief.join(&daemon);
    daemon.crash();
    daemon.restart();
    let nothing = "
try:
    socket.socket().connect(('10.1.0.1', 15001))
except OSError:
    pass
print('tried')";
    assert_eq!(thief.run(&daemon, 1000, nothing), "tried\n");
    thread::sleep(Duration::from_millis(300));
    let named = daemon.get(path::PODS).ok::<Vec<PodView>>();
    assert!(named.iter().all(|pod| pod.pod.name != "cart"), "{named:?}");
}
