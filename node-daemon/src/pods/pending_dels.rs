//! Pending DELs: files that the plugin leaves for DELs while no daemon runs.
//!
//! The daemon makes their directory, and the last daemon of the node removes it. The plugin stores no DEL without
//! it, so that a late DEL leaves nothing on a node without Sluice.

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
        match DirBuilder::new().mode(0o700).create(&directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                let path = directory.display();
                tracing::warn!(%path, %error, "the plugin cannot store DELs while no daemon runs");
            }
            _ => {}
        }
        Self(directory)
    }

    /// Removes the pending DELs beside a socket: no daemon follows.
    pub(crate) fn remove(socket: &Path) -> io::Result<()> {
        match fs::remove_dir_all(sluice_api::pending_dels_dir(socket)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
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
    fn last_daemon_removes_the_directory() {
        let run = tempfile::tempdir().unwrap();
        let socket = run.path().join("sluiced.sock");
        let pending_dels = PendingDels::beside(&socket);
        fs::write(pending_dels.0.join("1.json"), "{}").unwrap();
        for _ in 0..2 {
            PendingDels::remove(&socket).unwrap();
            assert!(!pending_dels.0.exists());
        }
    }

    #[test]
    fn markers_of_another_user_are_not_read() {
        let run = tempfile::tempdir().unwrap();
        let pending_dels = PendingDels::beside(&run.path().join("sluiced.sock"));
        assert!(pending_dels.all().is_empty());
        let text = r#"{"network":"n","container_id":"c","ifname":"e"}"#;
        fs::write(pending_dels.0.join("1.json"), text).unwrap();
        assert_eq!(pending_dels.all().len(), 1);
        chown(&pending_dels.0, Some(65534), None).unwrap();
        assert!(pending_dels.all().is_empty());
    }
}
