//! The processes of a network namespace, and the sockets that they hold.

use std::{collections::BTreeMap, fs, path::PathBuf};

use super::{HOSTS, Id, Inode, listeners::socket_inode};

/// The limit of descriptors that are read in one namespace.
const DESCRIPTORS: usize = 131_072;
/// The limit of processes that are read in one namespace.
const PROCESSES: usize = 4096;

/// The processes of each network namespace except the host's own.
#[derive(Debug, Default)]
pub(crate) struct ProcessTable(BTreeMap<Inode, Vec<i32>>);

/// A process, as its `/proc/PID/status` describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    /// Its id.
    pub(crate) pid: i32,
    /// Its parent.
    pub(crate) parent: i32,
    /// Its name: at most 15 characters.
    pub(crate) name: String,
    /// Its real user in the initial user namespace.
    pub(crate) uid: u32,
    /// Its real group, likewise.
    pub(crate) gid: u32,
}

/// The processes of one namespace, with a limit of descriptors.
#[derive(Debug)]
pub(crate) struct Holders {
    pids: Vec<i32>,
    /// The number of descriptors that may still be read.
    left: usize,
    /// Whether a limit was reached.
    pub(crate) truncated: bool,
}

impl ProcessTable {
    /// Reads the namespace of every process.
    pub(crate) fn read() -> Self {
        let mut found: BTreeMap<Inode, Vec<i32>> = BTreeMap::new();
        for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let name = process.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            if let Some(inode) = Inode::at(of(pid).join("ns/net"))
                && !HOSTS.contains(&Some(inode))
            {
                found.entry(inode).or_default().push(pid);
            }
        }
        Self(found)
    }

    /// The processes of a namespace.
    pub(crate) fn holders(&self, id: Id) -> Holders {
        let pids = self.0.get(&id.inode).cloned().unwrap_or_default();
        Holders {
            truncated: pids.len() > PROCESSES,
            pids: pids.into_iter().take(PROCESSES).collect(),
            left: DESCRIPTORS,
        }
    }
}

impl Holders {
    /// The processes. One that ends meanwhile is skipped.
    pub(crate) fn processes(&self) -> Vec<Process> {
        self.pids
            .iter()
            .copied()
            .filter_map(Process::read)
            .collect()
    }

    /// Passes the inode of each socket of a process to `take`, until that returns `false`.
    pub(crate) fn sockets(&mut self, pid: i32, mut take: impl FnMut(u64) -> bool) {
        for fd in fs::read_dir(of(pid).join("fd"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let Some(left) = self.left.checked_sub(1) else {
                self.truncated = true;
                return;
            };
            self.left = left;
            let link = fs::read_link(fd.path()).ok();
            let inode = link.and_then(|target| socket_inode(target.to_str()?));
            if inode.is_some_and(|inode| !take(inode)) {
                return;
            }
        }
    }
}

impl Process {
    fn read(pid: i32) -> Option<Self> {
        Self::parse(pid, &fs::read(of(pid).join("status")).ok()?)
    }

    fn parse(pid: i32, status: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(status);
        let field = |name: &str| {
            let mut lines = text.lines();
            lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"))
        };
        let first = |name: &str| field(name)?.split('\t').next()?.parse().ok();
        Some(Self {
            pid,
            parent: field("PPid")?.parse().ok()?,
            name: field("Name")?.to_owned(),
            uid: first("Uid")?,
            gid: first("Gid")?,
        })
    }
}

fn of(pid: i32) -> PathBuf {
    format!("/proc/{pid}").into()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn processes_hold_their_sockets() {
        let namespace = crate::netns::new_netns().expect("this test must run as root");
        let id = Id {
            inode: Inode::of(&namespace).unwrap(),
            cookie: 0,
        };
        let found = crate::netns::enter::run_in(namespace.as_fd(), move || {
            // A thread id works like a process id here.
            let pid = nix::unistd::gettid().as_raw();
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let fd = std::os::fd::AsRawFd::as_raw_fd(&listener);
            let link = fs::read_link(format!("/proc/self/fd/{fd}")).unwrap();
            let inode = socket_inode(link.to_str().unwrap()).unwrap();
            let table = ProcessTable(BTreeMap::from([(id.inode, vec![pid])]));
            let mut holders = table.holders(id);
            let processes = holders.processes();
            let mut seen = false;
            holders.sockets(pid, |one| {
                seen |= one == inode;
                true
            });
            (processes, pid, seen && !holders.truncated)
        });
        let (processes, pid, seen) = found.unwrap();
        assert_eq!((processes.len(), processes[0].pid), (1, pid));
        assert_eq!(processes[0].uid, nix::unistd::getuid().as_raw());
        assert!(seen);
    }

    #[test]
    fn status_files_of_any_content_are_parsed() {
        let status = b"Name:\ta b\nPPid:\t7\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\n";
        let process = Process::parse(9, status).unwrap();
        assert_eq!((process.parent, process.uid, process.gid), (7, 1, 5));
        assert_eq!(process.name, "a b");
        assert_eq!(Process::parse(9, b"Name:\n\xff"), None);
    }
}
