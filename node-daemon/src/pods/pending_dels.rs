//! Pending DELs: files that the plugin leaves for DELs while no daemon runs.
//!
//! The daemon makes their directory, and it goes with the data path. The plugin stores no DEL without it, so that a
//! late DEL leaves nothing on a node without Sluice.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use sluice_api::{Attachment, owned};

/// The maximum size of a file in bytes.
const MAX_BYTES: u64 = 4096;

/// The directory, which may be absent.
#[derive(Debug)]
pub(crate) struct PendingDels(PathBuf);

/// The content of one file.
#[derive(Debug)]
pub(super) struct PendingDel {
    path: PathBuf,
    /// `None` if the file cannot be parsed.
    pub(super) attachment: Option<Attachment>,
}

impl PendingDels {
    /// The pending DELs beside a socket.
    pub(crate) fn beside(socket: &Path) -> Self {
        let directory = sluice_api::pending_dels_dir(socket);
        // Until ABI 6 the directory was called `retired`.
        let _absent = fs::rename(directory.with_file_name("retired"), &directory);
        Self(directory)
    }

    /// Makes the directory, if it is missing.
    pub(super) fn prepare(&self) {
        let path = self.0.display();
        let made = DirBuilder::new().mode(0o700).create(&self.0);
        if let Err(error) = made
            && error.kind() != io::ErrorKind::AlreadyExists
        {
            tracing::warn!(%path, %error, "the plugin cannot store DELs while no daemon runs");
        }
    }

    /// Removes the directory: the data path is gone, so no DEL has anything to undo.
    pub(super) fn end(&self) {
        if let Err(error) = fs::remove_dir_all(&self.0)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.0.display(), %error, "the pending DELs stay");
        }
    }

    /// Every complete file. A directory that another user can write to counts as empty: each file
    /// would end the interception of a Pod.
    pub(super) fn all(&self) -> Vec<PendingDel> {
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
            .map(|path| PendingDel {
                attachment: read(&path),
                path,
            })
            .collect()
    }
}

impl PendingDel {
    /// Removes the file after its DEL was carried out.
    pub(super) fn remove(&self) -> io::Result<()> {
        fs::remove_file(&self.path)
    }
}

fn read(path: &Path) -> Option<Attachment> {
    let found = fs::symlink_metadata(path).ok()?;
    let text = (found.is_file() && found.len() <= MAX_BYTES).then(|| fs::read(path).ok())??;
    serde_json::from_slice(&text).ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::chown;

    use super::*;

    #[test]
    fn directory_is_made_again_and_ends_with_the_data_path() {
        let run = tempfile::tempdir().unwrap();
        let pending_dels = PendingDels::beside(&run.path().join("sluiced.sock"));
        for _ in 0..2 {
            pending_dels.prepare();
            pending_dels.prepare();
            fs::write(pending_dels.0.join("1.json"), "{}").unwrap();
            pending_dels.end();
            pending_dels.end();
            assert!(!pending_dels.0.exists());
        }
        // Another user's file in its place stops nothing.
        fs::write(&pending_dels.0, "").unwrap();
        pending_dels.prepare();
        assert!(pending_dels.all().is_empty());
        pending_dels.end();
    }

    #[test]
    fn markers_of_another_user_are_not_read() {
        let run = tempfile::tempdir().unwrap();
        let pending_dels = PendingDels::beside(&run.path().join("sluiced.sock"));
        assert!(pending_dels.all().is_empty());
        pending_dels.prepare();
        let text = r#"{"network":"n","container_id":"c","ifname":"e"}"#;
        fs::write(pending_dels.0.join("1.json"), text).unwrap();
        assert_eq!(pending_dels.all().len(), 1);
        chown(&pending_dels.0, Some(65534), None).unwrap();
        assert!(pending_dels.all().is_empty());
    }
}
