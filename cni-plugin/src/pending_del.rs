//! Pending DELs: files for DELs that the daemon does not answer.

use std::{
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io,
    path::{Path, PathBuf},
};

use sluice_api::{Attachment, owned, pending_dels_dir};

/// Maximum number of pending DELs, in case no daemon returns.
const MAX_PENDING: usize = 4096;

/// The file of the pending DEL of one attachment.
pub(crate) struct PendingDel<'a> {
    attachment: &'a Attachment,
    directory: PathBuf,
}

impl<'a> PendingDel<'a> {
    pub(crate) fn new(attachment: &'a Attachment, socket: &Path) -> Self {
        Self {
            attachment,
            directory: pending_dels_dir(socket),
        }
    }

    /// The content is authoritative; the name only distinguishes the files.
    fn path(&self) -> PathBuf {
        let mut hasher = DefaultHasher::new();
        self.attachment.hash(&mut hasher);
        self.directory
            .join(format!("{:016x}.json", hasher.finish()))
    }

    /// Writes the file atomically. It fails in a directory of another user, who could redirect the
    /// file. It does nothing without the directory, which the daemon makes: there is no state to undo before the
    /// first daemon of the node, and after the last one.
    pub(crate) fn write(&self) -> io::Result<()> {
        match owned::directory(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            directory => directory?,
        };
        if fs::read_dir(&self.directory)?.count() >= MAX_PENDING {
            return Err(io::Error::other(format!("there are {MAX_PENDING} already")));
        }
        let path = self.path();
        let unfinished = path.with_extension(std::process::id().to_string());
        fs::write(&unfinished, serde_json::to_vec(self.attachment)?)?;
        fs::rename(&unfinished, &path)
    }

    /// Removes the file, if it exists.
    pub(crate) fn remove(&self) -> io::Result<()> {
        match fs::remove_file(self.path()) {
            // Without a directory there is no file.
            Err(error)
                if !matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                Err(error)
            }
            _ => Ok(()),
        }
    }
}
