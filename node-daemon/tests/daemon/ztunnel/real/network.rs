//! Three Pods on one bridge: a client and a server in the mesh, and one outside it.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::Command,
    thread,
};

use nix::sched::{CloneFlags, setns};

use crate::node::Pod;

/// The Pods, by index.
pub(super) const NAMES: [&str; 3] = ["client", "server", "outside"];
pub(super) const CLIENT: usize = 0;
pub(super) const SERVER: usize = 1;
pub(super) const OUTSIDE: usize = 2;
/// The addresses of the server's Service.
pub(super) const VIPS: [&str; 2] = ["10.96.0.77", "fd96::77"];

/// Where the applications listen.
pub(super) const PORT: u16 = 8080;

/// The Pods.
pub(super) struct Network {
    pub(super) pods: [Pod; 3],
    /// The file of the cgroup in which processes of the Pods run.
    pub(super) members: String,
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
    /// Its processes run in the cgroup of the test.
    pub(super) fn new(test: &str) -> Self {
        let switch = Pod::new(&format!("{test}-switch"), &[]);
        switch.configure("link add br0 type bridge");
        switch.configure("address add 10.77.0.1/24 dev br0");
        switch.configure("address add fd77::1/64 dev br0 nodad");
        switch.configure("link set br0 up");
        Self {
            pods: [CLIENT, SERVER, OUTSIDE].map(|index| join(test, &switch, index)),
            members: "/dev/null".to_owned(),
            _switch: switch,
        }
    }

    /// The number of listeners on a port in a Pod.
    pub(super) fn listeners(&self, index: usize, port: u16) -> usize {
        let network = format!("--net={}", self.pods[index].path());
        let output = Command::new("nsenter")
            .args([&*network, "ss", "-Hltn", &format!("sport = :{port}")])
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
        let mut command = self.command_as(index, 1000);
        command.args(["/usr/bin/python3", "-c", program]);
        command
    }

    /// A program in a Pod as a user, without its name so far.
    pub(super) fn command_as(&self, index: usize, uid: u32) -> Command {
        let network = format!("--net={}", self.pods[index].path());
        let join = "echo 0 >\"$1\"; shift; exec \"$@\"";
        let (user, group) = (format!("--reuid={uid}"), format!("--regid={uid}"));
        let mut command = Command::new("nsenter");
        command
            .args([&*network, "sh", "-c", join, "sh", &self.members])
            .args(["setpriv", &user, &group, "--clear-groups"]);
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
    // A listener that closes passes its queue on: what TCP loses without is not what is tested.
    home.sysctl("net.ipv4.tcp_migrate_req=1");
    home.configure("link set lo up");
    home.configure("link set eth0 up");
    home.configure("route add default via 10.77.0.1");
    home.configure("-6 route add default via fd77::1");
    serve(&home, PORT);
    home
}

/// Sends each client of a port its own address.
pub(super) fn serve(home: &Pod, port: u16) {
    listen(home, port, |mut stream| {
        let peer = stream.peer_addr()?.ip().to_canonical();
        stream.write_all(peer.to_string().as_bytes())
    });
}

/// Answers requests of HTTP/1.1 without a body.
pub(super) fn serve_http(home: &Pod, port: u16) {
    listen(home, port, |mut stream| {
        stream.set_nodelay(true)?;
        let mut request = Vec::new();
        let mut chunk = [0; 1024];
        loop {
            let count = stream.read(&mut chunk)?;
            if count == 0 {
                return Ok(());
            }
            request.extend_from_slice(&chunk[..count]);
            if request.ends_with(b"\r\n\r\n") {
                let asked = String::from_utf8_lossy(&request).to_ascii_lowercase();
                let is_last = asked.contains("connection: close");
                let connection = if is_last { "close" } else { "keep-alive" };
                let head = format!("HTTP/1.1 200 OK\r\nconnection: {connection}\r\n");
                stream.write_all(format!("{head}content-length: 2\r\n\r\nok").as_bytes())?;
                if is_last {
                    return Ok(());
                }
                request.clear();
            }
        }
    });
}

/// Serves each client of a port in a thread of its own.
fn listen(home: &Pod, port: u16, serve: fn(TcpStream) -> io::Result<()>) {
    let netns = File::open(home.path()).unwrap();
    let bind = move || {
        setns(netns, CloneFlags::CLONE_NEWNET).unwrap();
        TcpListener::bind(("::", port)).unwrap()
    };
    let listener = thread::spawn(bind).join().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || serve(stream));
        }
    });
}
