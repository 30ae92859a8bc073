//! Atomic changes of files: after a crash a file has its old content or its new one.
//!
//! The new content is written to a temporary file, flushed, and renamed over the file; then the directory
//! is flushed, which makes the rename durable. A file with other names (hard links) is written in place,
//! by one call.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use tempfile::NamedTempFile;
use thiserror::Error;

use crate::{
    attributes::{Access, has_other_names, is_immutable},
    failpoint,
};

/// Prefix of the names of temporary files. They have no extension that a runtime reads.
const UNFINISHED: &str = ".sluice-unfinished-";

#[derive(Debug, Error)]
pub(crate) enum Error {
    #[error("cannot {action} {}: {source}{}", path.display(), advice(source, path))]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{} was changed by another program at the same moment", path.display())]
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

fn advice(error: &io::Error, path: &Path) -> String {
    let text = match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem => "; mount it so that it can be written",
        io::ErrorKind::PermissionDenied => return forbidden(path),
        io::ErrorKind::StorageFull => "; make room on the disk",
        io::ErrorKind::ResourceBusy => "; mount its directory, not the file alone",
        _ => "",
    };
    text.to_owned()
}

/// The cause of a refused change: an attribute of the file or of its directory, which also restricts root,
/// the user, or a security module.
fn forbidden(path: &Path) -> String {
    let mut both = [path, directory(path)].into_iter();
    if let Some(path) = both.find(|path| is_immutable(path)) {
        let path = path.display();
        return format!("; {path} is immutable: run 'chattr -i -a {path}' first");
    }
    if nix::unistd::geteuid().is_root() {
        return "; a security module or a missing capability forbids it: see 'ausearch -m avc' or \
                'journalctl -k'"
            .to_owned();
    }
    "; run as root".to_owned()
}

/// Writes a file's new content, or creates the file. The target of a symbolic link is written.
pub(crate) fn write(path: &Path, content: &[u8], access: &Access) -> Result<(), Error> {
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if has_other_names(&target) {
        return overwrite(&target, content).map_err(Error::io("write", path));
    }
    replace(&target, content, access)
}

/// Replaces a file by a new one. Other names of the old file keep the old content.
pub(crate) fn replace(path: &Path, content: &[u8], access: &Access) -> Result<(), Error> {
    let directory = directory(path);
    let failed = || Error::io("write", path);
    let mut part = NamedTempFile::with_prefix_in(UNFINISHED, directory).map_err(failed())?;
    fill(part.as_file_mut(), content, access).map_err(failed())?;
    failpoint::hit();
    part.persist(path).map_err(|error| failed()(error.error))?;
    flush(directory)
}

fn fill(file: &mut File, content: &[u8], access: &Access) -> io::Result<()> {
    file.write_all(content)?;
    access.give(file)?;
    file.sync_all()
}

/// Writes a file in place. A content that is shorter than the old one is first padded with blanks,
/// which JSON allows at the end: a reader gets the old content or the new one.
fn overwrite(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    let old = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    let mut padded = content.to_vec();
    padded.resize(old.max(content.len()), b' ');
    file.write_all(&padded)?;
    failpoint::hit();
    file.set_len(content.len() as u64)?;
    file.sync_all()
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

/// Removes the temporary files of a run that was killed.
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
    failpoint::hit();
    match flushed {
        // Its last file was removed, and another process has removed the directory since.
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
            write(&path, content.as_bytes(), &Access::own(mode)).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
            assert!(Access::of(&path).unwrap().is_like(&Access::own(mode)));
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
        write(&link, b"new", &Access::own(0o644)).unwrap();
        assert!(link.is_symlink());
        assert_eq!(fs::read(&real).unwrap(), b"new");
    }

    #[test]
    fn file_with_two_names_keeps_both() {
        let node = tempfile::tempdir().unwrap();
        let (path, other) = (node.path().join("a.conflist"), node.path().join("other"));
        fs::write(&path, "{\"a\": 1}").unwrap();
        fs::hard_link(&path, &other).unwrap();
        for content in ["{\"a\": 1, \"b\": 2}", "{}", ""] {
            write(&path, content.as_bytes(), &Access::own(0o644)).unwrap();
            assert_eq!(fs::read_to_string(&other).unwrap(), content);
        }
    }

    #[test]
    fn new_content_keeps_extended_attributes() {
        use rustix::fs::{XattrFlags, getxattr, setxattr};
        let node = tempfile::tempdir().unwrap();
        let path = node.path().join("a.conflist");
        fs::write(&path, "old").unwrap();
        setxattr(&path, "user.label", b"cni_conf_t", XattrFlags::empty()).unwrap();
        write(&path, b"new", &Access::of(&path).unwrap()).unwrap();
        let mut value = [0; 32];
        let length = getxattr(&path, "user.label", &mut value).unwrap();
        assert_eq!(&value[..length], b"cni_conf_t");
        assert_eq!(fs::read(&path).unwrap(), b"new");
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
    fn error_names_the_file_and_the_remedy() {
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
