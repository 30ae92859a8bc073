//! Examines the sockets of one Pod. Works in the Pod's netns, outside the manager's thread, with bounded
//! memory.

use std::{collections::HashSet, path::PathBuf, sync::Arc};

use sluice_abi::{Endpoint, NetnsEntry, PodFlags, Reason};
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
    /// Its kernel state without rules.
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

struct Pass {
    target: Arc<Target>,
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
        let netns = Netns::open_with_worker(&self.path).ok()?;
        (netns.id() == self.id).then_some(netns)
    }

    /// Examines the Pod. `None` if it is gone.
    ///
    /// # Errors
    ///
    /// If the kernel does not list its sockets.
    pub(crate) fn examine(
        self: Arc<Self>,
        processes: &ProcessTable,
        keep: Keep,
    ) -> Result<Option<Examined>, netns::Error> {
        let Some(netns) = self.open() else {
            return Ok(None);
        };
        let owners = self.owners(&netns, processes, keep)?;
        let truncated = owners.truncated;
        let pass = Pass {
            target: Arc::clone(&self),
            owners,
            keep,
            listeners: Vec::new(),
            connections: 0,
            kept: Vec::new(),
            beyond: 0,
        };
        let mut pass = netns.each_tcp_socket(pass, Pass::see)?;
        drop_loopback(&netns, &mut pass.kept)?;
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

impl Pass {
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
        let side = judge::side(&socket, &self.listeners);
        let owner = self.owners.of(&socket);
        let Some(mut path) = judge::path(self.target.subject(), &socket, side, owner) else {
            return;
        };
        if path.is_finding() && side == Side::Server && self.is_of_node(&socket) {
            path = Path::Direct(Reason::InboundFromNode);
        }
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
}

impl Pass {
    /// Whether a process of the node opened the connection that a socket accepted. The entry of a client
    /// that closed is gone; what it sent has been judged before.
    fn is_of_node(&self, socket: &TcpSocket) -> bool {
        let Target {
            state, node_conns, ..
        } = &*self.target;
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

/// The accepted connections that are findings, and the other ends that were seen.
#[derive(Default)]
struct OtherEnds {
    wanted: HashSet<(Endpoint, Endpoint)>,
    seen: HashSet<(Endpoint, Endpoint)>,
}

/// Both ends of a connection over `lo` are in the Pod, with any addresses: with TPROXY the
/// proxy calls the application from the peer's address, and a Pod may have addresses that no runtime
/// reported. Such an accepted connection is no finding; the other end is judged by itself.
fn drop_loopback(netns: &Netns, kept: &mut Vec<Connection>) -> Result<(), netns::Error> {
    let accepted = |one: &&Connection| one.side == Side::Server && one.path.is_finding();
    let other_end = |one: &Connection| (one.socket.remote, one.socket.local);
    let wanted: HashSet<_> = kept.iter().filter(accepted).map(other_end).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let seen = HashSet::new();
    let ends = netns.each_tcp_socket(OtherEnds { wanted, seen }, |ends, socket| {
        let this = (socket.local, socket.remote);
        if ends.wanted.contains(&this) {
            ends.seen.insert(this);
        }
    })?;
    kept.retain(|one| !(accepted(&one) && ends.seen.contains(&other_end(one))));
    Ok(())
}
