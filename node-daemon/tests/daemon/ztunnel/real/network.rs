//! Three Pods on one bridge: a client and a server in the mesh, and one outside it.

use std::{
    cell::RefCell,
    fs::File,
    io::Write as _,
    net::TcpListener,
    path::PathBuf,
    process::Command,
    thread::{self, sleep},
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, setns};
use sluice_api::{AddResponse, path};
use tempfile::TempDir;

use super::{
    super::{Node, labelled, request},
    Subject,
    agent::{self, Workload},
    process::Process,
    rules,
};
use crate::node::Pod;

/// The Pods, by index.
pub(super) const NAMES: [&str; 3] = ["client", "server", "outside"];
pub(super) const CLIENT: usize = 0;
pub(super) const SERVER: usize = 1;
pub(super) const OUTSIDE: usize = 2;
/// The addresses of the server's Service.
pub(super) const VIPS: [&str; 2] = ["10.96.0.77", "fd96::77"];

const PATIENCE: Duration = Duration::from_secs(60);
/// Where the applications listen.
pub(super) const PORT: u16 = 8080;

/// The Pods with a ztunnel.
pub(super) struct Network {
    pub(super) pods: [Pod; 3],
    pub(super) ztunnels: RefCell<Vec<Process>>,
    binary: PathBuf,
    socket: PathBuf,
    members: String,
    node: Option<Node>,
    directory: TempDir,
    _switch: Pod,
}

/// The address of a Pod.
pub(super) fn address(index: usize, v6: bool) -> String {
    if v6 {
        format!("fd77::{}", index + 2)
    } else {
        format!("10.77.0.{}", index + 2)
    }
}

impl Network {
    pub(super) fn start(subject: Subject, binary: PathBuf) -> Self {
        let test = format!("real-{subject:?}").to_lowercase();
        let switch = Pod::new(&format!("{test}-switch"), &[]);
        switch.configure("link add br0 type bridge");
        switch.configure("address add 10.77.0.1/24 dev br0");
        switch.configure("address add fd77::1/64 dev br0 nodad");
        switch.configure("link set br0 up");
        let pods = [CLIENT, SERVER, OUTSIDE].map(|index| join(&test, &switch, index));
        let directory = tempfile::tempdir().unwrap();
        let node = (subject == Subject::Sluice).then(|| {
            let pods = NAMES[..OUTSIDE]
                .iter()
                .map(|name| labelled(name, Some("ambient")));
            Node::start(&test, pods.collect())
        });
        let socket = match &node {
            Some(node) => node.socket.clone(),
            None => directory.path().join("ztunnel.sock"),
        };
        let members = node
            .as_ref()
            .map_or_else(|| "/dev/null".to_owned(), |node| node.daemon.members());
        if node.is_none() {
            let workloads = pods[..OUTSIDE]
                .iter()
                .zip(NAMES)
                .map(|(home, name)| Workload {
                    name,
                    netns: File::open(home.path()).unwrap(),
                });
            agent::serve(&socket, workloads.collect());
        }
        if subject == Subject::Rules {
            pods[..OUTSIDE].iter().for_each(rules::write);
        }
        let network = Self {
            pods,
            ztunnels: RefCell::default(),
            binary,
            socket,
            members,
            node,
            directory,
            _switch: switch,
        };
        network.start_ztunnel();
        network
    }

    /// Starts another ztunnel, and waits until it serves the Pods.
    pub(super) fn start_ztunnel(&self) {
        let before = self.listeners(SERVER);
        let directory = self.directory.path();
        let process = Process::start(&self.binary, directory, &self.socket, &self.members);
        self.ztunnels.borrow_mut().push(process);
        self.enroll();
        let end = Instant::now() + PATIENCE;
        while self.listeners(SERVER) == before || self.listeners(CLIENT) == before {
            let logs = || self.logs();
            assert!(Instant::now() < end, "ztunnel does not listen: {}", logs());
            sleep(Duration::from_millis(20));
        }
        // Both families listen by then, and the acknowledgement follows.
        sleep(Duration::from_millis(500));
    }

    /// Adds the Pods once; a repeated ADD changes nothing.
    fn enroll(&self) {
        let Some(node) = &self.node else {
            return;
        };
        node.await_ztunnels(self.ztunnels.borrow().len());
        for (index, home) in self.pods[..OUTSIDE].iter().enumerate() {
            let mut request = request(NAMES[index], &home.path(), &address(index, false));
            let mut second = request.addresses[0].clone();
            second.ip = address(index, true).parse().unwrap();
            request.addresses.push(second);
            let answer: AddResponse = node.daemon.post(path::ADD, &request).ok();
            assert!(answer.meshed);
        }
    }

    /// The logs of all ztunnels that run.
    pub(super) fn logs(&self) -> String {
        self.ztunnels.borrow().iter().map(Process::log).collect()
    }

    /// The number of ztunnel's outbound listeners in a Pod.
    fn listeners(&self, index: usize) -> usize {
        let network = format!("--net={}", self.pods[index].path());
        let output = Command::new("nsenter")
            .args([&*network, "ss", "-Hltn", "sport = :15001"])
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap().lines().count()
    }

    /// Runs a Python program in a Pod as an application. Returns its output.
    pub(super) fn run(&self, index: usize, program: &str) -> String {
        let output = self.command(index, program).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// A Python program in a Pod.
    pub(super) fn command(&self, index: usize, program: &str) -> Command {
        let network = format!("--net={}", self.pods[index].path());
        let join = "echo 0 >\"$1\"; shift; exec \"$@\"";
        let mut command = Command::new("nsenter");
        command
            .args([&*network, "sh", "-c", join, "sh", &self.members])
            .args(["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups"])
            .args(["/usr/bin/python3", "-c", program]);
        command
    }
}

/// A Pod on the bridge, with an application.
fn join(test: &str, switch: &Pod, index: usize) -> Pod {
    let home = Pod::new(&format!("{test}-{}", NAMES[index]), &[]);
    home.configure("link delete eth0");
    let path = switch.path();
    let name = path.rsplit('/').next().unwrap();
    home.configure(&format!(
        "link add eth0 type veth peer name pod{index} netns {name}"
    ));
    switch.configure(&format!("link set pod{index} master br0 up"));
    for (v6, prefix) in [(false, 24), (true, 64)] {
        let flags = if v6 { " nodad" } else { "" };
        home.configure(&format!(
            "address add {}/{prefix} dev eth0{flags}",
            address(index, v6)
        ));
    }
    home.configure("link set lo up");
    home.configure("link set eth0 up");
    home.configure("route add default via 10.77.0.1");
    home.configure("-6 route add default via fd77::1");
    serve(&home);
    home
}

/// Serves each client its own address.
fn serve(home: &Pod) {
    let netns = File::open(home.path()).unwrap();
    let bind = move || {
        setns(netns, CloneFlags::CLONE_NEWNET).unwrap();
        TcpListener::bind(("::", PORT)).unwrap()
    };
    let listener = thread::spawn(bind).join().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = stream;
            if let Ok(peer) = stream.peer_addr() {
                let _gone = stream.write_all(peer.ip().to_canonical().to_string().as_bytes());
            }
        }
    });
}
