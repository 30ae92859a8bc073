//! What the API server knows of Pods.

use std::{
    thread,
    time::{Duration, Instant},
};

use daemon_api::{Admit, Admitted, PodView, Status, code, path};

use crate::{
    api_server::{ApiServer, pod},
    node::{Daemon, Pod},
    pods::admit,
};

const INJECTED: (&str, &str) = ("sidecar.istio.io/status", "{}");
const PATIENCE: Duration = Duration::from_secs(10);

/// What a runtime reports that hands no annotations over.
fn unknown(name: &str, netns: &str, address: &str) -> Admit {
    let mut request = admit(name, netns, &[address]);
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
fn a_pod_without_annotations_is_what_the_api_server_says() {
    let meshed = pod("cart", &[], &[INJECTED]);
    let server = ApiServer::start(vec![meshed, pod("plain", &[], &[])]);
    let (daemon, _files) = daemon("told", &server, "");
    let home = Pod::new("told", &["10.1.0.1/24"]);
    let request = unknown("cart", &home.path(), "10.1.0.1");
    assert!(daemon.post(path::ADMIT, &request).ok::<Admitted>().meshed);
    assert_eq!(daemon.post(path::RETIRE, &request.attachment).status, 200);
    let request = unknown("plain", &home.path(), "10.1.0.1");
    assert!(!daemon.post(path::ADMIT, &request).ok::<Admitted>().meshed);

    let before = server.asked();
    let told = admit("plain", &home.path(), &["10.1.0.1"]);
    assert!(daemon.post(path::ADMIT, &told).ok::<Admitted>().meshed);
    assert_eq!(
        server.asked(),
        before,
        "nobody is asked what the runtime told"
    );
}

#[test]
fn whatever_the_api_server_does_a_pod_that_is_not_known_waits_and_says_why() {
    let server = ApiServer::start(vec![]);
    let (daemon, _files) = daemon("trouble", &server, "");
    let home = Pod::new("trouble", &["10.1.0.1/24"]);
    let troubles = [
        ("silent", &["does not answer in time"][..]),
        ("garbage", &["does not tell: "]),
        // Whichever comes first.
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
                let reply = daemon.post(path::ADMIT, &unknown(name, netns, "10.1.0.1"));
                let refusal = reply.refusal(503);
                assert_eq!(refusal.code, code::TRY_AGAIN_LATER, "{name}");
                let told = why.iter().any(|why| refusal.details.contains(why));
                assert!(told, "{name}: {refusal:?}");
                // The server is silent for longer.
                assert!(begin.elapsed() < PATIENCE, "{name}");
            });
        }
    });
    assert_eq!(daemon.get(path::PODS).ok::<Vec<PodView>>(), []);
}

#[test]
fn an_api_server_that_is_away_or_that_nobody_named_lets_a_pod_wait() {
    let server = ApiServer::start(vec![]);
    let (away, _files) = daemon("away", &server, "");
    drop(server);
    let alone = Daemon::start("alone");
    let home = Pod::new("away", &["10.1.0.1/24"]);
    let request = unknown("cart", &home.path(), "10.1.0.1");
    for (daemon, why) in [
        (&away, "does not tell"),
        (&alone, "no API server can be asked"),
    ] {
        let refusal = daemon.post(path::ADMIT, &request).refusal(503);
        assert_eq!(refusal.code, code::TRY_AGAIN_LATER);
        assert!(refusal.details.contains(why), "{refusal:?}");
        assert!(refusal.details.contains("capabilities"), "{refusal:?}");
    }
    let mut nameless = request;
    nameless.pod.name.clear();
    let refusal = alone.post(path::ADMIT, &nameless).refusal(503);
    assert!(refusal.details.contains("does not name"), "{refusal:?}");
}

#[test]
fn what_becomes_of_a_pod_that_is_not_known_the_configuration_says() {
    let home = Pod::new("policy", &["10.1.0.1/24"]);
    let request = unknown("cart", &home.path(), "10.1.0.1");
    for (policy, meshed) in [("intercept", true), ("pass", false)] {
        let config = format!("when-unknown = \"{policy}\"");
        let mut daemon = Daemon::configured(&format!("unknown-{policy}"), &config);
        let admitted: Admitted = daemon.post(path::ADMIT, &request).ok();
        assert_eq!(admitted.meshed, meshed);
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
    let mut request = admit("a", &home.path(), &["10.1.0.1"]);
    "cart".clone_into(&mut request.pod.name);
    assert!(daemon.post(path::ADMIT, &request).ok::<Admitted>().meshed);
    // The next daemon knows it from the record.
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
    assert!(!daemon.post(path::ADMIT, &plain).ok::<Admitted>().meshed);
    let refusal = daemon.post(path::ADMIT, &request).refusal(503);
    assert_eq!(refusal.code, code::TRY_AGAIN_LATER);
    assert!(refusal.details.contains("proxy-user"), "{refusal:?}");
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
        assert!(daemon.post(path::ADMIT, &request).ok::<Admitted>().meshed);
    });
}

#[test]
fn another_pod_of_the_same_name_is_not_taken_for_this_one() {
    let mut other = pod("cart", &[], &[]);
    other["metadata"]["uid"] = "old".into();
    let server = ApiServer::start(vec![other]);
    let (daemon, _files) = daemon("another", &server, "");
    let home = Pod::new("another", &["10.1.0.1/24"]);
    let mut request = unknown("cart", &home.path(), "10.1.0.1");
    request.pod.uid = "new".to_owned();
    let refusal = daemon.post(path::ADMIT, &request).refusal(503);
    assert!(refusal.details.contains("with uid old"), "{refusal:?}");
}

#[test]
fn pods_that_run_already_are_taken_in_as_the_list_says() {
    let mut home = Pod::new("listed", &["10.1.0.1/24"]);
    // No proxy listens yet.
    home.listen(&[8080]);
    let listed = pod("cart", &["10.1.0.1"], &[INJECTED]);
    let server = ApiServer::start(vec![listed, pod("elsewhere", &["10.9.0.9"], &[INJECTED])]);
    let (mut daemon, _files) = daemon("listed", &server, "");
    home.join(&daemon);
    daemon.crash();
    daemon.restart();
    let pods = found(&daemon);
    assert_eq!(pods.len(), 1);
    assert_eq!((&*pods[0].pod.name, pods[0].meshed), ("cart", true));
}

#[test]
fn pods_that_were_found_before_the_list_came_follow_it() {
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
        let followed = pods.len() == 1 && pods[0].pod.name == "cart";
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
    assert_eq!(daemon.get(path::STATUS).ok::<Status>().awaited_pods, 0);
    let connection = ["--to", "10.1.0.9:25", "--as", "1000"];
    let explained = daemon.ask(&[&["explain", "--pod", "shop/cart"], &connection[..]].concat());
    assert!(explained.contains("outbound_port_excluded"), "{explained}");
}

#[test]
fn a_pod_that_is_known_by_its_address_is_found_by_its_first_connection() {
    let mut home = Pod::new("learned", &["10.1.0.1/24"]);
    let listed = pod("cart", &["10.1.0.1"], &[INJECTED]);
    let server = ApiServer::start(vec![listed]);
    let (daemon, _files) = daemon("learned", &server, "");
    home.listen(&[8080]);
    let end = Instant::now() + PATIENCE;
    while daemon.get(path::STATUS).ok::<Status>().awaited_pods == 0 && Instant::now() < end {
        thread::sleep(Duration::from_millis(5));
    }
    // Only now can it be found.
    home.join(&daemon);
    let refused = "
try:
    socket.socket().connect(('10.1.0.9', 80))
    print('open')
except ConnectionRefusedError:
    print('refused')";
    assert_eq!(daemon.get(path::PODS).ok::<Vec<PodView>>(), []);
    // There is no proxy: whoever is meshed gets nowhere.
    assert_eq!(home.run(&daemon, 1000, refused), "refused\n");
    assert_eq!(home.run(&daemon, 1000, refused), "refused\n");
    let pods = found(&daemon);
    assert_eq!((&*pods[0].pod.name, pods[0].meshed), ("cart", true));
    assert_eq!(daemon.post(path::CHECK, &pods[0].attachment).status, 204);
}

#[test]
fn a_pod_is_not_taken_for_another_whose_address_it_gave_itself() {
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
