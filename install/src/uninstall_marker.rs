//! The end of `run`: whether the plugin stays. Only the daemon knows whether it has a successor; both
//! get SIGTERM at the same moment.

use std::{
    fs, io,
    os::unix::net::UnixStream,
    path::Path,
    thread,
    time::{Duration, Instant},
};

/// The daemon asks the API server first, which may take half a minute.
const PATIENCE: Duration = Duration::from_secs(40);
const PAUSE: Duration = Duration::from_millis(100);

/// Waits until the daemon has ended. `true` if it was the last one of the node.
pub(crate) fn daemon_requested(socket: &Path) -> bool {
    let end = Instant::now() + PATIENCE;
    while UnixStream::connect(socket).is_ok() && Instant::now() < end {
        thread::sleep(PAUSE);
    }
    sluice_api::uninstall_marker(socket).exists()
}

/// Removes the marker after the uninstallation, so that no later installer acts on it.
pub(crate) fn acknowledge(socket: &Path) -> io::Result<()> {
    fs::remove_file(sluice_api::uninstall_marker(socket))
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::unix::net::UnixListener};

    use super::*;

    #[test]
    fn plugin_stays_without_uninstall_marker() {
        let run = tempfile::tempdir().unwrap();
        assert!(!daemon_requested(&run.path().join("sluiced.sock")));
    }

    #[test]
    fn uninstall_marker_is_awaited_until_the_daemon_ends() {
        let run = tempfile::tempdir().unwrap();
        let socket = run.path().join("sluiced.sock");
        let daemon = UnixListener::bind(&socket).unwrap();
        let mark = sluice_api::uninstall_marker(&socket);
        let ending = thread::spawn(move || {
            thread::sleep(PAUSE * 3);
            File::create(mark).unwrap();
            drop(daemon);
        });
        assert!(daemon_requested(&socket));
        ending.join().unwrap();
        acknowledge(&socket).unwrap();
        assert!(!daemon_requested(&socket));
    }
}
