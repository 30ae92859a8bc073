//! Access to files and directories that only root can change.
//!
//! The process's own user is equivalent to root, so that programs can run in tests without root. Parent
//! directories are not checked: `/run`, `/etc`, `/var/lib` and `/sys/fs/bpf` permit only root to
//! replace root's files there.

use std::{
    fs::{self, File, Metadata},
    io,
    os::unix::fs::MetadataExt as _,
    path::Path,
};

/// Permission bits.
const GROUP_WRITES: u32 = 0o020;
const OTHERS_WRITE: u32 = 0o002;

/// Opens a directory that is owned by root and only writable by root.
///
/// # Errors
///
/// Kernel errors; for a symbolic link, a path that is no directory, another owner, or a mode with write
/// permission for others, an error with the cause and the remedy.
pub fn directory(path: &Path) -> io::Result<File> {
    let seen = fs::symlink_metadata(path)?;
    if seen.is_symlink() {
        return Err(denied(
            "it is a symbolic link; name the directory to which it leads".to_owned(),
        ));
    }
    if !seen.is_dir() {
        return Err(denied("it is not a directory; remove it".to_owned()));
    }
    let opened = File::open(path)?;
    let metadata = opened.metadata()?;
    if (metadata.dev(), metadata.ino()) != (seen.dev(), seen.ino()) {
        return Err(denied("it was replaced at this moment".to_owned()));
    }
    check(&metadata)?;
    Ok(opened)
}

/// Opens a file for reading that is owned by root and only writable by root. Symbolic links are
/// followed: Kubernetes mounts a `ConfigMap` with them.
///
/// # Errors
///
/// As [`directory`].
pub fn file(path: &Path) -> io::Result<File> {
    // `open` on a pipe would block until its other end is open.
    if !fs::metadata(path)?.is_file() {
        return Err(denied("it is not a regular file".to_owned()));
    }
    let opened = File::open(path)?;
    check(&opened.metadata()?)?;
    Ok(opened)
}

fn check(found: &Metadata) -> io::Result<()> {
    let trusted = |uid: u32| uid == 0 || uid == own_user();
    if !trusted(found.uid()) {
        let uid = found.uid();
        return Err(denied(format!(
            "it belongs to uid {uid}, not to root; remove it, or make it root's with chown root:root"
        )));
    }
    let mode = found.mode() & 0o7777;
    let by_group = mode & GROUP_WRITES != 0 && found.gid() != 0;
    if mode & OTHERS_WRITE != 0 || by_group {
        return Err(denied(format!(
            "its mode {mode:04o} lets other users write to it; look at what is there, then chmod go-w"
        )));
    }
    Ok(())
}

/// The effective UID of this process.
fn own_user() -> u32 {
    fs::metadata("/proc/self").map_or(0, |own| own.uid())
}

fn denied(problem: String) -> io::Error {
    io::Error::other(problem)
}

#[cfg(test)]
mod tests {
    use std::{
        io::ErrorKind,
        os::unix::fs::{PermissionsExt as _, chown, symlink},
        path::PathBuf,
    };

    use super::*;

    /// A temporary directory, which is removed on drop.
    struct Place(PathBuf);

    impl Place {
        fn new(test: &str) -> Self {
            let path = std::env::temp_dir().join(format!("owned-{test}-{}", std::process::id()));
            fs::create_dir(&path).expect("a directory for the test");
            Self(path)
        }

        fn chmod(&self, name: &str, mode: u32) {
            let permissions = fs::Permissions::from_mode(mode);
            fs::set_permissions(self.0.join(name), permissions).expect("its mode changes");
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn refusal(opened: io::Result<File>) -> String {
        let error = opened.expect_err("it is refused");
        assert_eq!(error.kind(), ErrorKind::Other, "{error}");
        error.to_string()
    }

    #[test]
    fn directories_of_others_are_refused() {
        let place = Place::new("directories");
        let at = |name: &str| place.0.join(name);
        for name in ["good", "open", "group", "foreign"] {
            fs::create_dir(at(name)).expect("a directory");
            place.chmod(name, 0o755);
        }
        fs::write(at("file"), "").expect("a file");
        symlink("good", at("link")).expect("a link");
        place.chmod("open", 0o1777);
        chown(at("group"), None, Some(65534)).expect("root");
        place.chmod("group", 0o770);
        chown(at("foreign"), Some(65534), None).expect("root");
        assert!(directory(&at("good")).is_ok());
        for (name, problem) in [
            ("open", "mode 1777"),
            ("group", "mode 0770"),
            ("foreign", "uid 65534"),
            ("link", "symbolic link"),
            ("file", "not a directory"),
        ] {
            let said = refusal(directory(&at(name)));
            assert!(said.contains(problem), "{name}: {said}");
        }
        let missing = directory(&at("missing")).expect_err("it is not there");
        assert_eq!(missing.kind(), ErrorKind::NotFound);
    }

    #[test]
    fn files_of_others_are_refused() {
        let place = Place::new("files");
        let at = |name: &str| place.0.join(name);
        for name in ["good", "open", "foreign"] {
            fs::write(at(name), "").expect("a file");
        }
        symlink("good", at("link")).expect("a link");
        place.chmod("open", 0o666);
        chown(at("foreign"), Some(65534), None).expect("root");
        assert!(file(&at("good")).is_ok() && file(&at("link")).is_ok());
        assert!(refusal(file(&at("open"))).contains("mode 0666"));
        assert!(refusal(file(&at("foreign"))).contains("uid 65534"));
        assert!(refusal(file(Path::new("/dev/null"))).contains("regular"));
    }
}
