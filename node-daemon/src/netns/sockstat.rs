//! The kernel's counters of TCP sockets in a network namespace.

use std::fs;

/// The counters of the thread's netns (`sockstat_seq_show`, `sockstat6_seq_show`), and
/// the beginning of the line about TCP.
const COUNTERS: [(&str, &str); 2] = [
    ("/proc/thread-self/net/sockstat", "TCP: inuse "),
    ("/proc/thread-self/net/sockstat6", "TCP6: inuse "),
];

/// Whether the thread's netns may have TCP sockets. A list of them walks the table of the machine's
/// listening sockets; a new Pod has none, and its counters say so at once.
pub(super) fn may_exist() -> bool {
    // Without the files the list decides.
    let is_none = |(file, line): &(_, &str)| {
        fs::read_to_string(file).is_ok_and(|counters| counts_none(&counters, line))
    };
    !COUNTERS.iter().all(is_none)
}

/// Whether the counters in `text` have the number zero after `line`.
fn counts_none(text: &str, line: &str) -> bool {
    let mut lines = text.lines().filter_map(|one| one.strip_prefix(line));
    lines.next().and_then(|rest| rest.split(' ').next()) == Some("0")
}

#[cfg(test)]
mod tests {
    use std::net::{Shutdown, TcpListener};

    use super::*;

    #[test]
    fn new_namespace_has_no_sockets() {
        let checked = std::thread::spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            assert!(!may_exist());
            for at in ["0.0.0.0:0", "[::]:0"] {
                let listener = TcpListener::bind(at).unwrap();
                assert!(may_exist(), "{at}");
                // Closed alone, it stays while a process that another test starts has a copy.
                socket2::SockRef::from(&listener)
                    .shutdown(Shutdown::Both)
                    .unwrap();
                drop(listener);
                assert!(!may_exist());
            }
        });
        checked.join().unwrap();
    }

    #[test]
    fn counters_of_another_form_prove_nothing() {
        let text =
            "sockets: used 9\nTCP: inuse 0 orphan 0 tw 2 alloc 9 mem 1\nUDP: inuse 4 mem 0\n";
        assert!(counts_none(text, "TCP: inuse "));
        assert!(!counts_none(text, "UDP: inuse "));
        assert!(!counts_none(text, "TCP6: inuse "));
        assert!(!counts_none("TCP: inuse\n", "TCP: inuse "));
    }
}
