//! Tests of the audit: it finds every kind of connection that bypasses the sidecar, and no other.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use sluice_api::{
    AddResponse, AuditRequest, AuditResponse, Connections, ConnectionsRequest, Finding,
    FindingKind, path,
};

use crate::{
    balancer,
    node::{Daemon, Pod},
    pods::add,
    wait,
};

pub(crate) const APPLICATION: u32 = 1000;
const PROXY: u32 = 1337;
/// A connection to the peer's server.
pub(crate) const CLIENT: &str = "held = socket.create_connection(('10.1.0.9', 80))";
/// A server that has accepted one connection.
const SERVER: &str = "
server = socket.create_server(('0.0.0.0', 8080))
print('listening', flush=True)
held = server.accept()";

/// A process in a Pod. It ends with the test.
pub(crate) struct Process(Child, BufReader<std::process::ChildStdout>);

impl Process {
    /// Starts a Python program that keeps its sockets open after it has printed `done`.
    pub(crate) fn start(pod: &Pod, daemon: &Daemon, uid: u32, program: &str) -> Self {
        let command = pod.command(daemon, uid, Path::new("/usr/bin/python3"));
        Self::by(command, program)
    }

    fn by(mut command: Command, program: &str) -> Self {
        let program = format!(
            "import socket, struct, time\n{program}\nprint('done', flush=True)\ntime.sleep(60)"
        );
        let mut child = command
            .args(["-c", &program])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self(child, stdout)
    }

    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.1.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    /// Waits until its sockets are open.
    pub(crate) fn done(mut self) -> Self {
        assert_eq!(self.line(), "done");
        self
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A Pod with a proxy, and a peer with a server.
pub(crate) fn pair(daemon: &Daemon, test: &str) -> (Pod, Pod, Process) {
    let (pod, mut peer) = (Pod::new(test, &[]), Pod::new(&format!("{test}-peer"), &[]));
    pod.link("10.1.0.1/24", &peer, "10.1.0.9/24");
    peer.listen_as(0, &[80]);
    let proxy = "held = [socket.create_server(('0.0.0.0', port)) for port in (15001, 15006)]";
    let proxy = format!("{proxy}\nupstream = socket.create_connection(('10.1.0.9', 80))");
    let proxy = Process::start(&pod, daemon, PROXY, &proxy).done();
    (pod, peer, proxy)
}

pub(crate) fn mesh(daemon: &Daemon, pod: &Pod) {
    let request = add("a", &pod.path(), &["10.1.0.1"]);
    assert!(daemon.post(path::ADD, &request).ok::<AddResponse>().meshed);
}

fn audit(daemon: &Daemon, kill: bool) -> AuditResponse {
    let audit: AuditResponse = daemon
        .post(path::AUDIT, &AuditRequest { pod: None, kill })
        .ok();
    assert_eq!(audit.problems, Vec::<String>::new());
    audit
}

fn kinds(found: &AuditResponse) -> Vec<(FindingKind, &str, String)> {
    let all = found.findings.iter();
    all.map(|one| (one.kind, &*one.rule, one.peer.ip().to_string()))
        .collect()
}

fn expect_only(found: &AuditResponse, (kind, rule, peer): (FindingKind, &str, &str)) {
    assert_eq!(kinds(found), [(kind, rule, peer.to_owned())]);
}

/// A meshed Pod with a connection in each direction from before its ADD, and one of its proxy.
struct Early {
    client: Process,
    server: Process,
    _others: ([Process; 2], Pod, Pod),
}

impl Early {
    fn start(daemon: &Daemon, test: &str) -> Self {
        let (pod, peer, proxy) = pair(daemon, test);
        let client = Process::start(&pod, daemon, APPLICATION, CLIENT).done();
        let mut server = Process::start(&pod, daemon, APPLICATION, SERVER);
        assert_eq!(server.line(), "listening");
        let connect = "held = socket.create_connection(('10.1.0.1', 8080))";
        let caller = Process::start(&peer, daemon, APPLICATION, connect).done();
        let server = server.done();
        assert_eq!(audit(daemon, false).pods, 0);
        mesh(daemon, &pod);
        Self {
            client,
            server,
            _others: ([proxy, caller], pod, peer),
        }
    }
}

#[test]
fn audit_finds_connections_from_before_the_add() {
    let daemon = Daemon::start("audit-add");
    let early = Early::start(&daemon, "audit-add");
    let found = audit(&daemon, false);
    let peer = "10.1.0.9".to_owned();
    let mut listed = kinds(&found);
    listed.sort_unstable();
    assert_eq!(
        listed,
        [
            (FindingKind::Bypass, "inbound_to_proxy", peer.clone()),
            (FindingKind::Bypass, "outbound_to_proxy", peer)
        ]
    );
    assert_eq!((found.pods, found.connections), (1, 3));
    for Finding {
        pod,
        accepted,
        uid,
        pid,
        process,
        ..
    } in &found.findings
    {
        let owner = if *accepted {
            &early.server
        } else {
            &early.client
        };
        assert_eq!((&**pod, *uid), ("shop/pod-a", APPLICATION));
        assert_eq!(*pid, i32::try_from(owner.0.id()).ok());
        assert_eq!(process.as_deref(), Some("python3"));
    }

    let killed = audit(&daemon, true);
    assert!(killed.findings.len() == 2 && killed.findings.iter().all(|one| one.ended));
    assert_eq!(audit(&daemon, false).findings, []);
    assert!(
        daemon
            .ask(&["audit"])
            .contains("past the sidecar against a rule: 0")
    );
}

#[test]
fn connections_are_listed_with_path_and_process() {
    let daemon = Daemon::start("audit-list");
    let _early = Early::start(&daemon, "audit-list");
    let listed: Connections = daemon
        .post(path::CONNECTIONS, &ConnectionsRequest { pod: None })
        .ok();
    let mut paths: Vec<_> = (listed.connections.iter())
        .map(|one| (one.path.as_str(), one.process.as_deref()))
        .collect();
    paths.sort_unstable();
    let python = Some("python3");
    assert_eq!(
        paths,
        [("bypass", python), ("bypass", python), ("direct", python)]
    );
    let printed = daemon.ask(&["connections", "--pod", "shop/pod-a"]);
    assert!(printed.contains("10.1.0.9:80"), "{printed}");
}

#[test]
fn audit_finds_a_connection_made_without_hooks() {
    let daemon = Daemon::start("audit-hooks");
    let (pod, _peer, _proxy) = pair(&daemon, "audit-hooks");
    mesh(&daemon, &pod);
    let _redirected = Process::start(&pod, &daemon, APPLICATION, CLIENT).done();
    assert_eq!(audit(&daemon, false).findings, []);
    assert!(balancer::clear(daemon.cgroup()) > 0);
    let _direct = Process::start(&pod, &daemon, APPLICATION, CLIENT).done();
    let found = audit(&daemon, false);
    expect_only(
        &found,
        (FindingKind::Bypass, "outbound_to_proxy", "10.1.0.9"),
    );
}

#[test]
fn audit_finds_a_connection_made_by_raw_packets() {
    let daemon = Daemon::start("audit-raw");
    let (pod, _peer, _proxy) = pair(&daemon, "audit-raw");
    // An accomplice outside, who sends no reset.
    pod.configure("neigh add 10.1.0.8 lladdr 02:00:00:00:00:08 dev eth0");
    mesh(&daemon, &pod);
    let mut server = Process::start(&pod, &daemon, APPLICATION, SERVER);
    assert_eq!(server.line(), "listening");
    let packets = "
def checksum(data):
    total = sum(struct.unpack('!%dH' % (len(data) // 2), data))
    total = (total >> 16) + (total & 0xffff)
    return ~(total + (total >> 16)) & 0xffff
def packet(seq, ack, flags):
    ends = socket.inet_aton('10.1.0.8') + socket.inet_aton('10.1.0.1')
    def tcp(sum):
        return struct.pack('!HHIIBBHHH', 5000, 8080, seq, ack, 5 << 4, flags, 8192, sum, 0)
    tcp = tcp(checksum(ends + struct.pack('!HH', 6, 20) + tcp(0)))
    def ip(sum):
        return struct.pack('!BBHHHBBH', 0x45, 0, 40, 0, 0, 64, 6, sum) + ends
    return bytes(12) + bytes([8, 0]) + ip(checksum(ip(0))) + tcp
def raw(device):
    one = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    one.bind((device, 0))
    return one
loopback, link = raw('lo'), raw('eth0')
link.settimeout(5)
loopback.send(packet(1, 0, 2))
while True:
    seen = link.recv(2000)
    if seen[30:34] == socket.inet_aton('10.1.0.8') and seen[47] == 0x12:
        break
loopback.send(packet(2, struct.unpack('!I', seen[38:42])[0] + 1, 16))";
    let _sender = Process::start(&pod, &daemon, 0, packets).done();
    let _server = server.done();
    let found = audit(&daemon, false);
    expect_only(
        &found,
        (FindingKind::Bypass, "inbound_to_proxy", "10.1.0.8"),
    );
}

#[test]
fn audit_lists_processes_of_the_proxys_user() {
    let daemon = Daemon::start("audit-user");
    let (pod, _peer, _proxy) = pair(&daemon, "audit-user");
    mesh(&daemon, &pod);
    assert_eq!(audit(&daemon, false).findings, []);
    let impostor = Process::start(&pod, &daemon, PROXY, CLIENT).done();
    let found = audit(&daemon, false);
    expect_only(
        &found,
        (FindingKind::ProxyUser, "outbound_to_proxy", "10.1.0.9"),
    );
    assert_eq!(found.findings[0].pid, i32::try_from(impostor.0.id()).ok());
    let metrics = daemon.get(path::METRICS).body;
    assert!(metrics.contains("sluice_audit_findings{kind=\"proxy_user\"}"));
}

#[test]
fn enrollment_resets_earlier_connections_if_configured() {
    let daemon = Daemon::configured("audit-reset", "on-enrol = \"reset\"");
    let (pod, _peer, _proxy) = pair(&daemon, "audit-reset");
    let client = format!("{CLIENT}\nprint('connected', flush=True)\nprint(held.recv(1))");
    let mut client = Process::start(&pod, &daemon, APPLICATION, &client);
    assert_eq!(client.line(), "connected");
    mesh(&daemon, &pod);
    wait::until(
        || client.0.try_wait().unwrap().is_some(),
        || "the connection is still there",
    );
    assert_eq!(audit(&daemon, false).findings, []);
}

/// Both ends are nonblocking, which acceleration needs: Python switches an accepted socket just after `accept`, and
/// the client waits for that. Both directions exchange enough to start.
const PROXY_ANSWERS: &str = "
socket.setdefaulttimeout(20)
listeners = [socket.create_server(('0.0.0.0', port)) for port in (15001, 15006)]
print('listening', flush=True)
held, _ = listeners[0].accept()
for _ in range(3):
    asked = 0
    while asked < 700:
        asked += len(held.recv(65536))
    held.sendall(bytes(9000))";
const CLIENT_ASKS: &str = "
import time
socket.setdefaulttimeout(20)
held = socket.create_connection(('10.1.0.9', 80))
time.sleep(0.2)
for _ in range(3):
    held.sendall(bytes(700))
    answered = 0
    while answered < 9000:
        answered += len(held.recv(65536))";

#[test]
fn connections_show_whether_they_are_accelerated() {
    for (mode, accelerated) in [("all", true), ("off", false)] {
        let test = format!("audit-accel-{mode}");
        let daemon = Daemon::configured(&test, &format!("acceleration = '{mode}'"));
        let (pod, peer) = (Pod::new(&test, &[]), Pod::new(&format!("{test}-peer"), &[]));
        pod.link("10.1.0.1/24", &peer, "10.1.0.9/24");
        mesh(&daemon, &pod);
        let mut proxy = Process::start(&pod, &daemon, PROXY, PROXY_ANSWERS);
        assert_eq!(proxy.line(), "listening");
        let client = Process::start(&pod, &daemon, APPLICATION, CLIENT_ASKS).done();
        let listed: Connections = daemon
            .post(path::CONNECTIONS, &ConnectionsRequest { pod: None })
            .ok();
        let pid = i32::try_from(client.0.id()).ok();
        let own = (listed.connections.iter()).find(|one| one.pid == pid && !one.accepted);
        let own = own.expect("the client's connection");
        assert_eq!((&*own.path, own.accelerated), ("sidecar", accelerated));
        assert_eq!(
            own.peer.map(|peer| peer.to_string()),
            Some("10.1.0.9:80".into())
        );
        let printed = daemon.ask(&["connections"]);
        let line = printed
            .lines()
            .find(|line| line.contains("-> ") && line.contains("sidecar"));
        let column = if accelerated { " yes " } else { " no " };
        assert!(line.is_some_and(|line| line.contains(column)), "{printed}");
    }
}

/// The figures in docs/operations.md come from a release build.
#[test]
#[ignore = "opens 50,000 sockets"]
fn audit_judges_50_000_sockets_in_time() {
    const PROCESSES: usize = 10;
    const CONNECTIONS: usize = 2500;
    const AUDITS: u32 = 5;
    let daemon = Daemon::start("audit-many");
    let (pod, _peer, _proxy) = pair(&daemon, "audit-many");
    mesh(&daemon, &pod);
    let many = format!(
        "
import resource
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
server = socket.create_server(('127.0.0.1', 0), backlog=128)
held = []
for _ in range({CONNECTIONS}):
    held.append(socket.create_connection(server.getsockname()))
    held.append(server.accept()[0])"
    );
    let start = |_| Process::start(&pod, &daemon, APPLICATION, &many);
    let processes: Vec<_> = (0..PROCESSES).map(start).collect();
    let _processes: Vec<_> = processes.into_iter().map(Process::done).collect();
    let cpu = || {
        let page = daemon.get(path::METRICS).body;
        let line = page
            .lines()
            .find_map(|line| line.strip_prefix("process_cpu_seconds_total "));
        line.unwrap().parse::<f64>().unwrap()
    };
    let before = cpu();
    let mut times: Vec<_> = (0..AUDITS)
        .map(|_| {
            let found = audit(&daemon, false);
            assert_eq!(found.findings, []);
            assert!(found.connections >= 2 * (PROCESSES * CONNECTIONS) as u64);
            found.millis
        })
        .collect();
    times.sort_unstable();
    let cpu = (cpu() - before) * 1000.0 / f64::from(AUDITS);
    println!("milliseconds: {times:?}, CPU time of one: {cpu:.0}");
    assert!(times[0] < 300 || cfg!(debug_assertions), "{times:?}");
}
