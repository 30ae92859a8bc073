//! Notifications of new children of a cgroup (inotify).

use std::{io, os::fd::OwnedFd, path::Path};

use nix::{
    errno::Errno,
    sys::inotify::{AddWatchFlags, InitFlags, Inotify},
    unistd,
};
use tokio::io::unix::AsyncFd;

/// Reports new children of a cgroup.
#[derive(Debug)]
pub(crate) struct Watch(AsyncFd<OwnedFd>);

impl Watch {
    /// Watches a cgroup from now on. Requires a tokio runtime.
    pub(crate) fn of(cgroup: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        inotify.add_watch(cgroup, AddWatchFlags::IN_CREATE | AddWatchFlags::IN_ONLYDIR)?;
        #[expect(unsafe_code, reason = "tokio asks for the descriptor's stability")]
        // SAFETY: an `OwnedFd` keeps its descriptor open, and always returns the same one.
        let registered = unsafe { AsyncFd::register(OwnedFd::from(inotify)) };
        registered.map(Self).map_err(io::Error::from)
    }

    /// Waits for a new child. Several children may be reported as one.
    pub(crate) async fn changed(&self) -> io::Result<()> {
        let mut ready = self.0.readable().await?;
        let mut events = [0_u8; 4096];
        // The names do not matter: the caller lists the children.
        loop {
            match unistd::read(&self.0, &mut events) {
                Ok(_) => {}
                Err(Errno::EAGAIN) => break,
                Err(errno) => return Err(errno.into()),
            }
        }
        ready.clear_ready();
        Ok(())
    }
}
