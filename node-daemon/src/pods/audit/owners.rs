//! The owners of a Pod's sockets: the processes of the proxy, and of everything else.

use std::collections::{HashMap, HashSet};

use super::judge::Owner;
use crate::netns::{Holders, Process, ProxyUser, TcpSocket};

/// The owners of the sockets of one Pod.
#[derive(Debug, Default)]
pub(super) struct Owners {
    processes: Vec<Process>,
    /// Socket inode → index in `processes`.
    by_inode: HashMap<u64, usize>,
    /// The proxy's processes.
    family: HashSet<i32>,
    /// User and group of the proxy's process, if the proxy listens.
    proxy: Option<(u32, u32)>,
    /// Whether processes or descriptors were left out.
    pub(super) truncated: bool,
}

impl Owners {
    /// Reads the processes of a Pod. `listeners` are the inodes of the sockets that listen on the
    /// proxy's ports: the processes that hold one are the proxy. Its other sockets are read on
    /// request: it has most of the Pod's.
    pub(super) fn read(
        mut holders: Holders,
        listeners: &HashSet<u64>,
        user: ProxyUser,
        all: bool,
    ) -> Self {
        let processes = holders.processes();
        let is_proxys = |one: &Process| user.is_user_of(one.uid, one.gid);
        let mut inodes = Vec::new();
        let mut acceptors = HashSet::new();
        for (index, process) in processes.iter().enumerate() {
            let before = inodes.len();
            let mut accepts = false;
            holders.sockets(process.pid, |inode| {
                accepts |= is_proxys(process) && listeners.contains(&inode);
                inodes.push((inode, index));
                all || !accepts
            });
            if accepts {
                acceptors.insert(process.pid);
            }
            if accepts && !all {
                inodes.truncate(before);
            }
        }
        let family = family(&processes, &acceptors, is_proxys);
        let first = processes.iter().find(|one| acceptors.contains(&one.pid));
        Self {
            proxy: first.map(|one| (one.uid, one.gid)),
            by_inode: inodes.into_iter().collect(),
            truncated: holders.truncated,
            family,
            processes,
        }
    }

    /// The process that holds a socket, as far as it was read.
    pub(super) fn process(&self, socket: &TcpSocket) -> Option<&Process> {
        let index = self.by_inode.get(&socket.inode)?;
        self.processes.get(*index)
    }

    /// The owner of a socket. The proxy's descriptors may not have been read: a socket that no other
    /// process holds has the proxy's group if it has the proxy's user.
    pub(super) fn of(&self, socket: &TcpSocket) -> Owner {
        let process = self.process(socket);
        if let Some(process) = process.filter(|one| !self.family.contains(&one.pid)) {
            return Owner {
                gid: process.gid,
                foreign: self.proxy.is_some(),
            };
        }
        let proxy = self.proxy.filter(|(uid, _)| *uid == socket.uid);
        Owner {
            gid: proxy.map_or(u32::MAX - 1, |(_, gid)| gid),
            foreign: false,
        }
    }
}

/// The processes that belong to the proxy: those that accept its connections, their ancestors with
/// the proxy's user (Istio: `pilot-agent`, Kuma: `kuma-dp`), and all descendants of these.
fn family(
    processes: &[Process],
    acceptors: &HashSet<i32>,
    is_proxys: impl Fn(&Process) -> bool,
) -> HashSet<i32> {
    let by_pid: HashMap<i32, &Process> = processes.iter().map(|one| (one.pid, one)).collect();
    let mut members = HashSet::new();
    for pid in acceptors {
        let mut next = by_pid.get(pid);
        while let Some(one) = next
            && is_proxys(one)
            && members.insert(one.pid)
        {
            next = by_pid.get(&one.parent);
        }
    }
    loop {
        let before = members.len();
        let children = processes.iter().filter(|one| members.contains(&one.parent));
        let children: Vec<_> = children.map(|one| one.pid).collect();
        members.extend(children);
        if members.len() == before {
            return members;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxys_family_has_its_agent_and_its_children() {
        let process = |pid, parent, uid| Process {
            pid,
            parent,
            name: String::new(),
            uid,
            gid: uid,
        };
        // 10: agent, 11: Envoy, 12: its helper, 13: the agent's resolver; 20: the application;
        // 30: a command that `kubectl exec` started in the sidecar's container.
        let processes = [
            process(10, 1, 1337),
            process(11, 10, 1337),
            process(12, 11, 0),
            process(13, 10, 1337),
            process(20, 1, 1000),
            process(30, 1, 1337),
        ];
        let found = family(&processes, &[11].into(), |one| one.uid == 1337);
        assert_eq!(found, [10, 11, 12, 13].into());
        assert_eq!(family(&processes, &[].into(), |_| true), [].into());
    }
}
