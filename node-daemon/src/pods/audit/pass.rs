//! Examines the sockets of one Pod. Works in the Pod's netns, outside the manager's thread, with bounded
//! memory.

use std::{
    collections::{HashMap, HashSet},
    mem,
    path::PathBuf,
};

use sluice_abi::{Endpoint, NetnsEntry, PodConfig, PodFlags, Reason};
use sluice_api::PodName;

use super::{
    judge::{self, Path},
    owners::Owners,
};
use crate::{
    bpf::NodeConns,
    netns::{self, Netns, Process, ProcessTable, ProxyUser, Side, TcpSocket},
    pods::{explain::Subject, plan::KernelState, policy::ResolvedPolicy},
};

/// The limit of connections of one Pod that are kept.
const KEPT: usize = 16_384;
/// The limit of listening sockets of one Pod that are kept.
const LISTENERS: usize = 16_384;

/// A meshed Pod, as the manager described it.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// Its name.
    pub(crate) pod: PodName,
    /// Its netns.
    pub(crate) id: netns::Id,
    /// A path that leads there.
    pub(crate) path: PathBuf,
    /// Its settings.
    pub(crate) policy: ResolvedPolicy,
    /// Its addresses and its entry of the kernel state.
    pub(crate) state: KernelState,
    /// Whether its proxy answers DNS queries.
    pub(crate) captures_dns: bool,
    /// Whether its connections bypass the proxy until it listens.
    pub(crate) before_proxy: bool,
    /// The connections of the node that pass.
    pub(crate) node_conns: NodeConns,
}

/// The connections that an examination keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// Connections that bypass the proxy against the rule.
    Findings,
    /// All.
    All,
}

/// A connection.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    /// Its socket.
    pub(crate) socket: TcpSocket,
    /// The end that the socket is.
    pub(crate) side: Side,
    /// Its path.
    pub(crate) path: Path,
    /// The process that holds it, if it was read.
    pub(crate) process: Option<Process>,
}

/// The connections of a Pod.
#[derive(Debug)]
pub(crate) struct Examined {
    /// The Pod's netns.
    pub(crate) netns: Netns,
    /// The number of connections.
    pub(crate) connections: u64,
    /// The connections that were kept.
    pub(crate) kept: Vec<Connection>,
    /// The number of connections beyond the limit.
    pub(crate) beyond: u64,
    /// Whether the owners of some sockets are unknown, because the Pod has too many descriptors.
    pub(crate) truncated: bool,
}

struct Pass<'a> {
    target: &'a Target,
    owners: Owners,
    keep: Keep,
    listeners: Vec<Endpoint>,
    connections: u64,
    kept: Vec<Connection>,
    beyond: u64,
}

impl Target {
    fn subject(&self) -> Subject<'_> {
        Subject {
            policy: &self.policy,
            state: &self.state,
            captures_dns: self.captures_dns,
            before_proxy: self.before_proxy,
        }
    }

    /// Opens its netns, if the path still leads there.
    fn open(&self) -> Option<Netns> {
        let netns = Netns::open(&self.path).ok()?;
        (netns.id() == self.id).then_some(netns)
    }

    /// Examines the Pod. `None` if it is gone.
    ///
    /// # Errors
    ///
    /// If the kernel does not list its sockets.
    pub(crate) fn examine(
        &self,
        processes: &ProcessTable,
        keep: Keep,
    ) -> Result<Option<Examined>, netns::Error> {
        let Some(netns) = self.open() else {
            return Ok(None);
        };
        let owners = self.owners(&netns, processes, keep)?;
        let truncated = owners.truncated;
        let mut pass = Pass {
            target: self,
            owners,
            keep,
            listeners: Vec::new(),
            connections: 0,
            kept: Vec::new(),
            beyond: 0,
        };
        netns.each_tcp_socket(|socket| pass.see(socket))?;
        pass.review(&netns)?;
        Ok(Some(Examined {
            netns,
            connections: pass.connections,
            kept: pass.kept,
            beyond: pass.beyond,
            truncated,
        }))
    }

    fn owners(
        &self,
        netns: &Netns,
        processes: &ProcessTable,
        keep: Keep,
    ) -> Result<Owners, netns::Error> {
        let Some(entry) = self.state.netns_entry else {
            return Ok(Owners::default());
        };
        let listening = netns.sockets()?;
        let ports = [entry.pod.outbound_port, entry.pod.inbound_port];
        let inodes = ports
            .iter()
            .flat_map(|port| listening.inodes_on(port.get()));
        Ok(Owners::read(
            processes.holders(self.id),
            &inodes.collect(),
            ProxyUser::of(&entry.pod),
            keep == Keep::All,
        ))
    }
}

impl Pass<'_> {
    /// A socket without a file is skipped: no process has accepted it yet, or its process has closed
    /// it.
    fn see(&mut self, socket: TcpSocket) {
        if socket.is_listening() {
            if self.listeners.len() < LISTENERS {
                self.listeners.push(socket.local);
            }
            return;
        }
        if socket.inode == 0 {
            return;
        }
        self.connections += 1;
        let side = judge::side(&socket, &self.listeners, self.pod());
        let Some(path) = self.path(&socket, side) else {
            return;
        };
        if self.keep == Keep::Findings && !path.is_finding() {
            return;
        }
        if self.kept.len() == KEPT {
            self.beyond += 1;
            return;
        }
        self.kept.push(Connection {
            process: self.owners.process(&socket).cloned(),
            socket,
            side,
            path,
        });
    }

    /// Judges the findings again, with both ends of each. A socket whose counters changed while the kernel
    /// listed them has no side, or a wrong one; the second list, or the other end in the same Pod, shows it. Both ends of a
    /// connection over `lo` are in the Pod, whatever the addresses are: with TPROXY the proxy calls the
    /// application from the peer's address, and a Pod may have addresses that no runtime reported. Such an
    /// accepted connection is no finding; the other end is judged by itself.
    fn review(&mut self, netns: &Netns) -> Result<(), netns::Error> {
        let findings = self.kept.iter().filter(|one| one.path.is_finding());
        let wanted: HashSet<_> = findings.flat_map(|one| both_ends(&one.socket)).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let mut ends = Ends::of(wanted);
        netns.each_tcp_socket(|socket| ends.see(&socket))?;
        let mut kept = mem::take(&mut self.kept);
        for one in kept.iter_mut().filter(|one| one.path.is_finding()) {
            if let Some(side) = ends.side(&one.socket).filter(|side| *side != one.side) {
                one.side = side;
                one.path = self.path(&one.socket, side).unwrap_or(one.path);
            }
            if one.side == Side::Server && one.path.is_finding() && ends.has_both(&one.socket) {
                one.path = Path::Direct(Reason::InboundLocal);
            }
        }
        kept.retain(|one| self.keep == Keep::All || one.path.is_finding());
        self.kept = kept;
        Ok(())
    }

    fn pod(&self) -> Option<&PodConfig> {
        let entry = self.target.state.netns_entry.as_ref();
        entry.map(|entry| &entry.pod)
    }

    /// `None` if the Pod has no rules.
    fn path(&self, socket: &TcpSocket, side: Side) -> Option<Path> {
        let owner = self.owners.of(socket);
        let path = judge::path(self.target.subject(), socket, side, owner)?;
        let of_node = path.is_finding() && side == Side::Server && self.is_of_node(socket);
        Some(if of_node {
            Path::Direct(Reason::InboundFromNode)
        } else {
            path
        })
    }

    /// Whether a process of the node opened the connection that a socket accepted. The entry of a client
    /// that closed is gone; what it sent has been judged before.
    fn is_of_node(&self, socket: &TcpSocket) -> bool {
        let Target {
            state, node_conns, ..
        } = self.target;
        let passes = |entry: NetnsEntry| entry.pod.flags.has(PodFlags::BYPASS_NODE);
        let is_open = || (node_conns.has(socket.remote, socket.local)).unwrap_or_default();
        state.netns_entry.is_some_and(passes) && (socket.peer_has_ended() || is_open())
    }
}

impl Path {
    /// Whether the connection bypasses the proxy against the rule.
    pub(crate) fn is_finding(self) -> bool {
        matches!(self, Self::Bypass(_) | Self::Impostor(_))
    }
}

/// The ends of some connections, and the sides of those that were seen.
struct Ends {
    wanted: HashSet<(Endpoint, Endpoint)>,
    seen: HashMap<(Endpoint, Endpoint), Option<Side>>,
}

impl Ends {
    fn of(wanted: HashSet<(Endpoint, Endpoint)>) -> Self {
        Self {
            wanted,
            seen: HashMap::new(),
        }
    }

    fn see(&mut self, socket: &TcpSocket) {
        let [here, _] = both_ends(socket);
        if self.wanted.contains(&here) {
            self.seen.insert(here, socket.side);
        }
    }

    /// The side of a socket, by the second list or by the other end.
    fn side(&self, socket: &TcpSocket) -> Option<Side> {
        let [here, there] = both_ends(socket).map(|end| *self.seen.get(&end)?);
        here.or(there.map(Side::other))
    }

    /// Whether the other end of a connection is in the same Pod.
    fn has_both(&self, socket: &TcpSocket) -> bool {
        let [_, there] = both_ends(socket);
        self.seen.contains_key(&there)
    }
}

/// A socket's own end, and the other one.
fn both_ends(socket: &TcpSocket) -> [(Endpoint, Endpoint); 2] {
    let (local, remote) = (socket.local, socket.remote);
    [(local, remote), (remote, local)]
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    #[test]
    fn second_list_or_other_end_shows_the_side() {
        let end = |text: &str| text.parse::<SocketAddr>().unwrap().into();
        let socket = |local: &str, remote: &str, side| {
            let mut socket = TcpSocket::example(end(local), end(remote), 1337);
            socket.side = side;
            socket
        };
        let (at, from) = ("10.0.0.5:80", "10.0.0.5:40000");
        let unclear = socket(at, from, None);
        let other = socket(from, at, Some(Side::Client));
        for (second, side, both) in [
            (vec![], None, false),
            (vec![unclear.clone()], None, false),
            (
                vec![unclear.clone(), other.clone()],
                Some(Side::Server),
                true,
            ),
            (vec![unclear.clone(), socket(from, at, None)], None, true),
            (
                vec![socket(at, from, Some(Side::Server))],
                Some(Side::Server),
                false,
            ),
            (
                vec![socket(at, from, Some(Side::Client)), other.clone()],
                Some(Side::Client),
                true,
            ),
            (
                vec![socket("10.0.0.5:81", from, Some(Side::Server))],
                None,
                false,
            ),
        ] {
            let mut ends = Ends::of(both_ends(&unclear).into());
            for one in &second {
                ends.see(one);
            }
            assert_eq!((ends.side(&unclear), ends.has_both(&unclear)), (side, both));
        }
    }
}
