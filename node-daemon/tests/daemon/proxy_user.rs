//! Tests of processes that use the proxy's ports under another user, and of connections before the
//! proxy listens.

use sluice_api::{AddResponse, PodView, Status, path};

use crate::{
    api_server::{ApiServer, pod},
    node::{Daemon, Pod},
    pods::{add, annotated},
};

const INJECTED: (&str, &str) = ("sidecar.istio.io/status", "{}");
/// A user that `OpenShift` assigns to a sidecar, and one of an application.
const OPENSHIFT: u32 = 1_000_629_999;
const APPLICATION: u32 = 1000;

/// Connects once, and prints the error or `open`.
const CALL: &str = "
try:
    socket.create_connection(('10.1.0.9', 80), timeout=5)
    print('open')
except OSError as error:
    print(error.strerror or type(error).__name__)";

/// Requests a port of the proxy, and then connects.
const BIND_AND_CALL: &str = "
try:
    socket.create_server(('0.0.0.0', 15001))
    print('bound')
except OSError as error:
    print(os.strerror(error.errno))
try:
    socket.create_connection(('10.1.0.9', 80), timeout=5)
    print('open')
except OSError as error:
    print(error.strerror)";

fn view(daemon: &Daemon) -> PodView {
    let mut pods: Vec<PodView> = daemon.get(path::PODS).ok();
    assert_eq!(pods.len(), 1, "{pods:?}");
    pods.remove(0)
}

fn count(daemon: &Daemon, reason: &str) -> u64 {
    let metrics = daemon.get(path::METRICS).body;
    let line = format!("sluice_decisions_total{{reason=\"{reason}\"}} ");
    let found = metrics.lines().find_map(|one| one.strip_prefix(&line));
    found.expect("a metric").parse().expect("a number")
}

#[test]
fn sidecar_under_another_user_is_named_at_once() {
    let mut daemon = Daemon::start("named");
    let log = daemon.log();
    let home = Pod::new("named", &["10.1.0.1/24"]);
    let request = add("a", &home.path(), &["10.1.0.1"]);
    assert!(daemon.post(path::ADD, &request).ok::<AddResponse>().meshed);
    // Nothing listens, so its own call fails at once: it does not return to itself.
    let heard = home.run(&daemon, OPENSHIFT, BIND_AND_CALL);
    assert_eq!(heard, "Operation not permitted\nConnection refused\n");
    let words = [
        "shop/pod-a",
        "port=15001",
        "1000629999",
        "proxy_uid",
        "1337",
        "pod-spec",
        "sluice.io/proxy-uid",
    ];
    log.await_line(&words);
    let status: Status = daemon.get(path::STATUS).ok();
    let problem = &status.problems[0];
    for word in ["15001", "user 1000629999", "1337", "sluice.io/proxy-uid"] {
        assert!(problem.contains(word), "{word}: {problem}");
    }
    assert!(status.ready, "{status:?}");
    assert_eq!(view(&daemon).foreign_uses, 1);
    let metrics = daemon.get(path::METRICS).body;
    let line = "sluice_pod_foreign_uses_total{namespace=\"shop\",pod=\"pod-a\"} 1";
    assert!(metrics.contains(line), "{metrics}");
    // A repetition is counted, and logged once.
    let lines = log.lines().len();
    home.run(&daemon, OPENSHIFT, BIND_AND_CALL);
    assert_eq!(view(&daemon).foreign_uses, 2);
    assert_eq!(log.lines().len(), lines);
}

#[test]
fn listener_under_another_user_cannot_call_itself() {
    let mut daemon = Daemon::start("itself");
    let log = daemon.log();
    let mut home = Pod::new("itself", &["10.1.0.1/24"]);
    home.listen_as(OPENSHIFT, &[15001, 15006]);
    let request = add("a", &home.path(), &["10.1.0.1"]);
    assert!(daemon.post(path::ADD, &request).ok::<AddResponse>().meshed);
    for _ in 0..2 {
        let before = count(&daemon, "outbound_loop");
        let heard = home.run(&daemon, OPENSHIFT, CALL);
        assert_eq!(heard, "Operation not permitted\n");
        assert_eq!(count(&daemon, "outbound_loop"), before + 1);
        // The next daemon finds it in the pinned map.
        daemon.crash();
        daemon.restart();
    }
    drop(log);
}

#[test]
fn sidecar_of_the_pod_spec_works_without_annotation() {
    let mut cart = pod("cart", &[], &[INJECTED]);
    cart["spec"]["containers"] = serde_json::json!([
        { "name": "istio-proxy", "securityContext": { "runAsUser": OPENSHIFT } },
    ]);
    let server = ApiServer::start(vec![cart]);
    let files = tempfile::tempdir().unwrap();
    let config = server.kubeconfig(files.path(), "first") + "proxy-user = \"pod-spec\"\n";
    let daemon = Daemon::configured("openshift", &config);
    let mut home = Pod::new("openshift", &["10.1.0.1/24"]);
    let mut request = add("a", &home.path(), &["10.1.0.1"]);
    "cart".clone_into(&mut request.pod.name);
    assert!(daemon.post(path::ADD, &request).ok::<AddResponse>().meshed);
    // It binds its ports only now, in the daemon's cgroup.
    home.listen_in(&daemon, OPENSHIFT, &[15001, 15006]);
    assert_eq!(view(&daemon).listeners, 2);
    assert_eq!(view(&daemon).foreign_uses, 0);
    assert_eq!(home.run(&daemon, APPLICATION, CALL), "open\n");
    assert_eq!(count(&daemon, "outbound_to_proxy"), 1);
    // The proxy's own call is direct: there is no route.
    assert_eq!(
        home.run(&daemon, OPENSHIFT, CALL),
        "Network is unreachable\n"
    );
    assert_eq!(count(&daemon, "outbound_by_proxy"), 1);
}

#[test]
fn connections_pass_until_the_proxy_listens_for_the_first_time() {
    let mut daemon = Daemon::start("before");
    let _drained = daemon.log();
    let mut home = Pod::new("before", &["10.1.0.1/24"]);
    let mut request = add("a", &home.path(), &["10.1.0.1"]);
    request.annotations = Some(annotated(&[("sluice.io/before-proxy", "bypass")]));
    assert!(daemon.post(path::ADD, &request).ok::<AddResponse>().meshed);
    // Direct: there is no route. A restart of the daemon changes nothing.
    for connections in 1..=2 {
        let heard = home.run(&daemon, APPLICATION, CALL);
        assert_eq!(heard, "Network is unreachable\n");
        let before = view(&daemon).before_proxy.expect("it may bypass");
        assert_eq!((before.open, before.connections), (true, connections));
        daemon.crash();
        daemon.restart();
    }
    home.listen_in(&daemon, 1337, &[15001, 15006]);
    assert_eq!(home.run(&daemon, APPLICATION, CALL), "open\n");
    home.end();
    // Never again: neither without the proxy, nor with another daemon, nor after another ADD.
    for _ in 0..2 {
        let heard = home.run(&daemon, APPLICATION, CALL);
        assert_eq!(heard, "Connection refused\n");
        let before = view(&daemon).before_proxy.expect("it is known");
        assert_eq!((before.open, before.connections), (false, 2));
        daemon.crash();
        daemon.restart();
        assert!(daemon.post(path::ADD, &request).ok::<AddResponse>().meshed);
    }
    assert_eq!(count(&daemon, "outbound_before_proxy"), 2);
    assert!(daemon.ask(&["pods"]).contains("2 direct before"));
}

#[test]
fn pods_refuse_connections_before_the_proxy_by_default() {
    let daemon = Daemon::start("refuse");
    let home = Pod::new("refuse", &["10.1.0.1/24"]);
    let request = add("a", &home.path(), &["10.1.0.1"]);
    assert!(daemon.post(path::ADD, &request).ok::<AddResponse>().meshed);
    assert_eq!(home.run(&daemon, APPLICATION, CALL), "Connection refused\n");
    assert_eq!(view(&daemon).before_proxy, None);
}

#[test]
fn owner_groups_of_the_node_are_followed() {
    let config = "[istio]\nexclude-owner-groups = \"1000\"\n";
    let daemon = Daemon::configured("groups", config);
    let mut home = Pod::new("groups", &["10.1.0.1/24"]);
    let request = add("a", &home.path(), &["10.1.0.1"]);
    assert!(daemon.post(path::ADD, &request).ok::<AddResponse>().meshed);
    home.listen_in(&daemon, 1337, &[15001, 15006]);
    assert_eq!(home.run(&daemon, 1000, CALL), "Network is unreachable\n");
    assert_eq!(home.run(&daemon, 1001, CALL), "open\n");
    assert_eq!(count(&daemon, "outbound_group_excluded"), 1);
    for (user, rule) in [
        ("1000", "outbound_group_excluded"),
        ("1001", "outbound_to_proxy"),
    ] {
        let question = [
            "explain",
            "--pod",
            "shop/pod-a",
            "--to",
            "10.1.0.9:80",
            "--as",
            user,
        ];
        let explained = daemon.ask(&question);
        assert!(explained.contains(rule), "{explained}");
    }
}

#[test]
fn pods_and_status_show_the_families() {
    let daemon = Daemon::start("families");
    let homes = [
        ("families-dual", &["10.1.0.1/24", "fd00::1/64"][..], "ipv4"),
        ("families-six", &["fd00::2/64"], "both"),
    ];
    for (name, addresses, expected) in homes {
        let home = Pod::new(name, addresses);
        let plain: Vec<_> = addresses
            .iter()
            .map(|one| one.split('/').next().unwrap())
            .collect();
        let request = add(name, &home.path(), &plain);
        assert!(daemon.post(path::ADD, &request).ok::<AddResponse>().meshed);
        assert_eq!(view(&daemon).families.as_deref(), Some(expected), "{name}");
        assert_eq!(daemon.post(path::DEL, &request.attachment).status, 200);
    }
    let status: Status = daemon.get(path::STATUS).ok();
    assert_eq!(status.families, "as-the-proxy-listens");
}

#[test]
fn ipv6_listener_of_an_ipv4_pod_is_a_problem() {
    let daemon = Daemon::start("sixless");
    let mut home = Pod::new("sixless", &["10.1.0.1/24", "fd00::1/64"]);
    home.listen(&[15001, 15006]);
    let request = add("a", &home.path(), &["10.1.0.1", "fd00::1"]);
    assert!(daemon.post(path::ADD, &request).ok::<AddResponse>().meshed);
    let status: Status = daemon.get(path::STATUS).ok();
    let problem = status.problems.join("\n");
    for word in ["shop/pod-a", "listens on IPv6", "families = \"both\""] {
        assert!(problem.contains(word), "{word}: {problem}");
    }
    assert!(status.ready);
}
