//! Attachments that were to be let go while no daemon ran. The plugin leaves a file for each.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use daemon_api::Attachment;

/// Bytes of the longest that is read.
const LONGEST: u64 = 4096;

/// The directory, which need not be there.
#[derive(Debug)]
pub(crate) struct Tombstones(PathBuf);

/// What one says.
#[derive(Debug)]
pub(super) struct Tombstone {
    path: PathBuf,
    /// Nothing, if it cannot be understood.
    pub(super) attachment: Option<Attachment>,
}

impl Tombstones {
    /// Those that are left beside a socket.
    pub(crate) fn beside(socket: &Path) -> Self {
        Self(daemon_api::tombstones(socket))
    }

    /// Every one that is complete.
    pub(super) fn all(&self) -> Vec<Tombstone> {
        let entries = fs::read_dir(&self.0).into_iter().flatten().flatten();
        let paths = entries.map(|entry| entry.path());
        paths
            .filter(|path| path.extension().is_some_and(|kind| kind == "json"))
            .map(|path| Tombstone {
                attachment: read(&path),
                path,
            })
            .collect()
    }
}

impl Tombstone {
    /// What it says was done.
    pub(super) fn remove(&self) -> io::Result<()> {
        fs::remove_file(&self.path)
    }
}

fn read(path: &Path) -> Option<Attachment> {
    let length = fs::symlink_metadata(path).ok()?.len();
    let text = fs::read(path).ok().filter(|_| length <= LONGEST)?;
    serde_json::from_slice(&text).ok()
}
