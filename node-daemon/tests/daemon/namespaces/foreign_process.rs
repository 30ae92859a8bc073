//! A process of a user without privileges on the node, in namespaces of its own.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    process::{Child, ChildStdout, Command, Stdio},
};

/// A local user without privileges, who owns a user namespace and its network namespace.
pub(super) const USER: [&str; 10] = [
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
pub(super) const CONTAINER_ROOT: [&str; 7] = [
    "setpriv",
    "--bounding-set=-all,+setfcap",
    "--inh-caps=-all",
    "unshare",
    "--user",
    "--map-root-user",
    "--net",
];

/// An interface with an address, and listeners on the proxy's ports.
pub(super) const PRETENDER: &str = "
import socket, subprocess, time
for words in ('link add eth0 type veth peer name far0', 'link set eth0 up', 'link set lo up',
              'address add 10.1.0.1/24 dev eth0'):
    subprocess.run(['ip', *words.split()], check=True)
held = [socket.create_server(('0.0.0.0', port)) for port in (15001, 15006)]
print('ready', flush=True)
input()
";

/// A program of an unprivileged user.
pub(super) struct ForeignProcess {
    pub(super) process: Child,
    output: BufReader<ChildStdout>,
}

impl ForeignProcess {
    pub(super) fn start(who: &[&str], program: &str, argument: &str) -> Self {
        let mut process = Command::new(who[0])
            .args(&who[1..])
            .args(["/usr/bin/python3", "-c", program, argument])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3");
        let output = BufReader::new(process.stdout.take().expect("its output"));
        let mut process_of_user = Self { process, output };
        assert_eq!(process_of_user.line(), "ready\n");
        process_of_user
    }

    pub(super) fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("its output");
        line
    }

    pub(super) fn proceed(&mut self) {
        let stdin = self.process.stdin.as_mut().expect("its input");
        stdin.write_all(b"\n").expect("its input");
    }

    pub(super) fn netns(&self) -> String {
        format!("/proc/{}/ns/net", self.process.id())
    }
}

impl ForeignProcess {
    /// Waits until it closes its output.
    pub(super) fn wait(&mut self) {
        let mut rest = String::new();
        drop(self.output.read_to_string(&mut rest));
    }
}

impl Drop for ForeignProcess {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}
