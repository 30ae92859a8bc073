//! The errors of work on a network namespace.

use std::{
    io,
    path::{Path, PathBuf},
};

use nix::errno::Errno;

use crate::shortage::{is_io_shortage, is_shortage};

/// A network namespace cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The path does not exist, or cannot be opened.
    #[error("cannot open the network namespace '{}'", path.display())]
    Open {
        /// The path.
        path: PathBuf,
        /// The kernel's error.
        #[source]
        source: io::Error,
    },
    /// The path is not a network namespace.
    #[error("'{}' is not a network namespace", path.display())]
    NotNetns {
        /// The path.
        path: PathBuf,
    },
    /// The path is the host's network namespace.
    #[error("'{}' is the host's own network namespace", path.display())]
    Host {
        /// The path.
        path: PathBuf,
    },
    /// No thread could be spawned to enter a namespace.
    #[error("no thread for work on network namespaces")]
    Thread(#[source] io::Error),
    /// The work panicked.
    #[error("the daemon panicked; its standard error names the place")]
    Panic,
    /// A system call failed.
    #[error("{call} fails in the network namespace")]
    Call {
        /// Its name.
        call: &'static str,
        /// The kernel's error.
        #[source]
        source: Errno,
    },
    /// A file or socket inside the namespace.
    #[error("cannot use {what} in the network namespace")]
    Io {
        /// The file or socket.
        what: &'static str,
        /// The kernel's error.
        #[source]
        source: io::Error,
    },
    /// A kernel setting of the namespace cannot be changed.
    #[error("cannot change the setting {setting} of the network namespace")]
    Setting {
        /// Its name below `/proc/sys`.
        setting: &'static str,
        /// The kernel's error.
        #[source]
        source: io::Error,
    },
    /// A listening socket of a process inside cannot be duplicated.
    #[error("the listening socket of process {pid} cannot be fetched")]
    Fetch {
        /// The process.
        pid: i32,
        /// The kernel's error.
        #[source]
        source: io::Error,
    },
    /// The kernel cannot translate the ids of a user namespace.
    #[error(
        "the users of the Pod's user namespace cannot be translated: that needs Linux 6.3 (idmapped \
         tmpfs) and CAP_SYS_ADMIN; without it, run the Pod with hostUsers: true"
    )]
    Users(#[source] io::Error),
    /// The kernel cannot end sockets.
    #[error(
        "the kernel cannot end connections: it is built without CONFIG_INET_DIAG_DESTROY; restart the \
         process that holds them"
    )]
    NoDestroy,
    /// More objects than a Pod may have.
    #[error("the network namespace has more than {limit} {what}, which no Pod needs")]
    TooMany {
        /// Their kind.
        what: &'static str,
        /// The limit of the number that is read.
        limit: usize,
    },
    /// A request over rtnetlink.
    #[error("rtnetlink: cannot {operation}")]
    Netlink {
        /// The failed operation.
        operation: &'static str,
        /// The kernel's error.
        #[source]
        source: rtnetlink::Error,
    },
}

impl Error {
    pub(super) fn open(path: &Path, source: io::Error) -> Self {
        Self::Open {
            path: path.into(),
            source,
        }
    }

    /// Whether the path leads to no namespace of a Pod.
    pub(crate) fn is_absence(&self) -> bool {
        match self {
            // Other files have many errors: `ENXIO` for a socket, `ELOOP` for a symbolic link to itself.
            Self::Open { source, .. } => {
                let unknown = [Errno::EACCES, Errno::EPERM, Errno::EIO, Errno::EINTR];
                let errno = source.raw_os_error().map(Errno::from_raw);
                errno.is_some_and(|errno| !is_shortage(errno) && !unknown.contains(&errno))
            }
            Self::NotNetns { .. } | Self::Host { .. } => true,
            _ => false,
        }
    }

    /// Whether the machine lacks descriptors, memory or threads.
    pub(crate) fn is_shortage(&self) -> bool {
        match self {
            Self::Thread(_) => true,
            Self::Call { source, .. } => is_shortage(*source),
            Self::Open { source, .. } | Self::Io { source, .. } => is_io_shortage(source),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absence_and_shortage_differ() {
        let open = |errno: Errno| Error::open(Path::new("/run/netns/a"), errno.into());
        let call = |source| Error::Call {
            call: "setns",
            source,
        };
        for (error, absence, shortage) in [
            (open(Errno::ENOENT), true, false),
            (open(Errno::ENOTDIR), true, false),
            (open(Errno::ENXIO), true, false),
            (Error::NotNetns { path: "/".into() }, true, false),
            (Error::Host { path: "/".into() }, true, false),
            (open(Errno::EMFILE), false, true),
            (open(Errno::ENFILE), false, true),
            (Error::Thread(Errno::EAGAIN.into()), false, true),
            (Error::Panic, false, false),
            (call(Errno::ENOMEM), false, true),
            (open(Errno::EACCES), false, false),
            (call(Errno::EPERM), false, false),
        ] {
            let seen = (error.is_absence(), error.is_shortage());
            assert_eq!(seen, (absence, shortage), "{error:?}");
        }
    }
}
