//! Attaches the socket address programs in the cgroup hierarchy, so that they run before those of other
//! owners.
//!
//! The kernel runs the programs of a cgroup before those of its ancestors. Load balancers and systemd
//! attach at the root. Each child of the root gets the deciding copies, by links. The root gets copies
//! for the processes outside every child, without links: an agent that detaches all programs of the
//! root does not fail at these, and the child copies stay active. `ebpf/programs/src/order.rs` prevents
//! a second decision about the same connection.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
};

use aya_obj::generated::bpf_attach_type;
use sluice_abi::maps;
use tracing::{debug, warn};

use super::{
    Error,
    cgroup_prog::{self, HOOKS, ProgramInfo},
    link::Link,
    loaded::Loaded,
    pinned_link::{attach_one, replace},
    pins::{self, Generation},
};

/// Maximum number of root children with their own copies. Processes of further children use the root
/// copy.
const MAX_CHILDREN: usize = 128;

/// A program of another owner at one of these hooks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ForeignProgram {
    /// The name of our program at the hook.
    pub(crate) hook: &'static str,
    /// The program ID, as in `bpftool prog`.
    pub(crate) id: u32,
    /// Its name, as its owner loaded it.
    pub(crate) name: String,
    /// The UID that loaded it.
    pub(crate) uid: u32,
    /// A cgroup in which it is effective.
    pub(crate) cgroup: PathBuf,
    /// It runs before ours: the proxy may receive the address that it wrote.
    pub(crate) runs_first: bool,
}

/// An open cgroup and its ID in link information: its inode number.
struct Cgroup {
    path: PathBuf,
    directory: File,
    id: u64,
}

/// Attaches every missing program, and replaces the attached ones by this object's programs.
pub(super) fn attach(object: &Loaded, generation: &Generation, root: &Path) -> Result<(), Error> {
    let cgroup = Cgroup::open(root).map_err(|source| Error::cgroup(root, source))?;
    if !generation.is_private() {
        detach_strays(object, generation, &cgroup);
    }
    for (former, name, hook) in HOOKS {
        attach_root(object, generation, &cgroup, (name, hook))?;
        if former != name {
            // A daemon with one program for both levels attached the child's copy to the root.
            let pin = generation.root_program(former);
            cgroup_prog::detach_pin(&pin, cgroup.directory.as_fd(), hook)
                .and_then(|()| remove_if_present(&pin))
                .map_err(|source| Error::attach(former, source))?;
        }
    }
    attach_children(object, generation, root, true)
}

/// Attaches to new children of the root, and removes the pins of deleted ones. With `replaces`,
/// existing links get this object's programs.
pub(super) fn attach_children(
    object: &Loaded,
    generation: &Generation,
    root: &Path,
    replaces: bool,
) -> Result<(), Error> {
    let children = children(root);
    for child in &children {
        let pins = generation.child(child.id);
        Generation::make(&pins)?;
        for (name, _, hook) in HOOKS {
            let program = object.program(name)?;
            if let Err(error) = attach_child(program, child, hook, &pins.join(name), replaces) {
                // The root copy serves these processes, only in another order.
                warn!(cgroup = %child.path.display(), program = name, %error,
                    "program not attached to a child cgroup; other programs may run before ours there");
            }
        }
    }
    for pins in generation.children()? {
        let is_known = |child: &Cgroup| generation.child(child.id) == pins;
        if !children.iter().any(is_known) {
            debug!(path = %pins.display(), "cgroup removed; removing its pins");
            pins::remove(&pins, &mut Vec::new())?;
        }
    }
    Ok(())
}

/// Attaches a program to a cgroup by a link.
fn attach_child(
    program: BorrowedFd<'_>,
    child: &Cgroup,
    hook: bpf_attach_type,
    pin: &Path,
    replaces: bool,
) -> io::Result<()> {
    let is_there = |link: &Link| link.cgroup().is_ok_and(|id| id == child.id);
    if !replaces && Link::open(pin).is_ok_and(|link| is_there(&link)) {
        return Ok(());
    }
    if replace(program, pin, is_there)? {
        return Ok(());
    }
    attach_one(program, child.directory.as_fd(), hook, pin)
}

fn attach_root(
    object: &Loaded,
    generation: &Generation,
    root: &Cgroup,
    (name, hook): (&'static str, bpf_attach_type),
) -> Result<(), Error> {
    let program = object.program(name)?;
    let pin = generation.root_program(name);
    let done = || {
        if generation.is_private() {
            return attach_child(program, root, hook, &pin, true);
        }
        let own = ProgramInfo::of(program)?.id;
        let attached = cgroup_prog::query(root.directory.as_fd(), hook, false)?;
        if attached.contains(&own) {
            return Ok(());
        }
        let old = cgroup_prog::pinned(&pin)?.filter(|old| {
            ProgramInfo::of(old.as_fd()).is_ok_and(|info| attached.contains(&info.id))
        });
        let old = old.as_ref().map(std::os::fd::AsFd::as_fd);
        cgroup_prog::attach(root.directory.as_fd(), program, hook, old)?;
        remove_if_present(&pin)?;
        cgroup_prog::pin(program, &pin)
    };
    done().map_err(|source| match exclusive(root, hook, &source) {
        Some(holder) => Error::Exclusive {
            program: name,
            cgroup: root.path.clone(),
            holder,
        },
        None => Error::attach(name, source),
    })
}

/// The names of our programs that are missing at the root.
pub(super) fn missing(object: &Loaded, root: &Path) -> Result<Vec<&'static str>, Error> {
    let cgroup = Cgroup::open(root).map_err(|source| Error::cgroup(root, source))?;
    let mut missing = Vec::new();
    for (_, name, hook) in HOOKS {
        let own = ProgramInfo::of(object.program(name)?);
        let attached = cgroup_prog::query(cgroup.directory.as_fd(), hook, false);
        let is_there = own.is_ok_and(|own| attached.is_ok_and(|ids| ids.contains(&own.id)));
        if !is_there {
            missing.push(name);
        }
    }
    Ok(missing)
}

/// Whether a program is attached to the root: all are, but for the copies at its children.
pub(super) fn is_for_root(name: &str) -> bool {
    (HOOKS.iter()).all(|(child, root, _)| child == root || *child != name)
}

/// The number of child cgroups with a link of a program.
pub(super) fn count(generation: &Generation, name: &str) -> usize {
    let children = generation.children().unwrap_or_default();
    children
        .iter()
        .filter(|pins| pins.join(name).exists())
        .count()
}

/// Programs of other owners at our hooks. If the root has children, only the children count: they
/// contain the Pods.
pub(super) fn foreign(object: &Loaded, root: &Path) -> Result<Vec<ForeignProgram>, Error> {
    let mut cgroups = children(root);
    if cgroups.is_empty() {
        cgroups.push(Cgroup::open(root).map_err(|source| Error::cgroup(root, source))?);
    }
    let mut found = BTreeMap::new();
    for (name, at_root, hook) in HOOKS {
        let id = |name| {
            ProgramInfo::of(object.program(name)?).map_err(|source| Error::attach(name, source))
        };
        let ours = [id(name)?.id, id(at_root)?.id];
        for cgroup in &cgroups {
            let order =
                cgroup_prog::query(cgroup.directory.as_fd(), hook, true).unwrap_or_default();
            let first = order.iter().position(|id| ours.contains(id));
            for (place, id) in order
                .iter()
                .enumerate()
                .filter(|(_, id)| !ours.contains(id))
            {
                let Some(info) = info(*id).filter(|info| !is_ours(info)) else {
                    continue;
                };
                let runs_first = first.is_none_or(|first| place < first);
                let entry = found.entry((name, *id)).or_insert_with(|| ForeignProgram {
                    hook: name,
                    id: *id,
                    name: info.name,
                    uid: info.uid,
                    cgroup: cgroup.path.clone(),
                    runs_first,
                });
                entry.runs_first |= runs_first;
            }
        }
    }
    Ok(found.into_values().collect())
}

/// Detaches our programs from the root that no generation holds: their pins were removed externally.
fn detach_strays(object: &Loaded, generation: &Generation, root: &Cgroup) {
    let held = generation.all_root_programs();
    for (_, name, hook) in HOOKS {
        let own = object.program(name).ok();
        let own = own.and_then(|own| ProgramInfo::of(own).ok());
        for id in cgroup_prog::query(root.directory.as_fd(), hook, false).unwrap_or_default() {
            let Ok(fd) = cgroup_prog::by_id(id) else {
                continue;
            };
            let is_stray = ProgramInfo::of(fd.as_fd()).is_ok_and(|info| {
                is_ours(&info) && !held.contains(&id) && own.as_ref().is_none_or(|own| own.id != id)
            });
            if is_stray && cgroup_prog::detach(root.directory.as_fd(), fd.as_fd(), hook).is_ok() {
                warn!(
                    program = name,
                    id, "detached a program of an earlier daemon whose pin is gone"
                );
            }
        }
    }
}

fn remove_if_present(pin: &Path) -> io::Result<()> {
    match fs::remove_file(pin) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Whether a Sluice daemon has loaded a program: its name is in the table, and it uses a map of ours.
fn is_ours(info: &ProgramInfo) -> bool {
    let is_named = |(child, root, _): &(&str, &str, _)| info.name == *child || info.name == *root;
    HOOKS.iter().any(is_named)
        && [maps::PROCESS_IP, maps::ORIGINAL_DST]
            .iter()
            .any(|map| info.uses(map))
}

/// The holder of a hook that excludes other programs, if that is the cause of `error`.
fn exclusive(root: &Cgroup, hook: bpf_attach_type, error: &io::Error) -> Option<String> {
    if error.kind() != io::ErrorKind::PermissionDenied {
        return None;
    }
    let ids = cgroup_prog::query(root.directory.as_fd(), hook, false).ok()?;
    let names: Vec<_> = (ids.iter().filter_map(|id| info(*id)))
        .map(|info| {
            format!(
                "'{}' (id {}, loaded by uid {})",
                info.name, info.id, info.uid
            )
        })
        .collect();
    (!names.is_empty()).then(|| names.join(", "))
}

fn info(id: u32) -> Option<ProgramInfo> {
    let program = cgroup_prog::by_id(id).ok()?;
    ProgramInfo::of(program.as_fd()).ok()
}

fn children(root: &Path) -> Vec<Cgroup> {
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let mut paths: Vec<_> = directories.map(|entry| entry.path()).collect();
    paths.sort_unstable();
    // A cgroup that was removed meanwhile needs no program.
    let opened = paths.iter().filter_map(|path| Cgroup::open(path).ok());
    opened.take(MAX_CHILDREN).collect()
}

impl Cgroup {
    fn open(path: &Path) -> io::Result<Self> {
        let directory = File::open(path)?;
        let id = directory.metadata()?.ino();
        Ok(Self {
            path: path.into(),
            directory,
            id,
        })
    }
}
