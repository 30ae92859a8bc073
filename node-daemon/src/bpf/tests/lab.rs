//! Namespaces and a cgroup for the kernel tests. A namespace is a thread that has unshared it:
//! when the thread ends, nothing is left.

use std::{
    fs::{self, File},
    net::{IpAddr, TcpListener},
    os::fd::AsFd as _,
    path::PathBuf,
    process::Command,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, unshare};
use sluice_abi::{NetnsEntry, PodConfig, PodFlags, Port, PortBitmap, PortList, PortPrefix};

use crate::bpf::{Datapath, Pins, PrivateBpffs, Rule, kernel_offsets};

/// Longest wait for anything. Only what fails takes so long; an emulated machine needs much of it.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// A user that is not the proxy.
pub(super) const APP: u32 = 1000;
/// The proxy's user.
pub(super) const PROXY: u32 = 1337;

/// Stands for a cookie that is not known.
pub(super) const PROVISIONAL: u64 = 1 << 63;

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace, and the thread that lives in it.
pub(super) struct Netns {
    jobs: mpsc::Sender<Job>,
    path: PathBuf,
}

impl Netns {
    pub(super) fn new() -> Self {
        let (jobs, inbox) = mpsc::channel::<Job>();
        let (ready, started) = mpsc::channel();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("the kernel tests need root");
            ready.send(nix::unistd::gettid()).unwrap();
            while let Ok(job) = inbox.recv() {
                job();
            }
        });
        let tid = started.recv().expect("the kernel tests need root");
        let path = format!("/proc/{}/task/{tid}/ns/net", std::process::id()).into();
        let netns = Self { jobs, path };
        netns.run(|| ip("link set lo up"));
        netns
    }

    /// Runs `work` inside.
    pub(super) fn run<R: Send + 'static>(&self, work: impl FnOnce() -> R + Send + 'static) -> R {
        let (send, result) = mpsc::channel();
        self.jobs
            .send(Box::new(move || {
                let _gone = send.send(work());
            }))
            .unwrap();
        result
            .recv()
            .expect("the work inside the namespace panicked")
    }

    /// Runs `work` inside as a user and its group.
    pub(super) fn run_as<R: Send + 'static>(
        &self,
        id: u32,
        work: impl FnOnce() -> R + Send + 'static,
    ) -> R {
        self.run(move || {
            become_user(id);
            let result = work();
            become_user(0);
            result
        })
    }

    pub(super) fn cookie(&self) -> u64 {
        self.run(|| {
            let socket = TcpListener::bind("127.0.0.1:0").unwrap();
            netns_cookie(&socket)
        })
    }

    fn tid(&self) -> String {
        self.path
            .iter()
            .nth(4)
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned()
    }
}

/// Changes the calling thread's user and group, keeping root as the saved ids. The C library's
/// functions would change every thread.
fn become_user(id: u32) {
    for call in [libc::SYS_setresgid, libc::SYS_setresuid] {
        // The saved user is root: that is the permission for the way back.
        // SAFETY: takes three numbers.
        assert_eq!(unsafe { libc::syscall(call, id, id, 0) }, 0);
    }
}

pub(super) fn ip(arguments: &str) {
    let status = Command::new("ip")
        .args(arguments.split(' '))
        .status()
        .unwrap();
    assert!(status.success(), "ip {arguments}");
}

/// A Pod and the rest of the world, joined by a veth pair.
pub(super) struct Lab {
    pub(super) pod: Netns,
    pub(super) world: Netns,
    pub(super) datapath: Datapath,
    pub(super) cookie: u64,
    pub(super) pins: PrivateBpffs,
    pub(super) cgroup: Arc<Cgroup>,
}

/// Addresses of the Pod.
pub(super) const POD: [&str; 2] = ["10.77.0.2", "fd77::2"];
/// Addresses of the world.
pub(super) const WORLD: [&str; 2] = ["10.77.0.1", "fd77::1"];

impl Lab {
    /// The Pod is meshed.
    pub(super) fn meshed() -> Self {
        let mut lab = Self::bare();
        lab.enroll();
        lab
    }

    /// The Pod is not known to the data path.
    pub(super) fn bare() -> Self {
        Self::at(POD, WORLD)
    }

    /// The same, with these addresses.
    pub(super) fn at(pod_at: [&'static str; 2], world_at: [&'static str; 2]) -> Self {
        let (pod, world) = (Netns::new(), Netns::new());
        let other = world.tid();
        pod.run(move || {
            ip(&format!(
                "link add eth0 type veth peer name eth0 netns {other}"
            ));
            configure(&pod_at);
        });
        world.run(move || configure(&world_at));
        let cookie = pod.cookie();
        let cgroup = Cgroup::shared();
        let private = PrivateBpffs::mount().expect("a BPF file system");
        let datapath = open(&private, &cgroup, true);
        Self {
            pod,
            world,
            datapath,
            cookie,
            pins: private,
            cgroup,
        }
    }

    /// What the daemon does at an admit.
    pub(super) fn enroll(&mut self) {
        self.enroll_with(PodFlags::default());
    }

    /// The same, with these flags.
    pub(super) fn enroll_with(&mut self, flags: PodFlags) {
        self.insert_entries(self.cookie, &POD, flags);
        let netns = File::open(&self.pod.path).unwrap();
        self.datapath
            .attach_sk_lookup(self.cookie, netns.as_fd())
            .unwrap();
    }

    /// Makes the world a meshed Pod, too.
    pub(super) fn enroll_world(&mut self, flags: PodFlags) {
        let cookie = self.world.cookie();
        self.insert_entries(cookie, &WORLD, flags);
        let netns = File::open(&self.world.path).unwrap();
        self.datapath
            .attach_sk_lookup(cookie, netns.as_fd())
            .unwrap();
    }

    /// The Pod is known by its addresses alone.
    pub(super) fn add_pending(&mut self, at: [&str; 2]) {
        self.insert_entries(PROVISIONAL, &at, PodFlags::CIDR_EXCLUDES);
        self.datapath.set_pending_pods(&[7, PROVISIONAL]).unwrap();
    }

    fn insert_entries(&mut self, cookie: u64, addresses: &[&str; 2], flags: PodFlags) {
        let pod = PodConfig {
            cookie,
            proxy_uid: PROXY,
            proxy_gid: PROXY,
            outbound_port: Port::new(15001),
            inbound_port: Port::new(15006),
            dns_port: Port::new(15053),
            hbone_port: Port::new(15008),
            mark: 0,
            mark_mask: 0,
            excluded: PortBitmap::FULL,
            flags,
        };
        let [v4, v6] = addresses.map(|text| text.parse::<IpAddr>().unwrap().into());
        for addr in [v4, v6] {
            self.datapath.set_address(addr, &pod).unwrap();
        }
        let process = NetnsEntry { v4, v6, pod };
        self.datapath.set_netns_entry(cookie, &process).unwrap();
    }

    /// Another daemon takes over.
    pub(super) fn restart(self) -> Self {
        self.restart_as(true)
    }

    /// Likewise; sockets of the node may be accelerated, or may not.
    pub(super) fn restart_as(self, accel: bool) -> Self {
        drop(self.datapath);
        Self {
            datapath: open(&self.pins, &self.cgroup, accel),
            ..self
        }
    }

    /// The data path ends, as `sluiced detach` ends it.
    pub(super) fn end(self) -> [Netns; 2] {
        self.datapath.into_pins().remove_all().unwrap();
        [self.pod, self.world]
    }

    /// How many hooks a program has.
    pub(super) fn hooks(&self, program: &str) -> usize {
        self.hooks_if_any(program).unwrap()
    }

    /// The same of a program that need not be there.
    pub(super) fn hooks_if_any(&self, program: &str) -> Option<usize> {
        let programs = self.datapath.programs().unwrap();
        let found = programs.iter().find(|one| one.name == program);
        found.map(|one| one.attach_count)
    }

    /// Lists something of the Pod.
    pub(super) fn list(&mut self, entries: impl Iterator<Item = Rule>) {
        for rule in entries.map(|rule| of(self.cookie, rule)) {
            self.datapath.add_rule(&rule).unwrap();
        }
    }

    /// How often a reason decided.
    pub(super) fn count(&self, reason: sluice_abi::Reason) -> u64 {
        let counters = self.datapath.counters().unwrap();
        counters.iter().find(|(one, _)| *one == reason).unwrap().1
    }
}

fn open(private: &PrivateBpffs, cgroup: &Cgroup, accel: bool) -> Datapath {
    let pins = Pins::open(&private.directory()).expect("a directory for pins");
    let kernel_offsets = accel.then(|| kernel_offsets().expect("this kernel's layout"));
    Datapath::open(pins, &cgroup.path, kernel_offsets).expect("the programs load")
}

fn configure(addresses: &[&str; 2]) {
    ip("link set eth0 up");
    ip(&format!("addr add {}/24 dev eth0", addresses[0]));
    ip(&format!("addr add {}/64 dev eth0 nodad", addresses[1]));
}

fn netns_cookie(socket: &TcpListener) -> u64 {
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let (mut cookie, mut length) = (0_u64, 8);
    // SAFETY: the buffer is 8 bytes, as `length` says.
    let status = unsafe {
        libc::getsockopt(
            std::os::fd::AsRawFd::as_raw_fd(socket),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    assert_eq!(status, 0);
    cookie
}

/// Waits until the kernel has done what it does in its own time.
pub(super) fn await_that(mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "it does not happen");
        thread::sleep(Duration::from_millis(2));
    }
}

/// The entries of a range of ports, of nobody yet.
pub(super) fn port(list: PortList, low: u16, high: u16) -> impl Iterator<Item = Rule> {
    let mut next = Some(low);
    std::iter::from_fn(move || {
        let (prefix, after) = PortPrefix::split_first(0, list, next?, high);
        next = after;
        Some(Rule::Port(prefix))
    })
}

/// An entry as a Pod's.
fn of(cookie: u64, mut rule: Rule) -> Rule {
    match &mut rule {
        Rule::Port(prefix) => prefix.key.cookie = cookie,
        Rule::IncludeCidr(prefix)
        | Rule::ExcludeCidr(prefix)
        | Rule::BypassCidr(prefix)
        | Rule::Prefsrc(prefix, _) => prefix.key.cookie = cookie,
        Rule::ExcludeInterface(key) => key.cookie = cookie,
    }
    rule
}

/// How long a test waits for a connection that must come.
pub(super) const SOON: Duration = PATIENCE;
/// How long a test waits for a connection that must not come.
pub(super) const NEVER: Duration = Duration::from_millis(100);

/// A cgroup of this test process, shared by the tests that run at the same time.
pub(super) struct Cgroup {
    path: PathBuf,
    before: PathBuf,
}

static SHARED: Mutex<Weak<Cgroup>> = Mutex::new(Weak::new());
/// Tells the cgroups of one test process apart.
static NUMBER: AtomicU32 = AtomicU32::new(0);

impl Cgroup {
    fn shared() -> Arc<Self> {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cgroup) = shared.upgrade() {
            return cgroup;
        }
        let cgroup = Arc::new(Self::enter());
        *shared = Arc::downgrade(&cgroup);
        cgroup
    }

    fn enter() -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mount = mounts
            .lines()
            .find(|line| line.contains(" - cgroup2 "))
            .expect("cgroup2");
        let root = PathBuf::from(mount.split(' ').nth(4).unwrap());
        let mine = fs::read_to_string("/proc/self/cgroup").unwrap();
        let mine = mine
            .lines()
            .find_map(|line| line.strip_prefix("0::/"))
            .unwrap();
        let before = root.join(mine);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = root.join(format!(
            "sluice-kernel-tests-{}-{number}",
            std::process::id()
        ));
        fs::create_dir(&path).expect("the kernel tests need root");
        fs::write(path.join("cgroup.procs"), "0").unwrap();
        Self { path, before }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        let _best = fs::write(self.before.join("cgroup.procs"), "0");
        // A child that another test has just forked may still be there.
        let end = Instant::now() + PATIENCE;
        while fs::remove_dir(&self.path).is_err() && Instant::now() < end {
            thread::sleep(Duration::from_millis(2));
        }
    }
}
