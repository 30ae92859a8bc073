//! Tests of ADD, DEL, CHECK and GC on Pods.

use std::collections::BTreeMap;

use sluice_api::{
    AddRequest, AddResponse, ApiError, Attachment, Connection, DelResponse, ExplainRequest,
    ExplainResponse, GcRequest, PodAddress, PodName, PodView, code, path,
};

use crate::node::{Daemon, Pod};

fn attachment(container: &str) -> Attachment {
    Attachment {
        network: "net".into(),
        container_id: container.into(),
        ifname: "eth0".into(),
    }
}

pub(crate) fn add(container: &str, netns: &str, addresses: &[&str]) -> AddRequest {
    let address = |text: &&str| PodAddress {
        ip: text.parse().unwrap(),
        interface: "eth0".into(),
    };
    AddRequest {
        attachment: attachment(container),
        netns: netns.to_owned(),
        addresses: addresses.iter().map(address).collect(),
        pod: PodName {
            namespace: "shop".into(),
            name: format!("pod-{container}"),
            uid: String::new(),
        },
        annotations: Some(annotated(&[])),
        manifest: None,
    }
}

pub(crate) fn annotated(more: &[(&str, &str)]) -> BTreeMap<String, String> {
    let injected = [("sidecar.istio.io/status", "{}")];
    let all = injected.iter().chain(more);
    all.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

fn refused(daemon: &Daemon, request: &AddRequest) -> ApiError {
    let api_error = daemon.post(path::ADD, request).api_error(422);
    assert_eq!(daemon.get(path::PODS).ok::<Vec<PodView>>(), []);
    api_error
}

#[test]
fn deleted_pod_leaves_no_state() {
    let daemon = Daemon::start("life");
    let pod = Pod::new("life", &["10.1.0.1/24", "fd00::1/64"]);
    let request = add("a", &pod.path(), &["10.1.0.1", "fd00::1"]);
    for _ in 0..2 {
        assert!(daemon.post(path::ADD, &request).ok::<AddResponse>().meshed);
    }
    assert_eq!(daemon.post(path::CHECK, &request.attachment).status, 204);
    let pods: Vec<PodView> = daemon.get(path::PODS).ok();
    assert!(pods[0].meshed && pods[0].cookie.is_some());
    assert!(
        daemon
            .get(path::METRICS)
            .body
            .contains("sluice_attachments{meshed=\"true\"} 1")
    );
    assert!(daemon.ask(&["pods"]).contains("shop/pod-a"));
    assert!(pod.loopback().contains("inet6 ::6/128"));

    let deleted: DelResponse = daemon.post(path::DEL, &request.attachment).ok();
    assert_eq!(
        deleted.attachments,
        std::slice::from_ref(&request.attachment)
    );
    let again: DelResponse = daemon.post(path::DEL, &request.attachment).ok();
    assert_eq!(again, DelResponse::default());
    assert_eq!(
        daemon
            .post(path::CHECK, &request.attachment)
            .api_error(404)
            .code,
        code::UNKNOWN_CONTAINER
    );
    assert!(!pod.loopback().contains("::6/128"));
}

#[test]
fn pod_stays_meshed_without_a_daemon() {
    let mut daemon = Daemon::start("stop");
    let pod = Pod::new("stop", &["fd00::1/64"]);
    let request = add("a", &pod.path(), &["fd00::1"]);
    assert!(daemon.post(path::ADD, &request).ok::<AddResponse>().meshed);
    for crash in [false, true] {
        if crash {
            daemon.crash();
        } else {
            assert_eq!(daemon.stop(), Some(0));
        }
        assert!(pod.loopback().contains("::6/128"));
        daemon.restart();
        assert_eq!(daemon.post(path::CHECK, &request.attachment).status, 204);
    }
}

#[test]
fn detach_removes_the_datapath_of_a_stopped_daemon() {
    let mut daemon = Daemon::start("detach");
    let pod = Pod::new("detach", &["fd00::1/64"]);
    let request = add("a", &pod.path(), &["fd00::1"]);
    assert!(daemon.post(path::ADD, &request).ok::<AddResponse>().meshed);
    let early = daemon.detach();
    assert!(!early.status.success());
    assert!(String::from_utf8_lossy(&early.stderr).contains("stop it first"));

    daemon.stop();
    let said = String::from_utf8(daemon.detach().stdout).unwrap();
    assert!(said.contains("root/root_connect4"), "{said}");
    assert!(!pod.loopback().contains("::6/128"));
    daemon.restart();
    let pods: Vec<PodView> = daemon.get(path::PODS).ok();
    assert_eq!(pods, []);
}

#[test]
fn on_exit_detach_removes_the_datapath() {
    let mut daemon = Daemon::configured("on-exit", "on-exit = \"detach\"");
    let pod = Pod::new("on-exit", &["fd00::1/64"]);
    let request = add("a", &pod.path(), &["fd00::1"]);
    assert!(daemon.post(path::ADD, &request).ok::<AddResponse>().meshed);
    assert_eq!(daemon.stop(), Some(0));
    assert!(!pod.loopback().contains("::6/128"));
    assert!(!daemon.pins().exists());
}

#[test]
fn add_registers_existing_listeners_of_the_proxy() {
    let daemon = Daemon::start("early");
    let mut pod = Pod::new("early", &["10.1.0.1/24"]);
    pod.listen(&[15006]);
    let request = add("a", &pod.path(), &["10.1.0.1"]);
    assert!(daemon.post(path::ADD, &request).ok::<AddResponse>().meshed);
    let pods: Vec<PodView> = daemon.get(path::PODS).ok();
    assert_eq!(pods[0].listeners, 2);
}

#[test]
fn running_pods_are_adopted() {
    let mut daemon = Daemon::start("found");
    let mut pod = Pod::new("found", &["10.1.0.1/24", "fd00::1/64"]);
    pod.listen(&[15001, 15006]);
    pod.join(&daemon);
    let mut bare = Pod::new("found-bare", &["10.1.0.2/24"]);
    bare.listen(&[15001]);
    bare.join(&daemon);
    let mut ruled = Pod::new("found-ruled", &["10.1.0.3/24"]);
    ruled.restore_rules("*nat\n-A OUTPUT -p tcp -j REDIRECT --to-ports 15001\nCOMMIT\n");
    ruled.listen(&[15001, 15006]);
    ruled.join(&daemon);
    for _ in 0..2 {
        daemon.stop();
        daemon.restart();
        let pods: Vec<PodView> = daemon.get(path::PODS).ok();
        assert_eq!(pods.len(), 1, "{pods:?}");
        assert_eq!(pods[0].netns, pod.path());
        let addresses: [std::net::IpAddr; 2] =
            ["10.1.0.1", "fd00::1"].map(|ip| ip.parse().unwrap());
        assert!(pods[0].meshed && pods[0].listeners == 2);
        assert_eq!(pods[0].addresses, addresses);
    }
}

#[test]
fn pods_without_sidecar_are_bypassed() {
    let daemon = Daemon::start("plain");
    let mut request = add("a", "/nowhere", &["10.1.0.1"]);
    request.annotations = Some(BTreeMap::new());
    assert!(!daemon.post(path::ADD, &request).ok::<AddResponse>().meshed);
    assert_eq!(daemon.post(path::CHECK, &request.attachment).status, 204);
}

#[test]
fn missing_annotations_name_the_capability() {
    let daemon = Daemon::start("blind");
    let mut request = add("a", "/nowhere", &[]);
    request.annotations = None;
    let api_error = daemon.post(path::ADD, &request).api_error(503);
    assert_eq!(api_error.code, code::TRY_AGAIN_LATER);
    assert!(
        api_error
            .details
            .contains("io.kubernetes.cri.pod-annotations")
    );
}

#[test]
fn malformed_annotation_refuses_the_pod() {
    let daemon = Daemon::start("policy");
    let mut request = add("a", "/nowhere", &[]);
    let key = "traffic.sidecar.istio.io/excludeInboundPorts";
    request.annotations = Some(annotated(&[(key, "80,http")]));
    let api_error = refused(&daemon, &request);
    assert_eq!(api_error.code, code::POD_REFUSED);
    assert!(api_error.message.contains(key) && api_error.message.contains("'http'"));
}

#[test]
fn path_of_another_kind_is_refused() {
    let daemon = Daemon::start("netns");
    let file = daemon.directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    let fifo = daemon.directory.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for (path, complaint) in [
        ("/run/netns/sluiced-nowhere", "cannot open"),
        ("", "cannot open"),
        (file.to_str().unwrap(), "is not a network namespace"),
        (fifo.to_str().unwrap(), "is not a network namespace"),
        ("/proc/self/ns/mnt", "is not a network namespace"),
        ("/proc/self/ns/net", "is the host's own"),
    ] {
        let api_error = refused(&daemon, &add("a", path, &[]));
        assert_eq!(api_error.code, code::NETNS_REFUSED, "{path}");
        assert!(
            api_error.message.contains(complaint),
            "{path}: {}",
            api_error.message
        );
    }
}

#[test]
fn an_address_that_is_not_on_its_interface_is_refused() {
    let daemon = Daemon::start("address");
    let pod = Pod::new("address", &["10.1.0.1/24"]);
    let api_error = refused(&daemon, &add("a", &pod.path(), &["10.1.0.2"]));
    assert_eq!(api_error.code, code::ADDRESS_REFUSED);
    for word in ["10.1.0.2", "eth0", "10.1.0.1"] {
        assert!(api_error.message.contains(word), "{}", api_error.message);
    }
}

#[test]
fn meshed_pod_without_any_address_is_refused() {
    let daemon = Daemon::start("nowhere");
    let bare = Pod::new("nowhere", &[]);
    let api_error = refused(&daemon, &add("a", &bare.path(), &[]));
    assert_eq!(api_error.code, code::ADDRESS_REFUSED);
    assert!(api_error.message.contains("eth0"), "{}", api_error.message);
    assert_eq!(daemon.get(path::PODS).ok::<Vec<PodView>>(), []);
}

#[test]
fn unreported_addresses_are_read_from_the_interface() {
    let daemon = Daemon::start("unreported");
    let pod = Pod::new("unreported", &["10.1.0.1/24"]);
    let request = add("a", &pod.path(), &[]);
    assert!(daemon.post(path::ADD, &request).ok::<AddResponse>().meshed);
    let pods: Vec<PodView> = daemon.get(path::PODS).ok();
    assert_eq!(pods[0].addresses[0].to_string(), "10.1.0.1");
    assert_eq!(daemon.post(path::CHECK, &request.attachment).status, 204);
}

#[test]
fn gateway_is_not_intercepted() {
    let daemon = Daemon::start("gateway");
    let pod = Pod::new("gateway", &["10.1.0.1/24"]);
    let mut request = add("a", &pod.path(), &["10.1.0.1"]);
    let status = r#"{"initContainers":null,"containers":["istio-proxy"]}"#;
    request.annotations = Some(annotated(&[("sidecar.istio.io/status", status)]));
    let added: AddResponse = daemon.post(path::ADD, &request).ok();
    assert!(
        !added.meshed && added.reason.contains("gateway"),
        "{added:?}"
    );
    request.annotations = Some(annotated(&[("sluice.io/intercept", "false")]));
    assert!(!daemon.post(path::ADD, &request).ok::<AddResponse>().meshed);
}

#[test]
fn address_of_another_pod_is_refused_until_deleted() {
    let daemon = Daemon::start("taken");
    let first = Pod::new("taken-1", &["10.1.0.1/24"]);
    let second = Pod::new("taken-2", &["10.1.0.1/24"]);
    let one = add("one", &first.path(), &["10.1.0.1"]);
    let two = add("two", &second.path(), &["10.1.0.1"]);
    assert!(daemon.post(path::ADD, &one).ok::<AddResponse>().meshed);
    let api_error = daemon.post(path::ADD, &two).api_error(422);
    assert_eq!(api_error.code, code::ADDRESS_REFUSED);
    assert!(
        api_error.message.contains("shop/pod-one"),
        "{}",
        api_error.message
    );

    drop(first);
    assert!(daemon.post(path::ADD, &two).ok::<AddResponse>().meshed);
    let pods: Vec<PodView> = daemon.get(path::PODS).ok();
    assert_eq!(pods.len(), 1);
}

#[test]
fn gc_deletes_unlisted_attachments() {
    let daemon = Daemon::start("gc");
    let pod = Pod::new("gc", &["10.1.0.1/24"]);
    let request = add("a", &pod.path(), &["10.1.0.1"]);
    assert!(daemon.post(path::ADD, &request).ok::<AddResponse>().meshed);
    let collect = |network: &str| GcRequest {
        network: network.into(),
        valid: Vec::new(),
    };
    let deleted: DelResponse = daemon.post(path::GC, &collect("other")).ok();
    assert_eq!(deleted, DelResponse::default());
    let deleted: DelResponse = daemon.post(path::GC, &collect("net")).ok();
    assert_eq!(deleted.attachments, [request.attachment]);
}

#[test]
fn configuration_selects_the_mesh() {
    let daemon = Daemon::configured("mesh", "mesh = \"linkerd\"");
    let pod = Pod::new("mesh", &["10.1.0.1/24"]);
    let mut request = add("a", &pod.path(), &["10.1.0.1"]);
    assert!(!daemon.post(path::ADD, &request).ok::<AddResponse>().meshed);

    let said = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let injected = said("linkerd.io/proxy-version", "edge");
    for (key, bad) in [
        ("config.linkerd.io/proxy-uid", "root"),
        ("config.linkerd.io/skip-outbound-ports", "25,smtp"),
        ("config.linkerd.io/skip-subnets", "cluster"),
    ] {
        request.annotations = Some([injected.clone(), said(key, bad)].into());
        let api_error = daemon.post(path::ADD, &request).api_error(422);
        assert!(api_error.message.contains(key), "{}", api_error.message);
    }
    request.annotations = Some([injected].into());
    assert!(daemon.post(path::ADD, &request).ok::<AddResponse>().meshed);
}

#[test]
fn explain_matches_the_datapath() {
    let daemon = Daemon::start("explain");
    let mut pod = Pod::new("explain", &["10.1.0.1/24"]);
    let mut request = add("a", &pod.path(), &["10.1.0.1"]);
    let excluded = ("traffic.sidecar.istio.io/excludeOutboundPorts", "8000-8999");
    request.annotations = Some(annotated(&[excluded]));
    assert!(daemon.post(path::ADD, &request).ok::<AddResponse>().meshed);
    pod.listen(&[15006]);
    for (to, uid) in [
        ("10.1.0.9:80", 1000),
        ("10.1.0.9:8080", 1000),
        ("10.1.0.9:80", 1337),
        ("10.1.0.1:80", 1337),
        ("10.1.0.1:80", 1000),
    ] {
        let question = ExplainRequest {
            pod: "shop/pod-a".to_owned(),
            connection: Connection::Outbound {
                to: to.parse().unwrap(),
                uid,
                gid: uid,
                udp: false,
            },
        };
        let explained: ExplainResponse = daemon.post(path::EXPLAIN, &question).ok();
        let seen = |daemon: &Daemon| {
            let metrics = daemon.get(path::METRICS).body;
            let line = format!("sluice_decisions_total{{reason=\"{}\"}} ", explained.rule);
            let count = metrics.lines().find_map(|one| one.strip_prefix(&line));
            count.unwrap().parse::<u64>().unwrap()
        };
        let before = seen(&daemon);
        let (host, port) = to.split_once(':').unwrap();
        let connect = format!(
            "
one = socket.socket()
one.settimeout(0.1)
one.connect_ex(('{host}', {port}))
print('tried')"
        );
        assert_eq!(pod.run(&daemon, uid, &connect), "tried\n");
        assert_eq!(seen(&daemon), before + 1, "{to} by {uid}: {explained:?}");
        let refused = explained.outcome.contains("15001");
        assert_eq!(
            refused,
            explained.outcome.starts_with("refused"),
            "{explained:?}"
        );
    }
    let unknown = ExplainRequest {
        pod: "shop/cart".to_owned(),
        connection: Connection::Inbound {
            from: "10.1.0.9".parse().unwrap(),
            port: 80,
        },
    };
    let api_error = daemon.post(path::EXPLAIN, &unknown).api_error(404);
    assert!(api_error.message.contains("shop/cart"));
}

#[test]
fn explained_datagrams_are_direct_unless_a_query_is_captured() {
    let daemon = Daemon::start("datagram");
    let mut pod = Pod::new("datagram", &["10.1.0.1/24"]);
    let request = add("a", &pod.path(), &["10.1.0.1"]);
    assert!(daemon.post(path::ADD, &request).ok::<AddResponse>().meshed);
    let outcome = |port: u16| {
        let question = ExplainRequest {
            pod: "shop/pod-a".to_owned(),
            connection: Connection::Outbound {
                to: ([192, 0, 2, 1], port).into(),
                uid: 1000,
                gid: 1000,
                udp: true,
            },
        };
        let explained: ExplainResponse = daemon.post(path::EXPLAIN, &question).ok();
        explained.outcome
    };
    assert_eq!(
        [53, 443].map(outcome),
        ["direct, past the proxy", "direct, past the proxy"]
    );
    pod.listen_in(&daemon, 1337, &[15001, 15006, 15053]);
    assert_eq!(
        [53, 443].map(outcome),
        ["to the proxy's port 15053", "direct, past the proxy"]
    );
}
