//! A client that connects again and again, and counts what it was served.

use std::process::{Child, Command, Stdio};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// A Python function that connects, and describes what the application saw.
pub(super) const DIAL: &str = "import socket, time\n\
    def dial(to, port):\n\
    \x20   try:\n\
    \x20       peer = socket.create_connection((to, port), 2)\n\
    \x20       seen = peer.recv(64).decode()\n\
    \x20       return 'seen as ' + seen if seen else 'closed'\n\
    \x20   except TimeoutError: return 'timeout'\n\
    \x20   except ConnectionRefusedError: return 'refused'\n\
    \x20   except ConnectionResetError: return 'reset'\n\
    \x20   except OSError as error: return error.strerror\n";

/// A running client.
pub(super) struct Load(Child);

impl Load {
    /// Starts it by a command that runs a Python program in some place. Each connection must be `seen`.
    pub(super) fn start(
        place: impl FnOnce(&str) -> Command,
        (to, port): (&str, u16),
        seen: &str,
    ) -> Self {
        let program = format!(
            "{DIAL}import collections, signal\n\
             end = []\n\
             signal.signal(signal.SIGTERM, lambda *_: end.append(1))\n\
             outcomes = collections.Counter()\n\
             while not end:\n\
             \x20   outcomes[dial('{to}', {port})] += 1\n\
             \x20   time.sleep(0.002)\n\
             served = outcomes.pop('seen as {seen}', 0)\n\
             print('some' if served else 'none', 'served,', sum(outcomes.values()), 'failed', end='')\n\
             if outcomes: print(f' {{dict(outcomes)}}', end='')"
        );
        let mut command = place(&program);
        Self(command.stdout(Stdio::piped()).spawn().unwrap())
    }

    /// Ends it. Returns its summary.
    pub(super) fn finish(self) -> String {
        let pid = i32::try_from(self.0.id()).unwrap();
        kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
        let output = self.0.wait_with_output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }
}

/// The summary of a client of which every connection was served as expected.
pub(super) const ALL_SERVED: &str = "some served, 0 failed";
