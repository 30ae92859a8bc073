//! Tests of network namespaces that another user owns: the owner's power over the daemon, and the
//! evidence that the daemon accepts.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use sluice_api::{AddResponse, PodView, Status, code, path};

use crate::{
    api_server::{ApiServer, pod},
    hardening::READ_ONLY,
    node::{Daemon, Pod},
    pods::add,
};

const INJECTED: (&str, &str) = ("sidecar.istio.io/status", "{}");
const UID: &str = "8c26f6c5-6b8c-4a0e-9d3b-0f3f4b4cfa11";
const PATIENCE: Duration = Duration::from_secs(10);

/// A local user without privileges, who owns a user namespace and its network namespace.
const USER: [&str; 10] = [
    "setpriv",
    "--reuid=1337",
    "--regid=1337",
    "--clear-groups",
    "unshare",
    "--user",
    "--map-user=1337",
    "--map-group=1337",
    "--keep-caps",
    "--net",
];

/// Root of a container: user 0 with one of the default capabilities of runtimes, which is needed to
/// map that user, and with all capabilities in its own namespaces.
const CONTAINER_ROOT: [&str; 7] = [
    "setpriv",
    "--bounding-set=-all,+setfcap",
    "--inh-caps=-all",
    "unshare",
    "--user",
    "--map-root-user",
    "--net",
];

/// An interface with an address, and listeners on the proxy's ports.
const PRETENDER: &str = "
import socket, subprocess, time
for words in ('link add eth0 type veth peer name far0', 'link set eth0 up', 'link set lo up',
              'address add 10.1.0.1/24 dev eth0'):
    subprocess.run(['ip', *words.split()], check=True)
held = [socket.create_server(('0.0.0.0', port)) for port in (15001, 15006)]
print('ready', flush=True)
input()
";

/// Attacks the daemon's threads and children in a loop, until it is stopped.
const ATTACK: &str = "
import ctypes, os, select, subprocess, sys
DAEMON = int(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
PIDFD_OPEN, PIDFD_GETFD, PTRACE_SEIZE, PTRACE_DETACH = 434, 438, 0x4206, 17

def targets():
    found = []
    for task in os.listdir(f'/proc/{DAEMON}/task'):
        found.append(int(task))
        try:
            with open(f'/proc/{DAEMON}/task/{task}/children') as children:
                found += map(int, children.read().split())
        except OSError:
            pass
    return found

def take(pid):
    got = 0
    for open_it in (lambda: os.open(f'/proc/{pid}/root/', os.O_RDONLY),
                    lambda: os.open(f'/proc/{pid}/cwd/', os.O_RDONLY),
                    lambda: os.open(f'/proc/{pid}/mem', os.O_RDONLY),
                    lambda: os.open(f'/proc/{pid}/environ', os.O_RDONLY),
                    lambda: os.open(f'/proc/{pid}/ns/mnt', os.O_RDONLY),
                    lambda: os.open(f'/proc/{pid}/fd/0', os.O_RDONLY | os.O_NONBLOCK)):
        try:
            os.close(open_it())
            got += 1
        except OSError:
            pass
    pidfd = libc.syscall(PIDFD_OPEN, pid, 0)
    if pidfd >= 0:
        for number in range(16):
            fd = libc.syscall(PIDFD_GETFD, pidfd, number, 0)
            if fd >= 0:
                os.close(fd)
                got += 1
        os.close(pidfd)
    if libc.ptrace(PTRACE_SEIZE, pid, 0, 0) == 0:
        libc.ptrace(PTRACE_DETACH, pid, 0, 0)
        got += 1
    return got

for words in ('link add eth0 type veth peer name far0', 'link set eth0 up',
              'address add 10.1.0.1/24 dev eth0'):
    subprocess.run(['ip', *words.split()], check=True)
tried = obtained = 0
print('ready', flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    for pid in targets():
        tried += 1
        obtained += take(pid)
print(tried, obtained, flush=True)
";

/// Many namespaces, each with a process, listeners and the address of a pending Pod; then each
/// connects once. The namespaces stay until the program is stopped.
const CROWD: &str = "
import ctypes, fcntl, os, socket, struct, sys, time
COUNT, USER, NET = int(sys.argv[1]), 0x10000000, 0x40000000
libc = ctypes.CDLL(None, use_errno=True)

def live():
    if libc.unshare(USER) or libc.unshare(NET):
        os._exit(1)
    probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    address = struct.pack('HH4s8x', socket.AF_INET, 0, socket.inet_aton('10.1.0.1'))
    fcntl.ioctl(probe, 0x8916, struct.pack('16s16s', b'lo', address))
    fcntl.ioctl(probe, 0x8914, struct.pack('16sH', b'lo', 0x41))
    held = [socket.create_server(('0.0.0.0', port)) for port in (15001, 15006)]
    os.write(done, b'.')
    os.read(begin, 1)
    try:
        socket.socket().connect(('10.1.0.9', 80))
    except OSError:
        pass
    os.write(done, b'.')
    os.read(end, 1)
    os._exit(0)

begin, start = os.pipe()
end, finish = os.pipe()
ended, done = os.pipe()
for _ in range(COUNT):
    if os.fork() == 0:
        os.close(start), os.close(finish)
        live()
for _ in range(COUNT):
    os.read(ended, 1)
print('ready', flush=True)
input()
for _ in range(COUNT):
    os.write(start, b'.')
    time.sleep(0.001)
for _ in range(COUNT):
    os.read(ended, 1)
print('connected', flush=True)
input()
os.close(finish)
";

/// A program of an unprivileged user.
struct Stranger {
    process: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Stranger {
    fn start(who: &[&str], program: &str, argument: &str) -> Self {
        let mut process = Command::new(who[0])
            .args(&who[1..])
            .args(["/usr/bin/python3", "-c", program, argument])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3");
        let output = BufReader::new(process.stdout.take().expect("its output"));
        let mut stranger = Self { process, output };
        assert_eq!(stranger.line(), "ready\n");
        stranger
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("its output");
        line
    }

    fn proceed(&mut self) {
        let stdin = self.process.stdin.as_mut().expect("its input");
        stdin.write_all(b"\n").expect("its input");
    }

    fn netns(&self) -> String {
        format!("/proc/{}/ns/net", self.process.id())
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// Starts the daemon with the security context of the chart: a read-only root directory, the four
/// capabilities, and no new privileges.
fn confined() -> Vec<&'static str> {
    let context = [
        "setpriv",
        "--no-new-privs",
        "--inh-caps=-all",
        "--bounding-set=-all,+dac_read_search,+net_admin,+sys_admin,+sys_ptrace",
    ];
    [&READ_ONLY[..], &context].concat()
}

fn pods(daemon: &Daemon) -> Vec<PodView> {
    daemon.get(path::PODS).ok()
}

/// Lets the owner of a user namespace attack the daemon while the daemon works on that namespace.
fn attack(launcher: &[&str], test: &str, rounds: usize) {
    let mut daemon = Daemon::launched(launcher, test, "");
    // Each rejection is logged: a full pipe would block the daemon.
    let _drained = daemon.log();
    let mut stranger = Stranger::start(&CONTAINER_ROOT, ATTACK, &daemon.pid().to_string());
    daemon.move_below(stranger.process.id(), "");
    let request = add("a", &stranger.netns(), &["10.1.0.1"]);
    for _ in 0..rounds {
        // The user namespace maps one user, so the proxy's user is unmapped.
        let api_error = daemon.post(path::ADD, &request).api_error(422);
        assert_eq!(api_error.code, code::POD_REFUSED, "{api_error:?}");
    }
    stranger.proceed();
    let line = stranger.line();
    let numbers: Vec<usize> = line
        .split_whitespace()
        .map(|n| n.parse().unwrap())
        .collect();
    let (tried, obtained) = (numbers[0], numbers[1]);
    eprintln!("{tried} tries, {obtained} obtained");
    assert!(tried >= rounds, "{tried}");
    assert_eq!(obtained, 0, "of {tried} tries");
}

#[test]
fn namespace_owner_obtains_nothing_of_the_daemon() {
    attack(&[], "attack", 100);
}

#[test]
fn namespace_owner_obtains_nothing_of_a_confined_daemon() {
    attack(&confined(), "attack-confined", 100);
}

#[test]
#[ignore = "takes a minute"]
fn namespace_owner_obtains_nothing_in_a_thousand_rounds() {
    attack(&[], "attack-long", 1000);
}

#[test]
#[ignore = "takes a minute"]
fn namespace_owner_obtains_nothing_of_a_confined_daemon_in_a_thousand_rounds() {
    attack(&confined(), "attack-confined-long", 1000);
}

#[test]
fn namespace_of_another_user_is_never_a_pod() {
    let mut daemon = Daemon::start("pretender");
    let stranger = Stranger::start(&USER, PRETENDER, "");
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
fn process_of_a_pod_is_not_the_pod_in_a_namespace_of_its_own() {
    let mut listed = pod("cart", &["10.1.0.1"], &[INJECTED]);
    listed["metadata"]["uid"] = UID.into();
    let server = ApiServer::start(vec![listed]);
    let files = tempfile::tempdir().unwrap();
    let config = server.kubeconfig(files.path(), "first");
    let mut daemon = Daemon::configured("nested", &config);
    let stranger = Stranger::start(&USER, PRETENDER, "");
    daemon.move_below(stranger.process.id(), &format!("kubepods/pod{UID}"));
    daemon.crash();
    daemon.restart();
    let end = Instant::now() + PATIENCE;
    while daemon.get(path::STATUS).ok::<Status>().pending_pods == 0 {
        assert!(Instant::now() < end, "the list does not come");
        sleep(Duration::from_millis(5));
    }
    assert_eq!(pods(&daemon), []);
}

#[test]
fn kubelets_cgroup_decides_where_there_is_a_kubelet() {
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
fn namespace_without_address_and_process_gives_its_address_up() {
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

/// The sorted durations of a request, in microseconds.
pub(crate) fn times(count: usize, mut ask: impl FnMut()) -> Vec<u128> {
    let mut times: Vec<_> = (0..count)
        .map(|_| {
            let begin = Instant::now();
            ask();
            begin.elapsed().as_micros()
        })
        .collect();
    times.sort_unstable();
    times
}

/// Connects from many unprivileged namespaces with a pending Pod's address.
fn crowd(test: &str, count: usize) {
    let mut listed = pod("cart", &["10.1.0.1"], &[INJECTED]);
    listed["metadata"]["uid"] = UID.into();
    let server = ApiServer::start(vec![listed]);
    let files = tempfile::tempdir().unwrap();
    let config = server.kubeconfig(files.path(), "first");
    let mut daemon = Daemon::configured(test, &config);
    let log = daemon.log();
    let home = Pod::new(test, &["10.2.0.1/24"]);
    let add = |daemon: &Daemon| {
        let request = add("a", &home.path(), &["10.2.0.1"]);
        times(100, || {
            assert!(daemon.post(path::ADD, &request).ok::<AddResponse>().meshed);
            assert_eq!(daemon.post(path::DEL, &request.attachment).status, 200);
        })
    };
    let ask = |daemon: &Daemon| {
        times(200, || {
            assert_eq!(daemon.get(path::STATUS).status, 200);
        })
    };
    let (before, status_before) = (add(&daemon), ask(&daemon));
    let end = Instant::now() + PATIENCE;
    while daemon.get(path::STATUS).ok::<Status>().pending_pods == 0 {
        assert!(Instant::now() < end, "the list does not come");
        sleep(Duration::from_millis(5));
    }
    // A user namespace for each, so a user whose limit allows that many.
    let alone = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups"];
    let join = ["sh", "-c", "echo 0 >\"$0\"; exec \"$@\""];
    let members = daemon.members();
    let who = [&join[..], &[&*members], &alone].concat();
    let mut crowd = Stranger::start(&who, CROWD, &count.to_string());
    let lines = log.lines().len();
    let begin = Instant::now();
    crowd.proceed();
    let status = ask(&daemon);
    let during = add(&daemon);
    assert_eq!(crowd.line(), "connected\n");
    let written = log.lines().split_off(lines);
    let strange: Vec<_> = (written.iter())
        .filter(|line| !line.contains("pod added") && !line.contains("attachment deleted"))
        .collect();
    let (p99, median) = (status[197], |times: &[u128]| times[times.len() / 2]);
    eprintln!(
        "{count} namespaces, {:?}: status {} µs at the median, {p99} µs at the 99th percentile, \
         before {} and {} µs; ADD and DEL {} µs, {} µs before; {} lines\n{strange:#?}",
        begin.elapsed(),
        median(&status),
        median(&status_before),
        status_before[197],
        median(&during),
        median(&before),
        strange.len(),
    );
    // Tests run in parallel, and the crowd itself uses the CPUs.
    let limit = 100_000.max(10 * status_before[197]);
    assert!(p99 < limit, "status takes {p99} µs");
    assert!(strange.len() <= 40, "{strange:#?}");
    // No entries of theirs stay in the kernel.
    let end = Instant::now() + PATIENCE;
    while daemon.processes() > 1 {
        assert!(Instant::now() < end, "{} entries stay", daemon.processes());
        sleep(Duration::from_millis(50));
    }
    assert_eq!(daemon.get(path::STATUS).ok::<Status>().pending_pods, 1);
    crowd.proceed();
    let mut rest = String::new();
    drop(crowd.output.read_to_string(&mut rest));
}

#[test]
fn crowd_of_strange_namespaces_slows_nothing_down() {
    crowd("crowd", 300);
}

#[test]
#[ignore = "needs memory for 5,000 processes"]
fn crowd_of_five_thousand_namespaces_slows_nothing_down() {
    crowd("crowd-long", 5000);
}
