//! What can go wrong with a network namespace.

use std::{
    io,
    path::{Path, PathBuf},
};

use nix::errno::Errno;

/// A network namespace cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// There is nothing at the path, or it cannot be opened.
    #[error("cannot open the network namespace '{}'", path.display())]
    Open {
        /// The path.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The path leads to something else.
    #[error("'{}' is not a network namespace", path.display())]
    NotNetns {
        /// The path.
        path: PathBuf,
    },
    /// The path leads to the host's network namespace.
    #[error("'{}' is the host's own network namespace", path.display())]
    Host {
        /// The path.
        path: PathBuf,
    },
    /// No thread could be started to enter the namespace, or it ended early.
    #[error("no thread for work inside a network namespace")]
    Thread(#[source] Option<io::Error>),
    /// A system call failed.
    #[error("{call} fails in the network namespace")]
    Call {
        /// Its name.
        call: &'static str,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// A file or socket inside the namespace.
    #[error("cannot use {what} in the network namespace")]
    Io {
        /// The file or socket.
        what: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A socket that a process inside listens on.
    #[error("the listening socket of process {pid} cannot be fetched")]
    Fetch {
        /// The process.
        pid: i32,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Users of a user namespace cannot be translated.
    #[error(
        "the users of the Pod's user namespace cannot be translated: that needs Linux 6.3 (idmapped \
         tmpfs) and CAP_SYS_ADMIN; without it, run the Pod with hostUsers: true"
    )]
    Users(#[source] io::Error),
    /// More of something than a Pod may have.
    #[error("the network namespace has more than {limit} {what}, which no Pod needs")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// As many are read.
        limit: usize,
    },
    /// A request to the kernel's routing subsystem.
    #[error("rtnetlink: cannot {operation}")]
    Netlink {
        /// What was tried.
        operation: &'static str,
        /// What the kernel said.
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
}
