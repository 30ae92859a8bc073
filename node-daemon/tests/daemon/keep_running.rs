//! Pods under traffic while Sluice is installed, restarted, upgraded and removed on their node: a
//! gateway, a proxyless gRPC Pod, a sidecar Pod, a Pod with iptables rules, and a plain one.

use std::{
    fs,
    io::Read as _,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use serde::Deserialize;
use serde_json::{Value, json};
use sluice_abi::ABI_VERSION;
use sluice_api::{PodView, path};
use sluice_testbed::envoy;

use crate::{
    api_server::{ApiServer, pod},
    node::{Daemon, Pod},
    pending_pod_envoy::envoy_command,
    wait,
};

const PATIENCE: Duration = Duration::from_secs(30);
/// The time of traffic after each event.
const UNDER_TRAFFIC: Duration = Duration::from_secs(2);
const APPLICATION: u32 = 1000;
const SIDECAR: u32 = 1337;
/// The port of the server on the node.
const SERVER: u16 = 7000;

/// Echo servers and clients. Prints the connections and the failures of each client at the end of
/// its input.
const TRAFFIC: &str = "
import collections, json, socket, sys, threading, time
serve, call = json.loads(sys.argv[1]), json.loads(sys.argv[2])
stopped, counts, failures = threading.Event(), collections.Counter(), []
def answer(connection):
    with connection:
        connection.sendall(connection.recv(64))
def accept(server):
    while True:
        threading.Thread(target=answer, args=server.accept()[:1], daemon=True).start()
def client(host, port):
    name = f'{host}:{port}'
    while not stopped.is_set():
        try:
            with socket.create_connection((host, port), timeout=10) as connection:
                connection.sendall(b'ping')
                heard = connection.recv(64)
                if heard != b'ping':
                    raise OSError(f'answer {heard!r}')
        except OSError as error:
            failures.append(f'{name}: {error}')
        counts[name] += 1
        time.sleep(0.01)
for port in serve:
    server = socket.create_server(('0.0.0.0', port), backlog=1024)
    threading.Thread(target=accept, args=[server], daemon=True).start()
print('ready', flush=True)
sys.stdin.readline()
clients = [threading.Thread(target=client, args=one) for one in call]
[one.start() for one in clients]
sys.stdin.readline()
stopped.set()
[one.join() for one in clients]
print(json.dumps({'counts': counts, 'failures': failures}), flush=True)
sys.stdin.readline()
";

/// The result of a process's clients.
#[derive(Debug, Deserialize)]
struct Result {
    counts: std::collections::BTreeMap<String, u64>,
    failures: Vec<String>,
}

/// A process with servers and clients, or an Envoy.
struct Running {
    name: String,
    process: Child,
}

impl Running {
    fn start(name: &str, mut command: Command, serve: &[u16], call: &[(&str, u16)]) -> Self {
        let arguments = [json!(serve).to_string(), json!(call).to_string()];
        command.args(["-c", TRAFFIC]).args(arguments);
        let process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut running = Self {
            name: name.to_owned(),
            process: process.expect("python3"),
        };
        assert_eq!(running.line(), "ready", "{name}");
        running
    }

    fn line(&mut self) -> String {
        let stdout = self.process.stdout.as_mut().expect("its output");
        let mut line = Vec::new();
        let mut byte = [0];
        while stdout.read(&mut byte).expect("its output") == 1 && byte != *b"\n" {
            line.extend(byte);
        }
        String::from_utf8(line).expect("text")
    }

    fn proceed(&mut self) {
        use std::io::Write as _;
        let stdin = self.process.stdin.as_mut().expect("its input");
        stdin.write_all(b"\n").expect("its input");
    }

    fn result(&mut self) -> Result {
        self.proceed();
        let line = self.line();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{}: {error}: {line}", self.name))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// The addresses of the node and of a Pod on the link between them: unique to this process.
struct Link {
    node: String,
    pod: String,
}

impl Link {
    fn number(index: u32) -> Self {
        let [_, _, high, low] = std::process::id().to_be_bytes();
        let address =
            |last: u32| format!("10.{}.{high}.{}", 200 + index, u32::from(low & 0xfc) + last);
        Self {
            node: address(1),
            pod: address(2),
        }
    }

    /// Brings the link up at both ends.
    fn connect(&self, home: &Pod) {
        let far = home.far().to_owned();
        let ip = |arguments: &[&str]| {
            let status = Command::new("ip").args(arguments).status().expect("ip");
            assert!(status.success(), "ip {arguments:?}");
        };
        ip(&["address", "add", &self.node, "peer", &self.pod, "dev", &far]);
        ip(&["link", "set", &far, "up"]);
        home.configure(&format!("route add {} dev eth0", self.node));
        home.configure(&format!(
            "route add default via {} dev eth0 onlink",
            self.node
        ));
    }
}

/// The ports of the gateway, an Envoy that forwards to the server on the node.
const GATEWAY: [u16; 4] = [80, 8080, 8443, 15021];
/// The rules of an init container, as far as TCP is concerned.
const RULES: &str = "*nat
-A PREROUTING -p tcp -j REDIRECT --to-ports 15006
-A OUTPUT -p tcp -m owner --uid-owner 1337 -j RETURN
-A OUTPUT -o lo -j RETURN
-A OUTPUT -p tcp -j REDIRECT --to-ports 15001
COMMIT
";

/// The Pods, their links and their processes.
struct Node {
    pods: Vec<(Pod, Link)>,
    processes: Vec<Running>,
    files: tempfile::TempDir,
}

impl Node {
    fn furnish() -> Self {
        let names = ["gateway", "grpc", "sidecar", "rules", "plain"];
        let pods = (0..).zip(names).map(|(index, name)| {
            let link = Link::number(index);
            let home = Pod::new(&format!("keep-{name}"), &[&format!("{}/32", link.pod)]);
            link.connect(&home);
            (home, link)
        });
        Self {
            pods: pods.collect(),
            processes: Vec::new(),
            files: tempfile::tempdir().unwrap(),
        }
    }

    /// The Pods as the API server lists them.
    fn listed(&self) -> Vec<Value> {
        let router = r#"{"initContainers":null,"containers":["istio-proxy"]}"#;
        let agent = r#"{"initContainers":null,"containers":["istio-proxy"],"revision":"default"}"#;
        let sidecar = r#"{"initContainers":["istio-validation"],"containers":["istio-proxy"]}"#;
        let rules = r#"{"initContainers":["istio-init"],"containers":["istio-proxy"]}"#;
        let status = "sidecar.istio.io/status";
        let templates = "inject.istio.io/templates";
        let annotations: [&[(&str, &str)]; 5] = [
            &[(status, router), (templates, "gateway")],
            &[(status, agent), (templates, "grpc-agent")],
            &[(status, sidecar)],
            &[(status, rules)],
            &[],
        ];
        let names = ["gateway", "grpc", "sidecar", "rules", "plain"];
        (names.iter().zip(annotations).zip(&self.pods))
            .map(|((name, annotations), (_, link))| pod(name, &[&link.pod], annotations))
            .collect()
    }

    /// Starts the processes of the Pods and of the node.
    fn start(&mut self, daemon: &Daemon) {
        let python = Path::new("/usr/bin/python3");
        let [gate, grpc, sidecar, rules, plain] = &self.pods[..] else {
            panic!("five Pods");
        };
        rules.0.restore_rules(RULES);
        let config = self.files.path().join("envoy.json");
        let listeners = GATEWAY.map(|port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)));
        let server = SocketAddr::new(gate.1.node.parse().unwrap(), SERVER);
        let forwarding = envoy::forwarding(&listeners, server, 1);
        fs::write(&config, forwarding.to_string()).unwrap();
        gate.0.sysctl("net.ipv4.ip_unprivileged_port_start=0");
        let mut command = envoy_command(&gate.0, daemon, SIDECAR, &config);
        self.processes.push(Running {
            name: "envoy".to_owned(),
            process: command.stdin(Stdio::piped()).spawn().unwrap(),
        });
        for (name, (home, link), user, ports) in [
            ("grpc", grpc, APPLICATION, &[50051][..]),
            ("sidecar", sidecar, APPLICATION, &[8080]),
            ("sidecar's proxy", sidecar, SIDECAR, &[15001, 15006]),
            ("rules", rules, APPLICATION, &[8080]),
            ("rules' proxy", rules, SIDECAR, &[15001, 15006]),
            ("plain", plain, APPLICATION, &[8080]),
        ] {
            let command = home.command(daemon, user, python);
            let calls = [(&*link.node, SERVER)];
            let calls = if user == SIDECAR { &[][..] } else { &calls };
            self.processes
                .push(Running::start(name, command, ports, calls));
        }
        let mut calls: Vec<_> = GATEWAY.iter().map(|port| (&*gate.1.pod, *port)).collect();
        calls.extend([(&*grpc.1.pod, 50051)]);
        calls.extend([sidecar, rules, plain].map(|(_, link)| (&*link.pod, 8080)));
        let node = Running::start("node", Command::new(python), &[SERVER], &calls);
        self.processes.push(node);
    }

    /// Waits until the gateway listens, and starts the traffic.
    fn begin(&mut self) {
        let gate: IpAddr = self.pods[0].1.pod.parse().unwrap();
        for port in GATEWAY {
            wait::until(
                || std::net::TcpStream::connect((gate, port)).is_ok(),
                || format!("the gateway does not listen on {port}"),
            );
        }
        self.clients().for_each(Running::proceed);
    }

    fn clients(&mut self) -> impl Iterator<Item = &mut Running> {
        self.processes.iter_mut().filter(|one| one.name != "envoy")
    }
}

/// Waits until the sidecar's Pod, and no other, is intercepted.
fn wait_for_sidecar(daemon: &Daemon) -> Vec<PodView> {
    let end = Instant::now() + PATIENCE;
    loop {
        let pods: Vec<PodView> = daemon.get(path::PODS).ok();
        let meshed: Vec<_> = pods.iter().filter(|pod| pod.meshed).collect();
        if let [one] = &meshed[..]
            && one.pod.name == "sidecar"
            && pods.len() == 5
        {
            return pods;
        }
        assert!(Instant::now() < end, "{pods:#?}");
        sleep(Duration::from_millis(20));
    }
}

#[test]
fn node_life_refuses_no_connection_that_worked() {
    let mut node = Node::furnish();
    let server = ApiServer::start(node.listed());
    let files = tempfile::tempdir().unwrap();
    let config = server.kubeconfig(files.path(), "first");
    let mut daemon = Daemon::configured("keep", &config);
    // The node is as before the installation: without programs and records.
    daemon.stop();
    assert!(daemon.detach().status.success());
    node.start(&daemon);
    node.begin();
    sleep(UNDER_TRAFFIC);

    daemon.restart();
    let pods = wait_for_sidecar(&daemon);
    for (name, reason) in [
        ("gateway", "gateway"),
        ("grpc", "gateway"),
        ("rules", "netfilter rules"),
        ("plain", "no sidecar annotation"),
    ] {
        let found = pods.iter().find(|pod| pod.pod.name == name).unwrap();
        assert!(found.reason.contains(reason), "{found:?}");
    }
    sleep(UNDER_TRAFFIC);
    daemon.stop();
    daemon.restart();
    wait_for_sidecar(&daemon);
    sleep(UNDER_TRAFFIC);
    daemon.crash();
    // An upgrade: the pins are of another version.
    let pins = daemon.pins();
    let version = |number: u32| pins.join(format!("v{number}"));
    fs::rename(version(ABI_VERSION), version(ABI_VERSION - 1)).unwrap();
    daemon.restart();
    wait_for_sidecar(&daemon);
    assert!(!version(ABI_VERSION - 1).exists());
    sleep(UNDER_TRAFFIC);
    daemon.stop();
    assert!(daemon.detach().status.success());
    sleep(UNDER_TRAFFIC);

    let mut failed = Vec::new();
    let mut total = 0;
    for process in node.clients() {
        let Result { counts, failures } = process.result();
        eprintln!("{}: {counts:?}, {} failed", process.name, failures.len());
        total += counts.values().sum::<u64>();
        failed.extend(
            failures
                .into_iter()
                .map(|one| format!("{}: {one}", process.name)),
        );
    }
    assert!(total > 1000, "{total} connections");
    assert_eq!(failed, Vec::<String>::new(), "of {total}");
}
