//! Errors of operations on programs, links, maps and pins.

use std::{
    io,
    path::{Path, PathBuf},
};

use aya::{EbpfError, maps::MapError, programs::ProgramError};

/// An operation on programs, links or maps failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The object with maps and programs was rejected.
    #[error(
        "the kernel rejected the BPF object: is CAP_BPF missing, or the kernel older than 5.15?"
    )]
    Object(#[source] EbpfError),
    /// A program was rejected. The source has the verifier's log.
    #[error("the kernel rejected the program '{program}'")]
    Program {
        /// Its name in the object.
        program: String,
        /// The kernel's error.
        #[source]
        source: ProgramError,
    },
    /// The cgroup for the programs could not be opened.
    #[error("cannot open the cgroup {}", path.display())]
    Cgroup {
        /// The directory.
        path: PathBuf,
        /// The kernel's error.
        #[source]
        source: io::Error,
    },
    /// A program could not be attached.
    #[error("cannot attach the program '{program}'")]
    Attach {
        /// Its name in the object.
        program: &'static str,
        /// The kernel's error.
        #[source]
        source: io::Error,
    },
    /// A program of another owner holds the hook exclusively.
    #[error(
        "cannot attach the program '{program}' to {}: {holder} holds the hook exclusively. Show it \
         with 'bpftool cgroup show {}'; its owner must attach it with BPF_F_ALLOW_MULTI or detach it",
        cgroup.display(), cgroup.display()
    )]
    Exclusive {
        /// Its name in the object.
        program: &'static str,
        /// The root cgroup.
        cgroup: PathBuf,
        /// Names and IDs of the programs there.
        holder: String,
    },
    /// The kernel does not measure programs.
    #[error(
        "the kernel's statistics of programs cannot be enabled: that needs Linux 5.8 and CAP_SYS_ADMIN"
    )]
    Stats(#[source] io::Error),
    /// The ring buffer could not be used.
    #[error("cannot read the ring buffer of found network namespaces")]
    Listen(#[source] io::Error),
    /// An operation on a pin or on a directory of pins failed.
    #[error("cannot {operation} {}", path.display())]
    Pin {
        /// The operation.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The kernel's error.
        #[source]
        source: io::Error,
    },
    /// The directory for pins is not in a BPF file system.
    #[error(
        "{} is not in a BPF file system: mount one (mount -t bpf bpf /sys/fs/bpf), or name a \
         directory in one with --bpffs",
        path.display()
    )]
    NotBpffs {
        /// The directory.
        path: PathBuf,
    },
    /// Another daemon owns the pins.
    #[error("another sluiced owns {}: stop it first", path.display())]
    Taken {
        /// The directory.
        path: PathBuf,
    },
    /// An operation on a map failed.
    #[error("cannot {operation} the map '{map}'")]
    Map {
        /// Its name in the object.
        map: &'static str,
        /// The operation.
        operation: &'static str,
        /// The kernel's error.
        #[source]
        source: MapError,
    },
    /// The object and the daemon are from different builds.
    #[error("the BPF object has no '{name}': it was not built with this daemon")]
    Missing {
        /// The missing program or map.
        name: &'static str,
    },
    /// Every listener slot of a Pod's proxy is in use.
    #[error("the proxy has more than {slots} listeners on its inbound port")]
    NoListenerSlot {
        /// The number of slots.
        slots: u16,
    },
}

impl Error {
    pub(super) fn pin(operation: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Pin {
            operation,
            path: path.into(),
            source,
        }
    }

    pub(super) fn program(name: &str, source: ProgramError) -> Self {
        Self::Program {
            program: name.to_owned(),
            source,
        }
    }

    pub(super) fn map(map: &'static str, operation: &'static str, source: MapError) -> Self {
        Self::Map {
            map,
            operation,
            source,
        }
    }

    pub(super) fn cgroup(path: &Path, source: io::Error) -> Self {
        Self::Cgroup {
            path: path.into(),
            source,
        }
    }

    pub(super) fn attach(program: &'static str, source: io::Error) -> Self {
        Self::Attach { program, source }
    }
}
