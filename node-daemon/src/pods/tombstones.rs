//! Attachments that were to be let go while no daemon ran. The plugin leaves a file for each.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use daemon_api::{Attachment, owned};

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

    /// Every one that is complete. None of a directory to which another user can write: each would end
    /// the interception of a Pod.
    pub(super) fn all(&self) -> Vec<Tombstone> {
        match owned::directory(&self.0) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
            Err(error) => {
                let path = self.0.display();
                tracing::warn!(%path, %error, "deletion markers of the plugin are not read");
                return Vec::new();
            }
        }
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
    let found = fs::symlink_metadata(path).ok()?;
    let text = (found.is_file() && found.len() <= LONGEST).then(|| fs::read(path).ok())??;
    serde_json::from_slice(&text).ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::chown;

    use super::*;

    #[test]
    fn markers_of_another_user_are_not_read() {
        let run = tempfile::tempdir().unwrap();
        let tombstones = Tombstones::beside(&run.path().join("sluiced.sock"));
        assert!(tombstones.all().is_empty());
        fs::create_dir(&tombstones.0).unwrap();
        let text = r#"{"network":"n","container_id":"c","ifname":"e"}"#;
        fs::write(tombstones.0.join("1.json"), text).unwrap();
        assert_eq!(tombstones.all().len(), 1);
        chown(&tombstones.0, Some(65534), None).unwrap();
        assert!(tombstones.all().is_empty());
    }
}
