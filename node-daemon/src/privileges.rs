//! The daemon's privileges: it drops all that it does not need at its start.
//!
//! It parses untrusted input: annotations, paths, other processes' descriptors. An attacker who
//! takes over the daemon gets neither root's other capabilities nor a way to execute another
//! program.

use caps::{CapSet, Capability, CapsHashSet, errors::CapsError};
use nix::sys::prctl::set_no_new_privs;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

/// The capabilities that are kept, and what fails without each. `CAP_BPF` is a part of
/// `CAP_SYS_ADMIN` (`capabilities(7)`).
const NEEDED: [(Capability, &str); 4] = [
    (
        Capability::CAP_NET_ADMIN,
        "to attach programs to cgroups and to Pods' network namespaces",
    ),
    (
        Capability::CAP_SYS_ADMIN,
        "to load programs and to enter Pods' network namespaces",
    ),
    (
        Capability::CAP_SYS_PTRACE,
        "to see which network namespace a process has, and to fetch listening sockets",
    ),
    (
        Capability::CAP_DAC_READ_SEARCH,
        "to find the listening sockets of sidecars, which are not root's",
    ),
];

/// The system calls that execute another program.
const EXEC: [libc::c_long; 2] = [libc::SYS_execve, libc::SYS_execveat];

/// The daemon has too few privileges, or cannot drop the others.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// It was started without a capability.
    #[error(
        "the daemon needs {capability}, {reason}: run it as root, and in a container add the capability"
    )]
    Missing {
        /// The missing capability.
        capability: Capability,
        /// Its purpose.
        reason: &'static str,
    },
    /// Capabilities cannot be read or dropped.
    #[error("cannot change capabilities")]
    Capabilities(#[from] CapsError),
    /// `PR_SET_NO_NEW_PRIVS`.
    #[error("cannot set no_new_privs")]
    NoNewPrivileges(#[from] nix::Error),
    /// The seccomp filter.
    #[error("cannot filter system calls")]
    Filter(#[from] seccompiler::Error),
}

/// The first needed capability that this process does not have, and its purpose.
pub(crate) fn missing() -> Result<Option<(Capability, &'static str)>, Error> {
    let held = caps::read(None, CapSet::Permitted)?;
    let missing = NEEDED
        .iter()
        .find(|(capability, _)| !held.contains(capability));
    Ok(missing.copied())
}

/// Drops unneeded privileges. The process must be single-threaded: capabilities and filters are per
/// thread, and inherited by new threads.
pub(crate) fn drop_privileges() -> Result<(), Error> {
    if let Some((capability, reason)) = missing()? {
        return Err(Error::Missing { capability, reason });
    }
    set_no_new_privs()?;
    forbid_exec()?;
    let needed = CapsHashSet::from(NEEDED.map(|(capability, _)| capability));
    caps::clear(None, CapSet::Ambient)?;
    // The permitted set comes last: it bounds the other sets.
    for set in [CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        let kept = caps::read(None, set)?
            .intersection(&needed)
            .copied()
            .collect();
        caps::set(None, set, &kept)?;
    }
    Ok(())
}

/// Makes every attempt to execute a program fail with `EPERM`, in this thread and its descendants.
fn forbid_exec() -> Result<(), Error> {
    let calls = EXEC.map(|call| (call, Vec::new()));
    let errno = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let architecture = std::env::consts::ARCH
        .try_into()
        .map_err(seccompiler::Error::Backend)?;
    let filter = SeccompFilter::new(calls.into(), SeccompAction::Allow, errno, architecture)
        .map_err(seccompiler::Error::Backend)?;
    let program = BpfProgram::try_from(filter).map_err(seccompiler::Error::Backend)?;
    Ok(seccompiler::apply_filter(&program)?)
}
