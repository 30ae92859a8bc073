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
    #[error("the kernel rejected the BPF object: is CAP_BPF missing?")]
    Object(#[source] EbpfError),
    /// A program could not be loaded or used.
    #[error("the kernel rejected the program '{program}'")]
    Program {
        /// Its name in the object.
        program: String,
        /// The kernel's error.
        #[source]
        source: ProgramError,
    },
    /// The verifier rejected a program.
    #[error(
        "the kernel rejected the program '{program}' ('sluiced check-kernel --verbose' prints the verifier's log)"
    )]
    Verifier {
        /// Its name in the object.
        program: String,
        /// The verifier's log, of many lines.
        log: String,
        /// The kernel's error.
        #[source]
        source: io::Error,
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
        let program = name.to_owned();
        match source {
            ProgramError::LoadError {
                io_error: source,
                verifier_log,
            } => Self::Verifier {
                program,
                log: verifier_log.to_string(),
                source,
            },
            source => Self::Program { program, source },
        }
    }

    /// Whether the kernel rejected the object or a program of it.
    pub(crate) fn is_rejection(&self) -> bool {
        matches!(
            self,
            Self::Object(_) | Self::Program { .. } | Self::Verifier { .. }
        )
    }

    /// The verifier's log, if it rejected a program.
    pub(crate) fn verifier_log(&self) -> Option<&str> {
        match self {
            Self::Verifier { log, .. } => Some(log),
            _ => None,
        }
    }

    /// The verifier's rejection of a program.
    #[cfg(test)]
    pub(crate) fn rejected_for_test(program: &str, log: &str) -> Self {
        Self::Verifier {
            program: program.to_owned(),
            log: log.to_owned(),
            source: io::Error::from_raw_os_error(libc::EACCES),
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
