//! The owner of a user namespace attacks the daemon while the daemon works on that namespace.

use sluice_api::{code, path};

use super::foreign_process::{CONTAINER_ROOT, ForeignProcess};
use crate::{hardening::READ_ONLY, node::Daemon, pods::add};

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

/// Denies the system calls that a runtime's default seccomp profile (`RuntimeDefault`) denies to a container
/// with the chart's capabilities, then executes its arguments.
const RUNTIME_DEFAULT: &str = "
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
# x86-64: acct, reboot, swap, clocks, modules, kexec, keys, NUMA pages, userfaultfd, io_uring, and obsolete ones.
DENIED = [134, 139, 153, 154, 156, 163, 164, 167, 168, 169, 172, 173, 174, 175, 176, 177, 178, 180, 212, 227, 237,
          238, 239, 246, 248, 249, 250, 256, 279, 305, 313, 320, 323, 425, 426, 427]
if os.uname().machine != 'x86_64':
    DENIED = [425, 426, 427]
LOAD, EQUAL, RETURN, ALLOW, EPERM = 0x20, 0x15, 0x06, 0x7fff0000, 0x00050001
code = [(LOAD, 0, 0, 0)]
for left, number in zip(range(len(DENIED), 0, -1), DENIED):
    code.append((EQUAL, left, 0, number))
code += [(RETURN, 0, 0, ALLOW), (RETURN, 0, 0, EPERM)]
program = ctypes.create_string_buffer(b''.join(struct.pack('HBBI', *one) for one in code))
filter = ctypes.create_string_buffer(struct.pack('HP', len(code), ctypes.addressof(program)))
assert libc.prctl(22, 2, filter) == 0, ctypes.get_errno()
assert libc.syscall(425, 1, None) < 0 and ctypes.get_errno() == 1, 'io_uring_setup is not denied'
os.execvp(sys.argv[1], sys.argv[1:])
";

/// Starts the daemon with the security context of the chart: a read-only root directory, the four
/// capabilities, no new privileges, and the runtime's seccomp profile.
fn confined() -> Vec<&'static str> {
    let context = [
        "setpriv",
        "--no-new-privs",
        "--inh-caps=-all",
        "--bounding-set=-all,+dac_read_search,+net_admin,+sys_admin,+sys_ptrace",
    ];
    let filter = ["python3", "-c", RUNTIME_DEFAULT];
    [&READ_ONLY[..], &context, &filter].concat()
}

/// Attacks the daemon in so many rounds.
fn attack(launcher: &[&str], test: &str, rounds: usize) {
    let mut daemon = Daemon::launched(launcher, test, "");
    // Each rejection is logged: a full pipe would block the daemon.
    let _drained = daemon.log();
    let mut owner = ForeignProcess::start(&CONTAINER_ROOT, ATTACK, &daemon.pid().to_string());
    daemon.move_below(owner.process.id(), "");
    let request = add("a", &owner.netns(), &["10.1.0.1"]);
    for _ in 0..rounds {
        // The user namespace maps one user, so the proxy's user is unmapped.
        let api_error = daemon.post(path::ADD, &request).api_error(422);
        assert_eq!(api_error.code, code::POD_REFUSED, "{api_error:?}");
    }
    if !launcher.is_empty() {
        // The runtime's filter, and the daemon's own.
        let threads = daemon.threads();
        assert!(
            threads
                .iter()
                .all(|one| one.contains("Seccomp_filters:\t2"))
        );
    }
    owner.proceed();
    let line = owner.line();
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
fn namespace_owner_obtains_nothing_confined_thousand_rounds() {
    attack(&confined(), "attack-confined-long", 1000);
}
