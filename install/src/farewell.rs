//! The end of the watch: does the plugin stay? Only the daemon knows whether another one comes
//! after it; the two are told to stop at the same moment.

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

/// Waits until the daemon has ended, and tells whether it was the last one.
pub(crate) fn was_last(socket: &Path) -> bool {
    let end = Instant::now() + PATIENCE;
    while UnixStream::connect(socket).is_ok() && Instant::now() < end {
        thread::sleep(PAUSE);
    }
    daemon_api::farewell(socket).exists()
}

/// What the daemon said was heeded: it is said to nobody else.
pub(crate) fn heeded(socket: &Path) -> io::Result<()> {
    fs::remove_file(daemon_api::farewell(socket))
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::unix::net::UnixListener};

    use super::*;

    #[test]
    fn without_a_word_from_the_daemon_the_plugin_stays() {
        let run = tempfile::tempdir().unwrap();
        assert!(!was_last(&run.path().join("sluiced.sock")));
    }

    #[test]
    fn the_last_word_is_awaited_as_long_as_the_daemon_lives() {
        let run = tempfile::tempdir().unwrap();
        let socket = run.path().join("sluiced.sock");
        let daemon = UnixListener::bind(&socket).unwrap();
        let mark = daemon_api::farewell(&socket);
        let ending = thread::spawn(move || {
            thread::sleep(PAUSE * 3);
            File::create(mark).unwrap();
            drop(daemon);
        });
        assert!(was_last(&socket));
        ending.join().unwrap();
        heeded(&socket).unwrap();
        assert!(!was_last(&socket));
    }
}
