//! A Pod, its world and a cgroup for the kernel tests.

use std::{
    fs::{self, File},
    net::IpAddr,
    os::fd::AsFd as _,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use sluice_abi::{
    NetnsEntry, OwnAddrKey, PodConfig, PodFlags, Port, PortBitmap, PortList, PortPrefix,
};

pub(super) use super::netns::{Netns, add_ipv6, await_local, ip};
use crate::{
    bpf::{Datapath, Options, Pins, PrivateBpffs, RawSockets, Rule, kernel_offsets},
    netns::{Families, SourceRouting},
};

/// Maximum wait of a test. Only a failure takes so long; an emulated machine needs a large part.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// A user that is not the proxy.
pub(super) const APP: u32 = 1000;
/// The proxy's user.
pub(super) const PROXY: u32 = 1337;

/// The user of a container that validates the redirection.
pub(super) const VALIDATOR: u32 = 65_534;

/// A provisional cookie.
pub(super) const PROVISIONAL: u64 = 1 << 63;

/// A Pod and an outside host (the world), connected by a veth pair.
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

    /// The Pod is not in the maps.
    pub(super) fn bare() -> Self {
        Self::at(POD, WORLD)
    }

    /// A bare lab with these addresses.
    pub(super) fn at(pod_at: [&'static str; 2], world_at: [&'static str; 2]) -> Self {
        Self::with(pod_at, world_at, |_| options(true))
    }

    /// The world is the node, whose connections pass to Pods with the flag.
    pub(super) fn bypassing_node(flags: PodFlags) -> Self {
        let mut lab = Self::with(POD, WORLD, bypassed_by);
        lab.enroll_with(flags);
        lab
    }

    fn with(
        pod_at: [&'static str; 2],
        world_at: [&'static str; 2],
        options: impl FnOnce(&Netns) -> Options,
    ) -> Self {
        let (pod, world) = (Netns::new(), Netns::new());
        let other = world.tid();
        pod.run(move || {
            ip(&format!(
                "link add eth0 type veth peer name eth0 netns {other}"
            ));
            configure(&pod_at);
        });
        world.run(move || configure(&world_at));
        // The links have a carrier when both ends are up.
        for (netns, [_, address]) in [(&pod, pod_at), (&world, world_at)] {
            netns.run(move || await_local(address));
        }
        let cookie = pod.cookie();
        let cgroup = Cgroup::shared();
        let private = PrivateBpffs::mount().expect("a BPF file system");
        let datapath = open(&private, &cgroup, options(&world));
        Self {
            pod,
            world,
            datapath,
            cookie,
            pins: private,
            cgroup,
        }
    }

    /// Enrolls the Pod, as the daemon does.
    pub(super) fn enroll(&mut self) {
        self.enroll_with(PodFlags::default());
    }

    /// Enrolls the Pod with these flags.
    pub(super) fn enroll_with(&mut self, flags: PodFlags) {
        self.insert_entries(self.cookie, &POD, flags);
        let netns = File::open(self.pod.path()).unwrap();
        self.datapath
            .attach_sk_lookup(self.cookie, netns.as_fd())
            .unwrap();
    }

    /// Lets the Pod's proxy keep its clients' addresses, as the daemon does. A mark other than zero
    /// identifies the proxy.
    pub(super) fn keep_source(&mut self, source_mark: u32, proxy_mark: u32) {
        let mut entry = self.datapath.netns_entry(self.cookie).unwrap().unwrap();
        entry.pod.source_mark = source_mark;
        entry.pod.mark = proxy_mark;
        entry.pod.mark_mask = if proxy_mark == 0 { 0 } else { u32::MAX };
        self.datapath.set_netns_entry(self.cookie, &entry).unwrap();
        let netns = crate::netns::Netns::open(self.pod.path()).unwrap();
        let families = Families { v4: true, v6: true };
        let routing = SourceRouting {
            mark: source_mark,
            families,
            switches: netns.switches_off(families).unwrap(),
        };
        netns.install_source_routing(routing).unwrap();
    }

    /// Enrolls the world as a meshed Pod, too.
    pub(super) fn enroll_world(&mut self, flags: PodFlags) {
        let cookie = self.world.cookie();
        self.insert_entries(cookie, &WORLD, flags);
        let netns = File::open(self.world.path()).unwrap();
        self.datapath
            .attach_sk_lookup(cookie, netns.as_fd())
            .unwrap();
    }

    /// Adds the Pod as a pending Pod, of which only the addresses are known.
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
            source_mark: 0,
            validator_uid: VALIDATOR,
            loopback_net: 0,
            loopback_mask: 0,
            flags,
        };
        let [v4, v6] = addresses.map(|text| text.parse::<IpAddr>().unwrap().into());
        for addr in [v4, v6] {
            self.datapath.set_address(addr, &pod).unwrap();
        }
        let process = NetnsEntry { v4, v6, pod };
        self.datapath.set_netns_entry(cookie, &process).unwrap();
    }

    /// Another daemon adopts the pins.
    pub(super) fn restart(self) -> Self {
        self.restart_as(true)
    }

    /// Another daemon adopts the pins, with or without acceleration.
    pub(super) fn restart_as(self, accel: bool) -> Self {
        self.restart_with(options(accel))
    }

    /// Another daemon adopts the pins; the world is the node.
    pub(super) fn restart_bypassing_node(self) -> Self {
        let options = bypassed_by(&self.world);
        self.restart_with(options)
    }

    /// Another daemon, which denies raw sockets, adopts the pins.
    pub(super) fn restart_without_raw_sockets(self) -> Self {
        self.restart_with(Options {
            raw_sockets: RawSockets::Deny,
            ..options(true)
        })
    }

    fn restart_with(self, options: Options) -> Self {
        drop(self.datapath);
        Self {
            datapath: open(&self.pins, &self.cgroup, options),
            ..self
        }
    }

    /// Removes the data path, as `sluiced detach`.
    pub(super) fn end(self) -> [Netns; 2] {
        self.datapath.into_pins().remove_all().unwrap();
        [self.pod, self.world]
    }

    /// The number of hooks of a program.
    pub(super) fn hooks(&self, program: &str) -> usize {
        self.hooks_if_any(program).unwrap()
    }

    /// The number of hooks of a program that may not be loaded.
    pub(super) fn hooks_if_any(&self, program: &str) -> Option<usize> {
        let programs = self.datapath.programs().unwrap();
        let found = programs.iter().find(|one| one.name == program);
        found.map(|one| one.attach_count)
    }

    /// Adds rules of the Pod.
    pub(super) fn list(&mut self, entries: impl Iterator<Item = Rule>) {
        for rule in entries.map(|rule| of(self.cookie, rule)) {
            self.datapath.add_rule(&rule).unwrap();
        }
    }

    /// Lists own addresses of the Pod, as the daemon does.
    pub(super) fn own(&mut self, addresses: &[&str]) {
        let entry = |text: &&str| {
            let ip: IpAddr = text.parse().unwrap();
            Rule::OwnAddr(OwnAddrKey::new(0, ip.into()))
        };
        self.list(addresses.iter().map(entry));
        let mut entry = self.datapath.netns_entry(self.cookie).unwrap().unwrap();
        entry.pod.flags = entry.pod.flags.with(PodFlags::HAS_EXTRA_ADDRS);
        self.datapath.set_netns_entry(self.cookie, &entry).unwrap();
    }

    /// The counter of a reason.
    pub(super) fn count(&self, reason: sluice_abi::Reason) -> u64 {
        let counters = self.datapath.counters().unwrap();
        counters.iter().find(|(one, _)| *one == reason).unwrap().1
    }
}

fn options(accel: bool) -> Options {
    Options {
        kernel_offsets: accel.then(|| kernel_offsets().expect("this kernel's layout")),
        ..Options::default()
    }
}

fn bypassed_by(node: &Netns) -> Options {
    Options {
        bypassing_node: Some(node.cookie()),
        ..options(true)
    }
}

fn open(private: &PrivateBpffs, cgroup: &Cgroup, options: Options) -> Datapath {
    let pins = Pins::open(&private.directory()).expect("a directory for pins");
    Datapath::open(pins, &cgroup.path, options).expect("the programs load")
}

fn configure(addresses: &[&str; 2]) {
    ip("link set eth0 up");
    ip(&format!("addr add {}/24 dev eth0", addresses[0]));
    ip(&format!("addr add {}/64 dev eth0 nodad", addresses[1]));
}

/// Waits for an asynchronous operation of the kernel.
pub(super) fn await_that(mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "it does not happen");
        thread::sleep(Duration::from_millis(2));
    }
}

/// The rules of a port range, without a Pod.
pub(super) fn port(list: PortList, low: u16, high: u16) -> impl Iterator<Item = Rule> {
    let mut next = Some(low);
    std::iter::from_fn(move || {
        let (prefix, after) = PortPrefix::split_first(0, list, next?, high);
        next = after;
        Some(Rule::Port(prefix))
    })
}

/// A rule with the cookie of a Pod.
fn of(cookie: u64, mut rule: Rule) -> Rule {
    match &mut rule {
        Rule::Port(prefix) => prefix.key.cookie = cookie,
        Rule::IncludeCidr(prefix)
        | Rule::ExcludeCidr(prefix)
        | Rule::BypassCidr(prefix)
        | Rule::Prefsrc(prefix, _) => prefix.key.cookie = cookie,
        Rule::ExcludeInterface(key) | Rule::VirtualInterface(key) => key.cookie = cookie,
        Rule::OwnerGroup(key) => key.cookie = cookie,
        Rule::OwnAddr(key) => key.cookie = cookie,
    }
    rule
}

/// The wait for a connection that must arrive.
pub(super) const SOON: Duration = PATIENCE;
/// The wait for a connection that must not arrive.
pub(super) const NEVER: Duration = Duration::from_millis(100);

/// A cgroup of this test process, shared by concurrent tests.
pub(super) struct Cgroup {
    path: PathBuf,
    before: PathBuf,
}

static SHARED: Mutex<Weak<Cgroup>> = Mutex::new(Weak::new());
/// Numbers the cgroups of one test process.
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
        let root = sluice_testbed::mountinfo::cgroup2().unwrap();
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
        // A child process that another test has just forked may still be in the cgroup.
        let end = Instant::now() + PATIENCE;
        while fs::remove_dir(&self.path).is_err() && Instant::now() < end {
            thread::sleep(Duration::from_millis(2));
        }
    }
}
