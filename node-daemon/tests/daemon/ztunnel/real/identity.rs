//! The Pod of Linkerd's identity service: its application queries the API server before its proxy serves.

use std::{
    path::Path,
    process::Stdio,
    thread::sleep,
    time::{Duration, Instant},
};

use super::{
    super::load::DIAL,
    Subject, binary,
    control_plane::Authority,
    linkerd::{OPAQUE, Proxies, directory, enroll, start_proxy},
    network::{Network, OUTSIDE, SERVER, address, serve},
    rules,
};
use crate::node::Daemon;

const PATIENCE: Duration = Duration::from_mins(1);
const API_SERVER: u16 = 6443;
const ROUNDS: usize = 5;
/// Annotations that Linkerd's chart writes into the control plane.
const CONTROL_PLANE: [(&str, &str); 2] = [
    ("linkerd.io/created-by", "linkerd/helm edge-26.1.1"),
    (
        "config.linkerd.io/default-inbound-policy",
        "all-unauthenticated",
    ),
];

/// From the start of the Pod's processes until a client outside reaches the application by its proxy.
fn ready_after(subject: Subject, binary: &Path) -> Duration {
    let test = format!("identity-{subject:?}").to_lowercase();
    let mut network = Network::new(&test);
    serve(&network.pods[OUTSIDE], API_SERVER);
    if subject.has_rules() {
        rules::write_linkerd(&network.pods[SERVER], false, ",443,6443");
    }
    let daemon = subject
        .has_daemon()
        .then(|| Daemon::configured(&test, "mesh = 'linkerd'\n"));
    if let Some(daemon) = &daemon {
        network.members = daemon.members();
        enroll(daemon, &network, SERVER, &CONTROL_PLANE);
    }
    let files = directory();
    let begin = Instant::now();
    let program = format!(
        "{DIAL}while not dial('{}', {API_SERVER}).startswith('seen'): time.sleep(0.01)\n\
         listener = socket.create_server(('', {OPAQUE}))\n\
         while True: listener.accept()[0].sendall(b'ready')",
        address(OUTSIDE, false)
    );
    let application = network
        .command(SERVER, &program)
        .stderr(Stdio::null())
        .spawn();
    let proxy = start_proxy(
        &network,
        SERVER,
        (binary, files.path()),
        &Authority::new(),
        false,
    );
    let _processes = Proxies(vec![application.unwrap(), proxy]);
    let probe = format!(
        "{DIAL}while dial('{}', {OPAQUE}) != 'seen as ready': time.sleep(0.01)",
        address(SERVER, false)
    );
    let mut probe = network.command(OUTSIDE, &probe).spawn().unwrap();
    while probe.try_wait().unwrap().is_none() {
        if begin.elapsed() > PATIENCE {
            probe.kill().unwrap();
            probe.wait().unwrap();
            panic!("the Pod of {subject:?} is not ready");
        }
        sleep(Duration::from_millis(1));
    }
    begin.elapsed()
}

#[test]
fn identity_pod_is_ready_as_fast_as_with_linkerd_rules() {
    let Some(binary) = binary("LINKERD2_PROXY") else {
        return;
    };
    let mut times: [Vec<Duration>; 2] = Default::default();
    for _ in 0..ROUNDS {
        for (subject, times) in [Subject::Rules, Subject::Sluice]
            .into_iter()
            .zip(&mut times)
        {
            times.push(ready_after(subject, &binary));
        }
    }
    let [rules, sluice] = times.map(|mut times| {
        times.sort();
        times[times.len() / 2]
    });
    println!("identity's Pod is ready after {rules:?} with rules, after {sluice:?} with Sluice");
    assert!(sluice < rules * 3 / 2 + Duration::from_millis(100));
}
