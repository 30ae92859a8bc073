//! The network namespaces in which processes are.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use super::{HOSTS, Id, Inode};

const MOUNTS: &str = "/proc/self/mountinfo";

/// A path that leads to each of these processes' namespaces, but for the host's own and those to
/// which `known` leads. A mount, which runtimes make, is preferred to a process, which may end.
pub(crate) fn existing(processes: &[i32], known: &[&Path]) -> Vec<PathBuf> {
    let hosts = HOSTS.iter().flatten().copied();
    let mut seen: BTreeSet<_> = hosts.chain(known.iter().filter_map(Inode::at)).collect();
    let mounts = mounted();
    let mut found = Vec::new();
    for pid in processes {
        let path = PathBuf::from(format!("/proc/{pid}/ns/net"));
        if let Some(inode) = Inode::at(&path)
            && seen.insert(inode)
        {
            found.push(mounts.get(&inode).cloned().unwrap_or(path));
        }
    }
    found
}

/// Those of the processes that are in a network namespace.
pub(crate) fn members(processes: &[i32], id: Id) -> impl Iterator<Item = i32> {
    let inside = move |pid: &i32| Inode::at(format!("/proc/{pid}/ns/net")) == Some(id.inode);
    processes.iter().copied().filter(inside)
}

fn mounted() -> BTreeMap<Inode, PathBuf> {
    let table = fs::read(MOUNTS).unwrap_or_default();
    let points = table.split(|byte| *byte == b'\n').filter_map(mount_point);
    points
        .filter_map(|point| Some((Inode::at(&point)?, point)))
        .collect()
}

/// The mount point of a line, if it is of a network namespace: proc(5), and `net:[4026532000]` as
/// the root within `nsfs`. Paths with escapes are no runtime's.
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
    fn a_process_leads_to_its_namespace_unless_that_is_the_hosts_or_known() {
        let namespace = crate::netns::fresh().expect("this test must run as root");
        let fd = std::os::fd::AsFd::as_fd(&namespace);
        let (found, known, host) = crate::netns::enter::run(fd, || {
            // A thread's id serves as a process's.
            let inside = nix::unistd::gettid().as_raw();
            let own = PathBuf::from(format!("/proc/{inside}/ns/net"));
            let host = i32::try_from(std::process::id()).unwrap();
            (
                existing(&[inside, inside, host], &[]) == [own.clone()],
                existing(&[inside], &[&own]),
                existing(&[host], &[]),
            )
        })
        .unwrap();
        assert!(found);
        assert_eq!((known.len(), host.len()), (0, 0));
    }
}
