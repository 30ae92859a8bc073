//! Decides at the end of `run` whether the plugin stays. Only the daemon knows whether it has a successor;
//! both get SIGTERM at the same time.

use std::{
    fs, io,
    os::unix::net::UnixStream,
    path::Path,
    thread,
    time::{Duration, Instant},
};

/// The daemon queries the API server first, for up to half a minute.
const PATIENCE: Duration = Duration::from_secs(40);
const PAUSE: Duration = Duration::from_millis(100);

/// Waits for the end of the daemon. `true` if it left the marker: it was the node's last one.
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
    fn installer_waits_for_marker_until_the_daemon_ends() {
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
