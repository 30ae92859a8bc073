//! The directory in a BPF file system that keeps maps and links while no daemon runs.
//!
//! ```text
//! ROOT/vABI/maps/NAME       a map
//! ROOT/vABI/hooks/PROGRAM   the link of a program to the cgroup
//! ROOT/vABI/pods/COOKIE     the link of the inbound program to a Pod's network namespace
//! ```
//!
//! A generation is named after the ABI of what it holds. It is built under another name and
//! renamed when it is complete, so that a generation that can be seen is whole. Everything else
//! below the root is what an earlier daemon left: it works on until its successor has taken the
//! Pods over, and is removed then.

use std::{
    ffi::OsStr,
    fs::{self, DirBuilder, File},
    io,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::fs::DirBuilderExt as _,
    },
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};
use sluice_abi::{ABI_VERSION, maps};

use super::Error;

/// Directories of a generation, in the order in which they must be removed: what runs first.
const DIRECTORIES: [&str; 3] = [HOOKS, PODS, MAPS];
const HOOKS: &str = "hooks";
const PODS: &str = "pods";
const MAPS: &str = "maps";

/// The root, owned by one daemon at a time.
#[derive(Debug)]
pub(crate) struct Pins {
    root: PathBuf,
    _lock: Flock<File>,
}

/// Maps and links of one ABI.
#[derive(Clone, Debug)]
pub(super) struct Generation(PathBuf);

/// A BPF file system that nobody else sees, and that goes when it is dropped, with everything
/// that is pinned in it.
pub(crate) struct Private(OwnedFd);

impl Pins {
    /// Makes the directory if need be, and takes the lock.
    ///
    /// # Errors
    ///
    /// [`Error::NotBpffs`] and [`Error::Taken`], each saying what to do; [`Error::Pin`] if the
    /// kernel refuses.
    pub(crate) fn open(root: &Path) -> Result<Self, Error> {
        let failed = |source| Error::pin("open", root, source);
        if let Err(source) = DirBuilder::new().mode(0o700).create(root)
            && source.kind() != io::ErrorKind::AlreadyExists
        {
            return Err(if is_bpffs(root.parent()) {
                failed(source)
            } else {
                Error::NotBpffs { path: root.into() }
            });
        }
        if !is_bpffs(Some(root)) {
            return Err(Error::NotBpffs { path: root.into() });
        }
        let directory = File::open(root).map_err(failed)?;
        match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self {
                root: root.into(),
                _lock: lock,
            }),
            Err((_, Errno::EWOULDBLOCK)) => Err(Error::Taken { path: root.into() }),
            Err((_, errno)) => Err(failed(errno.into())),
        }
    }

    /// The generation of this daemon's ABI, if a complete one is there. One that somebody took
    /// something from is set aside.
    pub(super) fn current(&self) -> Result<Option<Generation>, Error> {
        let generation = Generation(self.path());
        if !generation.0.exists() {
            return Ok(None);
        }
        if maps::ALL.iter().all(|name| generation.map(name).exists()) {
            return Ok(Some(generation));
        }
        let aside = self.free_name("incomplete")?;
        fs::rename(&generation.0, &aside)
            .map_err(|source| Error::pin("rename", &generation.0, source))?;
        tracing::warn!(path = %aside.display(), "maps are missing there: building anew");
        Ok(None)
    }

    /// An empty generation, which is not seen until it is published.
    pub(super) fn begin(&self) -> Result<Generation, Error> {
        // No dots: bpffs reserves them (`bpf_lookup` in kernel/bpf/inode.c).
        let path = self.root.join(format!("v{ABI_VERSION}-unfinished"));
        remove(&path, &mut Vec::new())?;
        let generation = Generation(path);
        generation.make_directories()?;
        Ok(generation)
    }

    /// Makes a complete generation the current one.
    pub(super) fn publish(&self, generation: &Generation) -> Result<Generation, Error> {
        let path = self.path();
        fs::rename(&generation.0, &path).map_err(|source| Error::pin("make", &path, source))?;
        Ok(Generation(path))
    }

    /// Removes everything but the current generation, and tells what it was.
    pub(super) fn remove_others(&self) -> Result<Vec<PathBuf>, Error> {
        let current = self.path();
        let others: Vec<_> = (entries(&self.root)?.into_iter())
            .filter(|path| *path != current)
            .collect();
        others
            .iter()
            .try_for_each(|path| remove(path, &mut Vec::new()))?;
        Ok(others)
    }

    /// Removes everything, programs before what they read, and tells which pins there were.
    pub(crate) fn remove_all(self) -> Result<Vec<PathBuf>, Error> {
        let mut removed = Vec::new();
        remove(&self.root, &mut removed)?;
        Ok(removed)
    }

    fn path(&self) -> PathBuf {
        self.root.join(format!("v{ABI_VERSION}"))
    }

    fn free_name(&self, what: &str) -> Result<PathBuf, Error> {
        let count = entries(&self.root)?.len();
        Ok(self.root.join(format!("{what}-{count}")))
    }
}

impl Generation {
    /// Makes those that are not there.
    pub(super) fn make_directories(&self) -> Result<(), Error> {
        for name in DIRECTORIES {
            let directory = self.0.join(name);
            let mut builder = DirBuilder::new();
            let made = builder.recursive(true).mode(0o700).create(&directory);
            made.map_err(|source| Error::pin("make", &directory, source))?;
        }
        Ok(())
    }

    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.0.join(MAPS).join(name)
    }

    pub(super) fn hook(&self, program: &str) -> PathBuf {
        self.0.join(HOOKS).join(program)
    }

    pub(super) fn pod(&self, cookie: u64) -> PathBuf {
        self.0.join(PODS).join(cookie.to_string())
    }

    /// Programs that have a link.
    pub(super) fn hooks(&self) -> Result<Vec<PathBuf>, Error> {
        entries(&self.0.join(HOOKS))
    }

    /// Network namespaces that have a link, by cookie.
    pub(super) fn pods(&self) -> Result<Vec<u64>, Error> {
        let cookie = |path: PathBuf| path.file_name()?.to_str()?.parse().ok();
        Ok(entries(&self.0.join(PODS))?
            .into_iter()
            .filter_map(cookie)
            .collect())
    }
}

impl Private {
    /// Mounts one, outside of every directory tree.
    pub(crate) fn mount() -> io::Result<Self> {
        let filesystem = fsopen("bpf", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_create(&filesystem)?;
        let mount = fsmount(
            &filesystem,
            FsMountFlags::FSMOUNT_CLOEXEC,
            MountAttrFlags::empty(),
        )?;
        Ok(Self(mount))
    }

    /// A directory in it, as this process reaches it.
    pub(crate) fn directory(&self) -> PathBuf {
        format!("/proc/self/fd/{}/sluice", self.0.as_raw_fd()).into()
    }
}

fn is_bpffs(path: Option<&Path>) -> bool {
    path.and_then(|path| statfs(path).ok())
        .is_some_and(|found| found.filesystem_type() == BPF_FS_MAGIC)
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = |source| Error::pin("list", directory, source);
    let listed: io::Result<Vec<_>> = fs::read_dir(directory)
        .map_err(failed)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect();
    let mut paths = listed.map_err(failed)?;
    paths.sort_unstable();
    Ok(paths)
}

/// Removes a pin, or a directory with all its pins, if it is there. Adds the pins to `removed`.
pub(super) fn remove(path: &Path, removed: &mut Vec<PathBuf>) -> Result<(), Error> {
    let failed = |source| Error::pin("remove", path, source);
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(failed(source)),
        Ok(found) if found.is_dir() => {
            let mut inside = entries(path)?;
            inside.sort_by_key(|one| rank(one.file_name()));
            inside.iter().try_for_each(|one| remove(one, removed))?;
            fs::remove_dir(path).map_err(failed)
        }
        Ok(_) => {
            removed.push(path.into());
            fs::remove_file(path).map_err(failed)
        }
    }
}

/// The place of a directory in the order of removal.
fn rank(name: Option<&OsStr>) -> Option<usize> {
    DIRECTORIES
        .iter()
        .position(|known| name == Some(OsStr::new(known)))
}
