//! The directory of pins in a BPF file system, which keeps maps and links while no daemon runs.
//!
//! ```text
//! ROOT/vABI/maps/NAME       a map
//! ROOT/vABI/hooks/PROGRAM   the link of a program to the root cgroup
//! ROOT/vABI/root/PROGRAM    a program that is attached to the root cgroup without a link
//! ROOT/vABI/root/cgroup     a symbolic link to that cgroup
//! ROOT/vABI/children/ID/PROGRAM  the link of a program to the child cgroup with this inode number
//! ROOT/vABI/programs/NAME   a loaded program
//! ROOT/vABI/programs/seal   a symbolic link that identifies them
//! ROOT/vABI/pods/COOKIE     the link of the inbound program to a Pod's network namespace
//! ```
//!
//! The name of a generation is its ABI version. A generation is built under another name and renamed
//! when it is complete, so that a visible generation is always complete. Everything else below the root
//! belongs to an earlier daemon: it stays active until its successor has moved the Pods, and is removed
//! then.

use std::{
    ffi::OsStr,
    fs::{self, DirBuilder, File},
    io,
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
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
use sluice_api::owned;

use super::{
    Error,
    cgroup_prog::{self, ProgramInfo},
};

/// Directories of a generation, in the order of their removal: active programs first.
const DIRECTORIES: [&str; 6] = [CHILDREN, ROOT, HOOKS, PODS, PROGRAMS, MAPS];
const CHILDREN: &str = "children";
const ROOT: &str = "root";
/// The symbolic link in [`ROOT`].
const CGROUP: &str = "cgroup";
const HOOKS: &str = "hooks";
const PODS: &str = "pods";
const PROGRAMS: &str = "programs";
/// The symbolic link in [`PROGRAMS`].
const SEAL: &str = "seal";
const MAPS: &str = "maps";

/// The descriptors of this process, through which it accesses private file systems.
const OWN_FILES: &str = "/proc/self/fd";

/// The root directory, locked by one daemon at a time.
#[derive(Debug)]
pub(crate) struct Pins {
    root: PathBuf,
    _lock: Flock<File>,
}

/// The maps and links of one ABI version.
#[derive(Clone, Debug)]
pub(super) struct Generation(PathBuf);

/// A private BPF file system, detached from every directory tree. It disappears on drop with all its
/// pins.
pub(crate) struct PrivateBpffs(OwnedFd);

impl Pins {
    /// Creates the directory if necessary, and locks it. An existing directory must be writable only by
    /// root: the root of a BPF file system can be world-writable (mode 1777), and the creator of the
    /// directory could replace every pin.
    ///
    /// # Errors
    ///
    /// [`Error::NotBpffs`] and [`Error::Taken`], each with the remedy; [`Error::Pin`] if the kernel
    /// fails, or another user can write to the directory.
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
        let directory = owned::directory(root).map_err(|source| Error::pin("use", root, source))?;
        if !is_bpffs(Some(root)) {
            return Err(Error::NotBpffs { path: root.into() });
        }
        match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self {
                root: root.into(),
                _lock: lock,
            }),
            Err((_, Errno::EWOULDBLOCK)) => Err(Error::Taken { path: root.into() }),
            Err((_, errno)) => Err(failed(errno.into())),
        }
    }

    /// The complete generation of this daemon's ABI, if there is one. An incomplete one is renamed.
    pub(super) fn current(&self) -> Result<Option<Generation>, Error> {
        let generation = Generation(self.path());
        if !generation.0.exists() {
            return Ok(None);
        }
        if maps::ALL.iter().all(|name| generation.map(name).exists()) {
            return Ok(Some(generation));
        }
        let backup = self.free_name("incomplete")?;
        fs::rename(&generation.0, &backup)
            .map_err(|source| Error::pin("rename", &generation.0, source))?;
        tracing::warn!(path = %backup.display(), "generation lacks maps of this version; building a new one beside it");
        Ok(None)
    }

    /// An empty generation, which is invisible until it is published.
    pub(super) fn begin(&self) -> Result<Generation, Error> {
        // No dots: bpffs reserves them (`bpf_lookup` in kernel/bpf/inode.c).
        let path = self.root.join(format!("v{ABI_VERSION}-unfinished"));
        remove(&path, &mut Vec::new())?;
        let generation = Generation(path);
        generation.make_directories()?;
        Ok(generation)
    }

    /// Renames a complete generation to be the current one.
    pub(super) fn publish(&self, generation: &Generation) -> Result<Generation, Error> {
        let path = self.path();
        fs::rename(&generation.0, &path).map_err(|source| Error::pin("make", &path, source))?;
        Ok(Generation(path))
    }

    /// Removes everything but the current generation, and returns the removed paths.
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

    /// Removes everything, programs before their maps, and returns the removed pins.
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
    /// Creates the missing directories.
    pub(super) fn make_directories(&self) -> Result<(), Error> {
        (DIRECTORIES.iter()).try_for_each(|name| Self::make(&self.0.join(name)))
    }

    /// Creates a directory of a generation, unless it exists.
    pub(super) fn make(directory: &Path) -> Result<(), Error> {
        let mut builder = DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(directory);
        made.map_err(|source| Error::pin("make", directory, source))
    }

    /// Whether it ends with this process: then it must hold links, which end with it.
    pub(super) fn is_private(&self) -> bool {
        self.0.starts_with(OWN_FILES)
    }

    /// Stores the root cgroup: the removal of the generation must detach programs there.
    pub(super) fn set_root(&self, cgroup: &Path) -> Result<(), Error> {
        if self.is_private() {
            return Ok(());
        }
        let link = self.0.join(ROOT).join(CGROUP);
        if fs::read_link(&link).is_ok_and(|known| known == cgroup) {
            return Ok(());
        }
        let _ = fs::remove_file(&link);
        std::os::unix::fs::symlink(cgroup, &link)
            .map_err(|source| Error::pin("make", &link, source))
    }

    /// The pin of a program at the root cgroup.
    pub(super) fn root_program(&self, program: &str) -> PathBuf {
        self.0.join(ROOT).join(program)
    }

    /// IDs of the root programs that this generation and its siblings hold.
    pub(super) fn all_root_programs(&self) -> Vec<u32> {
        let generations = self.0.parent().map(entries);
        let pins = (generations.into_iter().flatten().flatten())
            .flat_map(|one| entries(&one.join(ROOT)).unwrap_or_default());
        let id = |pin: PathBuf| {
            let program = cgroup_prog::pinned(&pin).ok()??;
            Some(ProgramInfo::of(program.as_fd()).ok()?.id)
        };
        pins.filter_map(id).collect()
    }

    /// The directory for the links of a child cgroup.
    pub(super) fn child(&self, id: u64) -> PathBuf {
        self.0.join(CHILDREN).join(id.to_string())
    }

    /// The existing directories of child cgroups.
    pub(super) fn children(&self) -> Result<Vec<PathBuf>, Error> {
        entries(&self.0.join(CHILDREN))
    }

    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.0.join(MAPS).join(name)
    }

    pub(super) fn hook(&self, program: &str) -> PathBuf {
        self.0.join(HOOKS).join(program)
    }

    /// The pin of a loaded program.
    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.0.join(PROGRAMS).join(name)
    }

    /// The symbolic link that identifies the pinned programs.
    pub(super) fn seal(&self) -> PathBuf {
        self.program(SEAL)
    }

    /// The pins of loaded programs.
    pub(super) fn programs(&self) -> Result<Vec<PathBuf>, Error> {
        entries(&self.0.join(PROGRAMS))
    }

    pub(super) fn pod(&self, cookie: u64) -> PathBuf {
        self.0.join(PODS).join(cookie.to_string())
    }

    /// The pins of programs with a link to the root cgroup.
    pub(super) fn hooks(&self) -> Result<Vec<PathBuf>, Error> {
        entries(&self.0.join(HOOKS))
    }

    /// Cookies of the network namespaces with a link.
    pub(super) fn pods(&self) -> Result<Vec<u64>, Error> {
        let cookie = |path: PathBuf| path.file_name()?.to_str()?.parse().ok();
        Ok(entries(&self.0.join(PODS))?
            .into_iter()
            .filter_map(cookie)
            .collect())
    }
}

impl PrivateBpffs {
    /// Mounts a BPF file system outside every directory tree.
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

    /// The path of a directory in it, for this process.
    pub(crate) fn directory(&self) -> PathBuf {
        let number = self.0.as_raw_fd().to_string();
        Path::new(OWN_FILES).join(number).join("sluice")
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

/// Removes a pin, or a directory with all its pins, if it exists. Adds the pins to `removed`.
pub(super) fn remove(path: &Path, removed: &mut Vec<PathBuf>) -> Result<(), Error> {
    let failed = |source| Error::pin("remove", path, source);
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(failed(source)),
        Ok(found) if found.is_dir() => {
            if let Ok(cgroup) = fs::read_link(path.join(CGROUP)) {
                cgroup_prog::detach_pinned(path, &cgroup).map_err(failed)?;
            }
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

/// The rank of a directory in the order of removal.
fn rank(name: Option<&OsStr>) -> Option<usize> {
    DIRECTORIES
        .iter()
        .position(|known| name == Some(OsStr::new(known)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

    use super::*;

    fn refusal(root: &Path) -> String {
        let error = Pins::open(root).unwrap_err();
        assert!(matches!(error, Error::Pin { .. }), "{error}");
        let source = std::error::Error::source(&error).unwrap();
        format!("{error}: {source}")
    }

    #[test]
    fn directory_of_another_user_is_refused() {
        let private = PrivateBpffs::mount().unwrap();
        let root = private.directory();
        drop(Pins::open(&root).unwrap());
        drop(Pins::open(&root).unwrap());

        let place = root.parent().unwrap();
        let at = |name: &str| place.join(name);
        for name in ["foreign", "open"] {
            fs::create_dir(at(name)).unwrap();
        }
        chown(at("foreign"), Some(65534), None).unwrap();
        fs::set_permissions(at("open"), fs::Permissions::from_mode(0o777)).unwrap();
        symlink("sluice", at("link")).unwrap();
        for (name, problem) in [
            ("foreign", "belongs to uid 65534"),
            ("open", "mode 0777 lets other users write"),
            ("link", "symbolic link"),
        ] {
            let said = refusal(&at(name));
            assert!(
                said.contains("cannot use ") && said.contains(problem),
                "{said}"
            );
        }
    }
}
