//! Discovery of the network namespaces that contain processes.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use super::{HOSTS, Id, Inode, Netns, NetnsFile};

const MOUNTS: &str = "/proc/self/mountinfo";

/// A network namespace with processes, other than the host's.
#[derive(Debug)]
pub(crate) struct Inhabited {
    inode: Inode,
    /// A path to it. A mount, as runtimes create, is preferred to a process, which may end.
    path: PathBuf,
    /// Processes in it.
    pub(crate) processes: Vec<i32>,
}

impl Inhabited {
    /// Opens it. `None` if the path leads to another namespace by now.
    pub(crate) fn open(&self) -> Option<NetnsFile> {
        let opened = NetnsFile::open(&self.path).ok()?;
        (opened.inode == self.inode).then_some(opened)
    }

    /// Whether a path leads to it.
    pub(crate) fn is_among(&self, places: &Paths) -> bool {
        places.0.contains(&self.inode)
    }

    /// Whether it may have this identity.
    pub(crate) fn may_be(&self, id: Id) -> bool {
        self.inode == id.inode
    }
}

/// The files that some paths lead to.
#[derive(Debug)]
pub(crate) struct Paths(BTreeSet<Inode>);

impl Paths {
    /// The files of these paths. A path that does not exist is skipped.
    pub(crate) fn of<'a>(paths: impl Iterator<Item = &'a Path>) -> Self {
        Self(paths.filter_map(Inode::at).collect())
    }
}

/// The namespaces of these processes, except the host's own.
pub(crate) fn inhabited(processes: &[i32]) -> Vec<Inhabited> {
    let mut pids_in: BTreeMap<Inode, Vec<i32>> = BTreeMap::new();
    for pid in processes {
        if let Some(inode) = Inode::at(of_process(*pid))
            && !HOSTS.contains(&Some(inode))
        {
            pids_in.entry(inode).or_default().push(*pid);
        }
    }
    let mounts = mounted();
    let found = pids_in.into_iter().map(|(inode, processes)| Inhabited {
        inode,
        path: (mounts.get(&inode).cloned()).unwrap_or_else(|| of_process(processes[0])),
        processes,
    });
    found.collect()
}

/// Finds a namespace by its identity. No other namespace is entered.
pub(crate) fn find(processes: &[i32], id: Id) -> Option<Netns> {
    let all = inhabited(processes);
    let opened = all.iter().find(|one| one.may_be(id))?.open()?;
    opened.identify().ok().filter(|netns| netns.id() == id)
}

/// Whether any process of the machine is in a network namespace.
pub(crate) fn is_inhabited(id: Id) -> bool {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut namespaces = processes.map(|process| process.path().join("ns/net"));
    namespaces.any(|path| Inode::at(path) == Some(id.inode))
}

fn of_process(pid: i32) -> PathBuf {
    format!("/proc/{pid}/ns/net").into()
}

fn mounted() -> BTreeMap<Inode, PathBuf> {
    let table = fs::read(MOUNTS).unwrap_or_default();
    let points = table.split(|byte| *byte == b'\n').filter_map(mount_point);
    points
        .filter_map(|point| Some((Inode::at(&point)?, point)))
        .collect()
}

/// The mount point of a line, if it is of a network namespace: proc(5), with `net:[4026532000]` as
/// the root within `nsfs`. Runtimes create no paths that need escapes.
fn mount_point(line: &[u8]) -> Option<PathBuf> {
    let mut fields = line.split(|byte| *byte == b' ');
    let root = fields.nth(3)?;
    let point = fields.next()?;
    (root.starts_with(b"net:[") && !point.contains(&b'\\'))
        .then(|| PathBuf::from(OsStr::from_bytes(point)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_network_namespaces_are_recognised() {
        let net = b"501 28 0:4 net:[4026532301] /run/netns/cni-1 rw shared:9 - nsfs nsfs rw";
        assert_eq!(mount_point(net), Some("/run/netns/cni-1".into()));
        let pid = b"502 28 0:4 pid:[4026532302] /run/pidns/1 rw - nsfs nsfs rw";
        assert_eq!(mount_point(pid), None);
        assert_eq!(mount_point(b""), None);
    }

    #[test]
    fn inhabited_groups_processes_and_skips_the_hosts() {
        let namespace = crate::netns::new_netns().expect("this test must run as root");
        let fd = std::os::fd::AsFd::as_fd(&namespace);
        crate::netns::enter::run_in(fd, || {
            // A thread id works like a process id here.
            let inside = nix::unistd::gettid().as_raw();
            let host = i32::try_from(std::process::id()).unwrap();
            let found = inhabited(&[inside, inside, host]);
            assert_eq!(found.len(), 1);
            assert_eq!(found[0].path, of_process(inside));
            assert_eq!(found[0].processes, [inside, inside]);
            let at = |pid| Paths::of([&*of_process(pid)].into_iter());
            assert!(found[0].is_among(&at(inside)) && !found[0].is_among(&at(host)));
            assert!(found[0].open().is_some());
            assert_eq!(inhabited(&[host]).len(), 0);
        })
        .unwrap();
    }

    #[test]
    fn path_to_another_namespace_is_not_opened() {
        let namespaces = [(); 2].map(|()| crate::netns::new_netns().expect("root"));
        let path = |file: &fs::File| {
            PathBuf::from(format!(
                "/proc/self/fd/{}",
                std::os::fd::AsRawFd::as_raw_fd(file)
            ))
        };
        let [one, other] = &namespaces;
        let surveyed = |at: &fs::File| Inhabited {
            inode: Inode::of(one).unwrap(),
            path: path(at),
            processes: Vec::new(),
        };
        assert!(surveyed(one).open().is_some());
        assert!(surveyed(other).open().is_none());
    }
}
