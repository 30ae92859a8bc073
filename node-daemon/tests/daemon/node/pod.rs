//! Network namespaces that act as Pods.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use sluice_testbed::netns::Netns;

use super::Daemon;

/// A netns that acts as a Pod: `eth0` with addresses. The peer is in the host's netns, and down.
pub(crate) struct Pod {
    name: String,
    /// The peer of `eth0` in the host's netns.
    far: String,
    proxy: Option<Child>,
    /// Removes the name.
    _netns: Netns,
}

/// Numbers the Pods' interfaces in the host's netns.
static NUMBER: AtomicU32 = AtomicU32::new(0);

impl Pod {
    pub(crate) fn new(test: &str, addresses: &[&str]) -> Self {
        let name = format!("sluiced-{test}-{}", std::process::id());
        let netns = Netns::create(name.clone()).expect("a network namespace");
        // An interface name has at most 15 characters: `slPID-NUMBER`.
        let far = NUMBER.fetch_add(1, Ordering::Relaxed);
        let far = format!("sl{}-{far}", std::process::id());
        let pod = Self {
            name,
            far,
            proxy: None,
            _netns: netns,
        };
        let host = std::process::id().to_string();
        pod.ip(&[
            "link", "add", "eth0", "type", "veth", "peer", "name", &pod.far, "netns", &host,
        ]);
        pod.ip(&["link", "set", "eth0", "up"]);
        for address in addresses {
            pod.ip(&["address", "add", address, "dev", "eth0", "noprefixroute"]);
        }
        pod
    }

    /// Replaces `eth0` by a link to the `eth0` of another Pod, with one address at each end.
    pub(crate) fn link(&self, address: &str, peer: &Pod, peers: &str) {
        for pod in [self, peer] {
            pod.configure("link delete eth0");
        }
        self.configure(&format!(
            "link add eth0 type veth peer name eth0 netns {}",
            peer.name
        ));
        for (pod, address) in [(self, address), (peer, peers)] {
            pod.configure(&format!("address add {address} dev eth0 nodad"));
            pod.configure("link set eth0 up");
        }
    }

    pub(crate) fn path(&self) -> String {
        format!("/run/netns/{}", self.name)
    }

    /// Starts a process inside that listens on ports as the sidecar's user, with one socket per
    /// family.
    pub(crate) fn listen(&mut self, ports: &[u16]) {
        self.listen_as(1337, ports);
    }

    /// Likewise as another user.
    pub(crate) fn listen_as(&mut self, uid: u32, ports: &[u16]) {
        let script = listen_script(ports);
        let (user, group) = (format!("--reuid={uid}"), format!("--regid={uid}"));
        let user = ["setpriv", &user, &group, "--clear-groups"];
        let process = Command::new("ip")
            .args(["netns", "exec", &self.name])
            .args(user)
            .args(["/usr/bin/python3", "-c", &script])
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process in the namespace");
        self.keep(process);
    }

    /// Keeps a process that prints a line once it listens.
    fn keep(&mut self, mut process: Child) {
        let mut line = String::new();
        let stdout = process.stdout.take().expect("its output");
        BufReader::new(stdout)
            .read_line(&mut line)
            .expect("its output");
        self.proxy = Some(process);
        assert_eq!(line, "listening\n");
    }

    /// Moves the process into the daemon's cgroup.
    pub(crate) fn join(&self, daemon: &Daemon) {
        self.join_below(daemon, "");
    }

    /// The name of the interface's peer in the host's netns.
    pub(crate) fn far(&self) -> &str {
        &self.far
    }

    /// Sets a kernel parameter of the netns.
    pub(crate) fn sysctl(&self, setting: &str) {
        let network = format!("--net={}", self.path());
        let mut command = Command::new("nsenter");
        let status = command.args([&*network, "sysctl", "-qw", setting]).status();
        assert!(status.expect("nsenter").success(), "{setting}");
    }

    /// Likewise as [`Pod::listen_as`], in the daemon's cgroup from the start.
    pub(crate) fn listen_in(&mut self, daemon: &Daemon, uid: u32, ports: &[u16]) {
        self.hold(daemon, uid, &listen_script(ports));
    }

    /// Keeps a Python program running inside, in the daemon's cgroup, as a user. It prints `listening`.
    pub(crate) fn hold(&mut self, daemon: &Daemon, uid: u32, program: &str) {
        let mut command = self.command(daemon, uid, Path::new("/usr/bin/python3"));
        command.args(["-c", program]).stdout(Stdio::piped());
        self.keep(command.spawn().expect("a process in the namespace"));
    }

    /// Moves the process into a new cgroup below the daemon's.
    pub(crate) fn join_below(&self, daemon: &Daemon, below: &str) {
        let process = self.proxy.as_ref().expect("a process");
        daemon.move_below(process.id(), below);
    }

    /// Ends the process.
    pub(crate) fn end(&mut self) {
        if let Some(mut process) = self.proxy.take() {
            drop(process.kill());
            drop(process.wait());
        }
    }

    /// Runs `ip` inside.
    pub(crate) fn configure(&self, arguments: &str) {
        self.ip(&arguments.split(' ').collect::<Vec<_>>());
    }

    /// Runs a Python program inside, in the daemon's cgroup, as a user. Returns its output.
    pub(crate) fn run(&self, daemon: &Daemon, uid: u32, program: &str) -> String {
        let python = Path::new("/usr/bin/python3");
        let mut command = self.command(daemon, uid, python);
        let program = format!("import os, socket\n{program}");
        let output = command.args(["-c", &program]).output().expect("python3");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// A program inside, in the daemon's cgroup, as a user, without arguments so far.
    pub(crate) fn command(&self, daemon: &Daemon, uid: u32, program: &Path) -> Command {
        self.command_in(daemon.cgroup(), uid, program)
    }

    /// Likewise in another cgroup.
    pub(crate) fn command_in(&self, cgroup: &Path, uid: u32, program: &Path) -> Command {
        let members = cgroup.join("cgroup.procs");
        let network = format!("--net={}", self.path());
        let (user, group) = (format!("--reuid={uid}"), format!("--regid={uid}"));
        let join = "echo 0 >\"$1\"; shift; exec \"$@\"";
        let mut command = Command::new("nsenter");
        command
            .args([&*network, "sh", "-c", join, "sh"])
            .arg(members);
        command
            .args(["setpriv", &user, &group, "--clear-groups"])
            .arg(program);
        command
    }

    /// Installs iptables rules, as an init container does.
    pub(crate) fn restore_rules(&self, rules: &str) {
        let mut restore = Command::new("ip")
            .args(["netns", "exec", &self.name, "iptables-restore"])
            .stdin(Stdio::piped())
            .spawn()
            .expect("iptables-restore");
        let mut stdin = restore.stdin.take().expect("its input");
        stdin.write_all(rules.as_bytes()).expect("its input");
        drop(stdin);
        assert!(restore.wait().expect("it ends").success());
    }

    pub(crate) fn loopback(&self) -> String {
        let output = Command::new("ip")
            .args(["-n", &self.name, "address", "show", "dev", "lo"])
            .output()
            .expect("ip runs");
        String::from_utf8(output.stdout).expect("text")
    }

    pub(crate) fn ip(&self, arguments: &[&str]) {
        ip(&[&["-n", &*self.name], arguments].concat());
    }
}

/// A program that listens on ports, with one socket per family.
fn listen_script(ports: &[u16]) -> String {
    format!(
        "import socket, time\n\
         held = [socket.create_server((host, port), family=family) for port in {ports:?} \
         for host, family in (('0.0.0.0', socket.AF_INET), ('::', socket.AF_INET6))]\n\
         print('listening', flush=True)\n\
         time.sleep(300)"
    )
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.end();
    }
}

fn ip(arguments: &[&str]) {
    let status = Command::new("ip")
        .args(arguments)
        .status()
        .expect("ip runs");
    assert!(status.success(), "ip {arguments:?}");
}
