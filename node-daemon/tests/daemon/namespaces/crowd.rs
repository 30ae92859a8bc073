//! Many namespaces that no runtime reported, with listeners on the proxy's ports and the address of a
//! pending Pod.

use std::{
    thread,
    time::{Duration, Instant},
};

use sluice_api::{AddResponse, Status, path};

use super::{INJECTED, UID, await_list, foreign_process::ForeignProcess};
use crate::{
    api_server::{ApiServer, pod},
    node::{Daemon, Pod},
    pods::add,
    wait,
};

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

/// The pause before each request: the requests cover the whole time in which the crowd connects.
const PAUSE: Duration = Duration::from_millis(15);

/// The sorted durations of a request, in microseconds.
pub(crate) fn times(count: usize, mut ask: impl FnMut()) -> Vec<u128> {
    let mut times: Vec<_> = (0..count)
        .map(|_| {
            thread::sleep(PAUSE);
            let begin = Instant::now();
            ask();
            begin.elapsed().as_micros()
        })
        .collect();
    times.sort_unstable();
    times
}

/// Sorted durations of requests, in microseconds.
struct Times {
    status: Vec<u128>,
    /// An ADD and its DEL.
    add: Vec<u128>,
}

impl Times {
    fn measure(daemon: &Daemon, home: &Pod) -> Self {
        let status = times(200, || {
            assert_eq!(daemon.get(path::STATUS).status, 200);
        });
        let request = add("a", &home.path(), &["10.2.0.1"]);
        let add = times(100, || {
            assert!(daemon.post(path::ADD, &request).ok::<AddResponse>().meshed);
            assert_eq!(daemon.post(path::DEL, &request.attachment).status, 200);
        });
        Self { status, add }
    }

    fn add_median(&self) -> u128 {
        self.add[self.add.len() / 2]
    }

    fn status_median(&self) -> u128 {
        self.status[self.status.len() / 2]
    }

    /// The 99th percentile.
    fn status_p99(&self) -> u128 {
        self.status[self.status.len() * 99 / 100 - 1]
    }
}

/// The cost of a crowd.
struct Cost {
    before: Times,
    during: Times,
    /// Log lines about the crowd, and the time in which the daemon wrote them.
    lines: Vec<String>,
    duration: Duration,
}

impl Cost {
    fn print(&self, count: usize) {
        let Self {
            before,
            during,
            lines,
            duration,
        } = self;
        eprintln!(
            "{count} namespaces, {duration:?}: status {} µs at the median, {} µs at the 99th percentile, \
             before {} and {} µs; ADD and DEL {} µs, {} µs before; {} lines\n{lines:#?}",
            during.status_median(),
            during.status_p99(),
            before.status_median(),
            before.status_p99(),
            during.add_median(),
            before.add_median(),
            lines.len(),
        );
    }
}

/// Connects from many unprivileged namespaces with a pending Pod's address.
fn crowd(test: &str, count: usize) -> Cost {
    let mut listed = pod("cart", &["10.1.0.1"], &[INJECTED]);
    listed["metadata"]["uid"] = UID.into();
    let server = ApiServer::start(vec![listed]);
    let files = tempfile::tempdir().unwrap();
    let config = server.kubeconfig(files.path(), "first");
    let mut daemon = Daemon::configured(test, &config);
    let log = daemon.log();
    let home = Pod::new(test, &["10.2.0.1/24"]);
    let before = Times::measure(&daemon, &home);
    await_list(&daemon);
    // A user namespace for each, so a user whose limit allows that many.
    let alone = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups"];
    let join = ["sh", "-c", "echo 0 >\"$0\"; exec \"$@\""];
    let members = daemon.members();
    let who = [&join[..], &[&*members], &alone].concat();
    let mut crowd = ForeignProcess::start(&who, CROWD, &count.to_string());
    let logged = log.lines().len();
    let begin = Instant::now();
    crowd.proceed();
    let during = Times::measure(&daemon, &home);
    assert_eq!(crowd.line(), "connected\n");
    let mut lines = log.lines().split_off(logged);
    lines.retain(|line| !line.contains("pod added") && !line.contains("attachment deleted"));
    let cost = Cost {
        before,
        during,
        lines,
        duration: begin.elapsed(),
    };
    cost.print(count);
    // No entries of theirs stay in the kernel.
    wait::until(
        || daemon.processes() <= 1,
        || format!("{} entries stay", daemon.processes()),
    );
    assert_eq!(daemon.get(path::STATUS).ok::<Status>().pending_pods, 1);
    crowd.proceed();
    crowd.wait();
    cost
}

#[test]
fn crowd_of_foreign_namespaces_slows_nothing_down() {
    let cost = crowd("crowd", 300);
    // Tests run in parallel, and the crowd itself uses the CPUs.
    let [before, during] = [&cost.before, &cost.during].map(Times::status_p99);
    assert!(
        during < 100_000.max(10 * before),
        "status takes {during} µs"
    );
    assert!(cost.lines.len() <= 40, "{} lines", cost.lines.len());
}

/// `SLUICE_NAMESPACES` sets the number. The limits hold for a release build on an idle machine.
#[test]
#[ignore = "needs memory for 5,000 processes, and an idle machine: make crowd"]
fn crowd_of_five_thousand_namespaces_slows_nothing_down() {
    let count = std::env::var("SLUICE_NAMESPACES").map_or(5000, |text| text.parse().unwrap());
    let cost = crowd("crowd-long", count);
    let p99 = cost.during.status_p99();
    assert!(p99 <= 100_000, "status takes {p99} µs");
    let [before, during] = [&cost.before, &cost.during].map(Times::add_median);
    assert!(2 * during <= 3 * before, "ADD {during} µs, {before} before");
    let minutes = cost.duration.as_secs().div_ceil(60).max(1);
    let lines = cost.lines.len();
    assert!(lines as u64 <= 100 * minutes, "{lines} lines");
}
