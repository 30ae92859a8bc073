//! Tests of ambient mode without istio-cni: the daemon as the agent of ztunnel.

mod chaos;
mod listeners;
mod load;
mod messages;
mod probes;
mod real;
mod stand_in;

use std::{fs, os::unix::fs::MetadataExt as _, path::PathBuf};

use serde_json::{Value, json};
use sluice_api::{AddRequest, AddResponse, PodView, Status, code, path};
use tempfile::TempDir;

use crate::{
    api_server::{ApiServer, pod},
    node::{Daemon, Pod},
    pods::add,
    wait,
};
use messages::Info;
use stand_in::{Seen, Ztunnel};

const MODE: &str = "istio.io/dataplane-mode";

struct Node {
    daemon: Daemon,
    server: ApiServer,
    socket: PathBuf,
    _files: TempDir,
}

impl Node {
    fn start(test: &str, pods: Vec<Value>) -> Self {
        Self::configured(test, pods, "")
    }

    /// With more keys of the configuration.
    fn configured(test: &str, pods: Vec<Value>, keys: &str) -> Self {
        let server = ApiServer::start(pods);
        let files = tempfile::tempdir().unwrap();
        let socket = files.path().join("ztunnel/ztunnel.sock");
        let config = format!(
            "mesh = \"ambient\"\n{keys}{}[ambient]\nztunnel-socket = \"{}\"\n",
            server.kubeconfig(files.path(), "first"),
            socket.display()
        );
        Self {
            daemon: Daemon::configured(test, &config),
            server,
            socket,
            _files: files,
        }
    }

    /// Adds a Pod, which must be intercepted.
    #[track_caller]
    fn mesh(&self, request: &AddRequest) {
        let answer: AddResponse = self.daemon.post(path::ADD, request).ok();
        assert!(answer.meshed, "{answer:?}");
    }

    /// Waits until so many ztunnels are connected.
    fn await_ztunnels(&self, count: usize) {
        let connected = || {
            let status: Status = self.daemon.get(path::STATUS).ok();
            status.ztunnel.expect("ambient mode").connections
        };
        wait::until(
            || connected() == count,
            || format!("{} ztunnels", connected()),
        );
    }
}

/// A Pod of ambient mode.
fn labelled(name: &str, mode: Option<&str>) -> Value {
    let mut pod = pod(name, &[], &[]);
    pod["metadata"]["uid"] = json!(format!("uid-{name}"));
    pod["spec"]["serviceAccountName"] = json!("baker");
    if let Some(mode) = mode {
        pod["metadata"]["labels"] = json!({ MODE: mode });
    }
    pod
}

fn request(name: &str, netns: &str, address: &str) -> AddRequest {
    let mut request = add(name, netns, &[address]);
    name.clone_into(&mut request.pod.name);
    request.pod.uid = format!("uid-{name}");
    request.annotations = Some([].into());
    request
}

/// The message that adds a Pod.
fn added(name: &str, home: &Pod) -> Seen {
    let info = Info {
        name: name.to_owned(),
        namespace: "shop".to_owned(),
        service_account: "baker".to_owned(),
    };
    let inode = fs::metadata(home.path()).unwrap().ino();
    Seen::Add(format!("uid-{name}"), info, inode)
}

#[test]
fn ztunnel_serves_labelled_pod_before_add_ends() {
    let node = Node::start("zds", vec![labelled("cart", Some("ambient"))]);
    let ztunnel = Ztunnel::start(&node.socket);
    let home = Pod::new("zds", &["10.1.0.1/24"]);
    let request = request("cart", &home.path(), "10.1.0.1");
    node.mesh(&request);
    assert!(
        ztunnel.seen().contains(&added("cart", &home)),
        "{:?}",
        ztunnel.seen()
    );
    wait::until(
        || !node.server.patches().is_empty(),
        || "the Pod is not annotated",
    );
    let (path, body) = node.server.patches().remove(0);
    assert!(
        path.starts_with("/api/v1/namespaces/shop/pods/cart/status"),
        "{path}"
    );
    assert_eq!(
        body,
        r#"{"metadata":{"annotations":{"ambient.istio.io/redirection":"enabled"}}}"#
    );
    assert_eq!(node.daemon.post(path::DEL, &request.attachment).status, 200);
    ztunnel.await_seen(&Seen::Del("uid-cart".to_owned()));
}

#[test]
fn labels_of_pod_and_namespace_select_pods() {
    let sidecar = ("sidecar.istio.io/status", "{}");
    let mut injected = labelled("injected", Some("ambient"));
    injected["metadata"]["annotations"] = json!({ sidecar.0: sidecar.1 });
    let pods = vec![
        labelled("in", Some("ambient")),
        labelled("out", Some("none")),
        labelled("unset", None),
        injected,
    ];
    let node = Node::start("selection", pods);
    let _ztunnel = Ztunnel::start(&node.socket);
    node.await_ztunnels(1);
    let home = Pod::new("selection", &["10.1.0.1/24"]);
    for (namespace, expected) in [
        (json!({}), [true, false, false, false]),
        (json!({ MODE: "ambient" }), [true, false, true, false]),
    ] {
        node.server.label_namespace(namespace.clone());
        for (name, meshed) in ["in", "out", "unset", "injected"].into_iter().zip(expected) {
            let mut request = request(name, &home.path(), "10.1.0.1");
            if name == "injected" {
                request.annotations = Some([(sidecar.0.to_owned(), sidecar.1.to_owned())].into());
            }
            let answer: AddResponse = node.daemon.post(path::ADD, &request).ok();
            assert_eq!(answer.meshed, meshed, "{name} in {namespace}: {answer:?}");
            node.daemon.post(path::DEL, &request.attachment);
        }
    }
}

#[test]
fn ztunnel_error_fails_add_with_its_text() {
    let node = Node::start("zds-error", vec![labelled("cart", Some("ambient"))]);
    let home = Pod::new("zds-error", &["10.1.0.1/24"]);
    let request = request("cart", &home.path(), "10.1.0.1");
    let absent = node.daemon.post(path::ADD, &request).api_error(503);
    assert_eq!(absent.code, code::TRY_AGAIN_LATER);
    assert!(
        absent.details.contains("no ztunnel is connected at"),
        "{absent:?}"
    );
    let status: Status = node.daemon.get(path::STATUS).ok();
    assert!(
        status.problems[0].contains("no ztunnel is connected"),
        "{status:?}"
    );

    let ztunnel = Ztunnel::start(&node.socket);
    ztunnel.fail("the oven is cold");
    node.await_ztunnels(1);
    let failed = node.daemon.post(path::ADD, &request).api_error(503);
    assert!(failed.details.contains("the oven is cold"), "{failed:?}");
    assert_eq!(node.daemon.get(path::PODS).ok::<Vec<PodView>>(), []);
    ztunnel.await_seen(&Seen::Del("uid-cart".to_owned()));

    ztunnel.fail("");
    node.mesh(&request);
}

#[test]
fn unknown_labels_deny_add() {
    let node = Node::start("zds-labels", vec![]);
    let _ztunnel = Ztunnel::start(&node.socket);
    let home = Pod::new("zds-labels", &["10.1.0.1/24"]);
    let refused = node
        .daemon
        .post(path::ADD, &request("absent", &home.path(), "10.1.0.1"));
    let refused = refused.api_error(503);
    assert!(refused.message.contains("labels"), "{refused:?}");
}

#[test]
fn both_sides_restart_without_losing_pods() {
    let pods = vec![
        labelled("cart", Some("ambient")),
        labelled("bread", Some("ambient")),
    ];
    let mut node = Node::start("zds-restart", pods);
    let first = Ztunnel::start(&node.socket);
    node.await_ztunnels(1);
    let homes = [
        Pod::new("zds-restart-1", &["10.1.0.1/24"]),
        Pod::new("zds-restart-2", &["10.1.0.2/24"]),
    ];
    let cart = request("cart", &homes[0].path(), "10.1.0.1");
    node.mesh(&cart);

    node.daemon.crash();
    node.daemon.restart();
    node.await_ztunnels(1);
    let again = Seen::Snapshot;
    let count = |ztunnel: &Ztunnel, wanted: &Seen| {
        ztunnel.seen().iter().filter(|seen| *seen == wanted).count()
    };
    wait::until(
        || count(&first, &again) >= 2,
        || format!("{:?}", first.seen()),
    );
    assert_eq!(
        count(&first, &added("cart", &homes[0])),
        2,
        "{:?}",
        first.seen()
    );
    assert!(!first.seen().contains(&Seen::Del("uid-cart".to_owned())));

    // An upgrade: the second ztunnel gets every Pod, and new ones alone.
    let second = Ztunnel::start(&node.socket);
    second.await_seen(&Seen::Snapshot);
    assert!(second.seen().contains(&added("cart", &homes[0])));
    let bread = request("bread", &homes[1].path(), "10.1.0.2");
    node.mesh(&bread);
    assert!(second.seen().contains(&added("bread", &homes[1])));
    assert!(!first.seen().contains(&added("bread", &homes[1])));
    node.daemon.post(path::DEL, &cart.attachment);
    for ztunnel in [&first, &second] {
        ztunnel.await_seen(&Seen::Del("uid-cart".to_owned()));
    }
}

#[test]
fn listeners_of_a_process_outside_the_pod_are_found() {
    let mut node = Node::start("zds-listeners", vec![labelled("cart", Some("ambient"))]);
    let _ztunnel = Ztunnel::start(&node.socket);
    node.await_ztunnels(1);
    let home = Pod::new("zds-listeners", &["10.1.0.1/24"]);
    let cart = request("cart", &home.path(), "10.1.0.1");
    node.mesh(&cart);

    // The next daemon knows nothing, and ztunnel serves the Pod already.
    node.daemon.crash();
    assert!(node.daemon.detach().status.success());
    node.daemon.restart();
    node.await_ztunnels(1);
    node.mesh(&cart);
    let pods: Vec<PodView> = node.daemon.get(path::PODS).ok();
    assert_eq!(pods[0].listeners, 1, "{pods:?}");
}

#[test]
fn other_version_of_the_protocol_is_refused() {
    let mut node = Node::start("zds-version", vec![]);
    let log = node.daemon.log();
    let _ztunnel = Ztunnel::of_version(&node.socket, 2);
    log.await_line(&["speaks version 2 of ZDS"]);
    node.await_ztunnels(0);
}
