//! Test of a pending Pod with a real Envoy, which would retry a refused connection.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use sluice_api::{PodView, Status, path};
use sluice_testbed::envoy;

use crate::{
    api_server::{ApiServer, pod},
    node::{Daemon, Pod},
    wait,
};

/// The users of an application and of the sidecar.
const APPLICATION: u32 = 1000;
const SIDECAR: u32 = 1337;

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// The program.
fn envoy_binary() -> PathBuf {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/bin/envoy");
    let found = std::env::var_os("ENVOY").map_or(built, Into::into);
    assert!(
        found.exists(),
        "{} is missing: run make build",
        found.display()
    );
    found
}

/// An Envoy with this configuration in a Pod.
pub(crate) fn envoy_command(home: &Pod, daemon: &Daemon, user: u32, config: &Path) -> Command {
    let mut command = home.command(daemon, user, &envoy_binary());
    command.arg("--config-path").arg(config);
    command.args([
        "--concurrency",
        "1",
        "--disable-hot-restart",
        "--log-level",
        "error",
    ]);
    command
}

/// Starts an application that forwards connections to its port 9000 to 10.1.0.9:80, with up to three
/// attempts.
fn start_application(home: &Pod, daemon: &Daemon, directory: &Path) -> Running {
    let config = directory.join("envoy.json");
    let listeners = [SocketAddr::from(([127, 0, 0, 1], 9000))];
    let forwarding = envoy::forwarding(&listeners, ([10, 1, 0, 9], 80).into(), 3);
    fs::write(&config, forwarding.to_string()).unwrap();
    let mut command = envoy_command(home, daemon, APPLICATION, &config);
    Running(command.spawn().unwrap())
}

/// Starts a sidecar that answers one connection, and prints its original destination.
fn start_sidecar(home: &Pod, daemon: &Daemon) -> (Running, impl Iterator<Item = String>) {
    let program = "
import socket, struct, time
server = socket.create_server(('0.0.0.0', 15001))
inbound = socket.create_server(('0.0.0.0', 15006))
print('listens', flush=True)
connection, _ = server.accept()
port, ip = struct.unpack('!2xH4s8x', connection.getsockopt(socket.SOL_IP, 80, 16))
print(f'{socket.inet_ntoa(ip)}:{port}', flush=True)
connection.sendall(b'through the sidecar')
# It is adopted only while it listens.
time.sleep(300)";
    let mut command = home.command(daemon, SIDECAR, Path::new("/usr/bin/python3"));
    let mut process = command
        .args(["-c", program])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(process.stdout.take().unwrap()).lines();
    (Running(process), lines.map(Result::unwrap))
}

#[test]
fn envoy_in_a_pending_pod_uses_its_sidecar() {
    let home = Pod::new("feedback", &["10.1.0.1/24"]);
    let meshed = ("sidecar.istio.io/status", "{}");
    let server = ApiServer::start(vec![pod("cart", &["10.1.0.1"], &[meshed])]);
    let files = tempfile::tempdir().unwrap();
    let daemon = Daemon::configured("feedback", &server.kubeconfig(files.path(), "first"));
    let status = || daemon.get(path::STATUS).ok::<Status>();
    wait::until(|| status().pending_pods == 1, || "the Pod is not pending");

    let (_sidecar, mut said) = start_sidecar(&home, &daemon);
    assert_eq!(said.next().unwrap(), "listens");
    let _application = start_application(&home, &daemon, files.path());
    let pods = || daemon.get(path::PODS).ok::<Vec<PodView>>();
    assert_eq!(pods(), [], "no client has connected yet");

    // It needs a second to start.
    let call = "
import time
for _ in range(400):
    try:
        client = socket.create_connection(('127.0.0.1', 9000), timeout=15)
        break
    except ConnectionRefusedError:
        time.sleep(0.05)
print(client.recv(64).decode())";
    let heard = home.run(&daemon, APPLICATION, call);
    assert_eq!(heard, "through the sidecar\n");
    assert_eq!(said.next().unwrap(), "10.1.0.9:80");
    let metrics = daemon.get(path::METRICS).body;
    for line in [
        "sluice_datapath_events_total{reason=\"pod_netns_found\"} 1",
        "sluice_decisions_total{reason=\"outbound_to_proxy\"} 1",
        "sluice_datapath_events_total{reason=\"outbound_orig_dst_store_failed\"} 0",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    let is_promoted = |pod: &PodView| pod.pod.name == "cart" && pod.meshed;
    wait::until(
        || pods().first().is_some_and(is_promoted),
        || "the Pod is not promoted",
    );
    assert_eq!(status().pending_pods, 0);
}
