//! Changes of files that are either done or not, whatever happens in between.
//!
//! A new content is written beside the file, flushed, and renamed over it; then the directory is
//! flushed, which is when the rename is on disk.

use std::{
    fs::{self, File, Metadata, Permissions},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown},
    path::{Path, PathBuf},
};

use tempfile::NamedTempFile;
use thiserror::Error;

use crate::crash;

/// Begins the name of a file that is being written. None of the endings that a runtime looks for
/// follows it.
const UNFINISHED: &str = ".sluice-unfinished-";

#[derive(Debug, Error)]
pub(crate) enum Error {
    #[error("cannot {action} {}: {source}{}", path.display(), advice(source))]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{} was changed by somebody else at the same moment", path.display())]
    Changed { path: PathBuf },
}

impl Error {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem => "; mount it so that it can be written",
        io::ErrorKind::PermissionDenied => "; run as root",
        io::ErrorKind::StorageFull => "; make room on the disk",
        io::ErrorKind::ResourceBusy => "; mount its directory, not the file alone",
        _ => "",
    }
}

/// Who may do what with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Access {
    mode: u32,
    owner: (u32, u32),
}

impl Access {
    /// That of a file that is there.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        fs::metadata(path).ok().as_ref().map(Self::from)
    }

    /// Whether somebody may start it.
    pub(crate) fn is_executable(self) -> bool {
        self.mode & 0o111 != 0
    }

    /// This program's user, and a mode.
    pub(crate) fn own(mode: u32) -> Self {
        let owner = (nix::unistd::geteuid(), nix::unistd::getegid());
        Self {
            mode,
            owner: (owner.0.as_raw(), owner.1.as_raw()),
        }
    }
}

impl From<&Metadata> for Access {
    fn from(metadata: &Metadata) -> Self {
        Self {
            mode: metadata.mode() & 0o7777,
            owner: (metadata.uid(), metadata.gid()),
        }
    }
}

/// Gives a file a new content, or makes it. Of a symbolic link it is what the link leads to.
pub(crate) fn write(path: &Path, content: &[u8], access: Access) -> Result<(), Error> {
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let directory = directory(&target);
    let failed = || Error::io("write", path);
    let mut part = NamedTempFile::with_prefix_in(UNFINISHED, directory).map_err(failed())?;
    fill(part.as_file_mut(), content, access).map_err(failed())?;
    crash::moment();
    part.persist(&target)
        .map_err(|error| failed()(error.error))?;
    flush(directory)
}

fn fill(file: &mut File, content: &[u8], access: Access) -> io::Result<()> {
    file.write_all(content)?;
    let Access { mode, owner } = access;
    // Not even asked for if it is so already: it needs a capability.
    if Access::from(&file.metadata()?).owner != owner {
        fchown(&*file, Some(owner.0), Some(owner.1))?;
    }
    file.set_permissions(Permissions::from_mode(mode))?;
    file.sync_all()
}

/// Renames a file within its directory.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    fs::rename(from, to).map_err(Error::io("rename", from))?;
    flush(directory(to))
}

/// Removes a file, if it is there.
pub(crate) fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io("remove", path)(error))
        }
        _ => flush(directory(path)),
    }
}

/// Removes what a run that was killed has left half written.
pub(crate) fn sweep(directory: &Path) -> Result<(), Error> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Ok(());
    };
    for entry in entries.flatten() {
        if entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(UNFINISHED.as_bytes())
        {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

fn flush(directory: &Path) -> Result<(), Error> {
    let flushed = File::open(directory).and_then(|directory| directory.sync_all());
    crash::moment();
    match flushed {
        // Its last file was removed, and somebody has removed the directory since.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        flushed => flushed.map_err(Error::io("flush", directory)),
    }
}

fn directory(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_new_content_replaces_the_old_one_and_leaves_no_other_file() {
        let node = tempfile::tempdir().unwrap();
        let path = node.path().join("file");
        for (content, mode) in [("old", 0o755), ("new", 0o600)] {
            write(&path, content.as_bytes(), Access::own(mode)).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
            assert_eq!(Access::of(&path), Some(Access::own(mode)));
        }
        assert_eq!(fs::read_dir(node.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_stays_a_link_and_what_it_leads_to_is_written() {
        let node = tempfile::tempdir().unwrap();
        let (link, real) = (node.path().join("link"), node.path().join("far/real"));
        fs::create_dir(node.path().join("far")).unwrap();
        fs::write(&real, "old").unwrap();
        std::os::unix::fs::symlink("far/real", &link).unwrap();
        write(&link, b"new", Access::own(0o644)).unwrap();
        assert!(link.is_symlink());
        assert_eq!(fs::read(&real).unwrap(), b"new");
    }

    #[test]
    fn the_sweep_takes_unfinished_files_and_no_others() {
        let node = tempfile::tempdir().unwrap();
        fs::write(node.path().join(".sluice-unfinished-x"), "").unwrap();
        fs::write(node.path().join("10-calico.conflist"), "").unwrap();
        sweep(node.path()).unwrap();
        let left: Vec<_> = fs::read_dir(node.path()).unwrap().flatten().collect();
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].file_name(), "10-calico.conflist");
    }

    #[test]
    fn an_error_names_the_file_and_what_to_do() {
        let source = io::Error::from(io::ErrorKind::ReadOnlyFilesystem);
        let error = Error::io("write", Path::new("/etc/cni/net.d/a.conflist"))(source);
        let text = error.to_string();
        assert!(
            text.contains("cannot write /etc/cni/net.d/a.conflist"),
            "{text}"
        );
        assert!(
            text.ends_with("mount it so that it can be written"),
            "{text}"
        );
    }
}
