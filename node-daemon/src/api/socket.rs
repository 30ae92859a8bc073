//! The socket's file: created for root alone, replaced if its daemon is dead, removed at exit.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, ErrorKind},
    os::unix::{
        ffi::OsStrExt as _,
        fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    sys::stat::{Mode, umask},
};
use sluice_api::{owned, uninstall_marker};
use tokio::net::UnixListener;

/// The socket cannot be created.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Another daemon holds the lock.
    #[error("a daemon already serves {}", path.display())]
    Taken {
        /// The socket.
        path: PathBuf,
    },
    /// The path exists and is not a socket.
    #[error("{} exists and is not a socket; remove it", path.display())]
    InTheWay {
        /// The socket's path.
        path: PathBuf,
    },
    /// Another user can write to the socket's directory.
    #[error("cannot use {} for the socket", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The problem.
        #[source]
        source: io::Error,
    },
    /// A file, directory or socket cannot be created.
    #[error("cannot make {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The kernel's error.
        #[source]
        source: io::Error,
    },
}

/// A listening socket. Dropping it removes its file and its lock.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(super) listener: UnixListener,
    path: PathBuf,
    lock: Lock,
}

/// The lock of the daemon that serves the socket.
#[derive(Debug)]
struct Lock {
    path: PathBuf,
    _file: Flock<File>,
}

impl Socket {
    /// Binds and listens. The process must be single-threaded: the umask is per process.
    pub(crate) fn bind(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Io {
            path: path.into(),
            source,
        };
        if let Some(directory) = path.parent().filter(|one| !one.as_os_str().is_empty()) {
            let mut builder = DirBuilder::new();
            builder.recursive(true).mode(0o755);
            builder.create(directory).map_err(failed)?;
            owned::directory(directory).map_err(|source| Error::Directory {
                path: directory.into(),
                source,
            })?;
        }
        let lock = Lock::take(path)?;
        remove_stale(path)?;
        match fs::remove_file(uninstall_marker(path)) {
            Err(source) if source.kind() != ErrorKind::NotFound => return Err(failed(source)),
            _ => {}
        }
        let before = umask(Mode::from_bits_truncate(0o177));
        let bound = UnixListener::bind(path);
        umask(before);
        Ok(Self {
            listener: bound.map_err(failed)?,
            path: path.into(),
            lock,
        })
    }

    /// Asks the installer to uninstall the plugin.
    pub(crate) fn write_uninstall_marker(&self) -> Result<(), Error> {
        let path = uninstall_marker(&self.path);
        match File::create(&path) {
            Ok(_) => Ok(()),
            Err(source) => Err(Error::Io { path, source }),
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let Self { path, lock, .. } = self;
        for file in [&*path, &lock.path] {
            if let Err(error) = fs::remove_file(file) {
                tracing::warn!(file = %file.display(), %error, "not removed");
            }
        }
    }
}

impl Lock {
    /// The previous daemon removes its lock when it ends: a lock is valid only if its file is still
    /// the one at the path.
    fn take(socket: &Path) -> Result<Self, Error> {
        let mut name = socket.as_os_str().as_bytes().to_owned();
        name.extend_from_slice(b".lock");
        let path =
            PathBuf::from(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(&name));
        let failed = |source| Error::Io {
            path: path.clone(),
            source,
        };
        loop {
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path)
                .map_err(failed)?;
            let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(file) => file,
                Err((_, Errno::EWOULDBLOCK)) => {
                    return Err(Error::Taken {
                        path: socket.into(),
                    });
                }
                Err((_, errno)) => return Err(failed(errno.into())),
            };
            let ours = file.metadata().map_err(failed)?.ino();
            if fs::metadata(&path).is_ok_and(|there| there.ino() == ours) {
                return Ok(Self { path, _file: file });
            }
        }
    }
}

/// Under the lock, an existing socket belongs to a dead daemon.
fn remove_stale(path: &Path) -> Result<(), Error> {
    match fs::symlink_metadata(path) {
        Ok(there) if there.file_type().is_socket() => {
            fs::remove_file(path).map_err(|source| Error::Io {
                path: path.into(),
                source,
            })
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        _ => Err(Error::InTheWay { path: path.into() }),
    }
}
