//! A tap device of a Pod, as a virtual machine has it: a process holds its other end. The guest is a
//! network namespace with a tap of its own, and the process passes frames between both.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
};

use crate::{
    node::{Daemon, Pod},
    virtual_interfaces::{await_open, delete, parts, pod},
};

/// Makes a tap of the given name in each netns, says so, and passes frames until it is killed.
const PASS: &str = "
import ctypes, fcntl, os, select, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
TUNSETIFF, TAP, NO_PI, CLONE_NEWNET = 0x400454ca, 0x2, 0x1000, 0x40000000

def tap(netns, name):
    at = os.open(netns, os.O_RDONLY)
    if libc.setns(at, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), netns)
    end = os.open('/dev/net/tun', os.O_RDWR)
    fcntl.ioctl(end, TUNSETIFF, struct.pack('16sH22x', name.encode(), TAP | NO_PI))
    return end

ends = [tap(sys.argv[1], sys.argv[2]), tap(sys.argv[3], 'eth1')]
print('ready', flush=True)
while True:
    for end in select.select(ends, [], [])[0]:
        frame = os.read(end, 65536)
        try:
            os.write(ends[1 - ends.index(end)], frame)
        except OSError:
            pass  # That device is still down.
";

/// The process behind the taps. Both disappear with it.
struct Machine(Child);

impl Machine {
    fn start(home: &Pod, tap: &str, guest: &Pod) -> Self {
        let mut process = Command::new("/usr/bin/python3")
            .args(["-c", PASS, &home.path(), tap, &guest.path()])
            .stdout(Stdio::piped())
            .spawn()
            .expect("python");
        let mut line = String::new();
        let stdout = process.stdout.take().expect("its output");
        let read = BufReader::new(stdout).read_line(&mut line);
        let machine = Self(process);
        assert_eq!((read.ok(), &*line), (Some(6), "ready\n"));
        guest.configure("link set eth1 up");
        guest.configure("address add 172.31.1.2/24 dev eth1");
        guest.configure("route add default via 172.31.1.1");
        machine
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `tap`: the name of the tap; it is the named interface, or a port of that.
fn reaches_the_proxy(test: &str, tap: &str) {
    let daemon = Daemon::start(test);
    let home = pod(&daemon, test);
    let guest = Pod::new(&format!("{test}-guest"), &[]);
    let machine = Machine::start(&home, tap, &guest);
    if tap != "vm0" {
        home.configure("link add vm0 type bridge forward_delay 0");
        home.configure(&format!("link set {tap} master vm0"));
        home.configure(&format!("link set {tap} up"));
    }
    home.configure("address add 172.31.1.1/24 dev vm0");
    home.configure("link set vm0 up");
    await_open(&daemon, &guest);
    assert_eq!(parts(&home), [true; 3]);
    // The machine ends before its Pod does.
    drop(machine);
    delete(&daemon, &home);
    assert!(!parts(&home)[0], "the routing rule");
}

#[test]
fn guest_behind_a_tap_reaches_the_proxy() {
    reaches_the_proxy("tap", "vm0");
}

/// A virtual machine in Kubernetes is connected this way.
#[test]
fn guest_behind_a_bridged_tap_reaches_the_proxy() {
    reaches_the_proxy("bridged-tap", "tap0");
}
