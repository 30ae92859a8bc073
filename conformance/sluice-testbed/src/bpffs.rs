//! A BPF file system of the lab's own.

use std::{
    os::fd::{AsRawFd as _, OwnedFd},
    path::PathBuf,
};

use anyhow::{Context as _, Result};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

/// Mounted nowhere: it ends with this process, however that ends, and takes its pins with it.
pub struct Bpffs(OwnedFd);

impl Bpffs {
    /// Makes one.
    pub fn mount() -> Result<Self> {
        let make = || {
            let filesystem = fsopen("bpf", FsOpenFlags::FSOPEN_CLOEXEC)?;
            fsconfig_create(&filesystem)?;
            let (flags, attributes) = (FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty());
            fsmount(&filesystem, flags, attributes)
        };
        make().map(Self).context("cannot make a BPF file system")
    }

    /// A directory in it for the daemon's pins, as the daemon reaches it.
    pub fn pins(&self) -> PathBuf {
        let (pid, fd) = (std::process::id(), self.0.as_raw_fd());
        format!("/proc/{pid}/fd/{fd}/sluice").into()
    }
}
