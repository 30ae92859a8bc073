//! Executes the steps of a plan atomically: all of them, or none.

use std::{
    cell::Cell,
    os::fd::{AsFd as _, BorrowedFd},
};

use fail::fail_point;
use nix::sys::socket::{getsockopt, setsockopt, sockopt::Mark};
use sluice_abi::{NetnsEntry, PodConfig};
use tracing::{debug, warn};

use super::{
    Error,
    error::one_line,
    plan::{self, KernelState, Step},
    rerouting,
    source_addr::PASSTHROUGH,
};
use crate::{
    bpf::{self, Datapath, Features},
    netns::{self, Netns, ProxyUser, ReservedPorts, SourceRoute, SourceRouting, Switches},
};

/// The kernel state of one netns, as an owned value.
pub(crate) struct AppliedState {
    cookie: u64,
    state: KernelState,
    foreign_listeners: Cell<usize>,
}

/// The outcome of a change of the kernel state.
#[derive(Debug, Default)]
#[must_use]
pub(crate) struct Applied {
    refused: Vec<Refused>,
}

/// A part of the desired state that the netns refuses. The Pod is enrolled without it.
#[derive(Debug)]
enum Refused {
    /// Connections are bound to their source instead.
    AliasRoutes(Vec<SourceRoute>),
    /// The proxy's connections to the Pod from client addresses are refused.
    SourceRouting(netns::Error),
    /// The kernel may give a port of the proxy to a process that does not bind one.
    ReservedPorts(netns::Error),
}

/// The objects that steps change.
pub(crate) struct Target<'a> {
    /// The kernel side.
    pub(crate) datapath: &'a mut Datapath,
    /// The Pod's netns, unless it is gone.
    pub(crate) netns: Option<&'a Netns>,
}

impl AppliedState {
    /// The state that the kernel already holds.
    pub(crate) fn of(cookie: u64, state: KernelState) -> Self {
        Self {
            cookie,
            state,
            foreign_listeners: Cell::new(0),
        }
    }

    /// The number of sockets of other users on the proxy's ports at the time the listeners were
    /// fetched.
    pub(crate) fn foreign_listeners(&self) -> usize {
        self.foreign_listeners.get()
    }

    /// The current kernel state.
    pub(crate) fn state(&self) -> &KernelState {
        &self.state
    }

    /// Records that the kernel lost state.
    pub(crate) fn mark_lost(&mut self, lost: impl FnOnce(KernelState) -> KernelState) {
        self.state = lost(std::mem::take(&mut self.state));
    }

    /// Changes the kernel state. If a step fails, the earlier steps are undone. What the netns
    /// refuses is left out of the state.
    pub(crate) fn apply(
        &mut self,
        target: &mut Target<'_>,
        mut desired: KernelState,
    ) -> Result<Applied, Error> {
        let mut applied = Applied::default();
        while let Some(refused) = self.apply_all(target, &desired)? {
            desired = refused.remove_from(desired);
            applied.refused.push(refused);
        }
        self.state = desired;
        Ok(applied)
    }

    /// Executes every step. At the first one that fails or is refused, the earlier ones are undone.
    fn apply_all(
        &self,
        target: &mut Target<'_>,
        desired: &KernelState,
    ) -> Result<Option<Refused>, Error> {
        let mut done = Vec::new();
        for step in plan::steps(&self.state, desired) {
            match self.apply_step(target, &step) {
                Ok(None) => done.push(step),
                stopped => {
                    self.roll_back(target, done);
                    return stopped;
                }
            }
        }
        Ok(None)
    }

    /// Changes the kernel state as far as possible. Each step is idempotent: after an error, the
    /// whole teardown may be repeated.
    pub(crate) fn teardown(
        &mut self,
        target: &mut Target<'_>,
        mut desired: KernelState,
    ) -> Result<Applied, Error> {
        let mut applied = Applied::default();
        loop {
            let (mut refused, mut errors) = (Vec::new(), Vec::new());
            for step in plan::steps(&self.state, &desired) {
                match self.apply_step(target, &step) {
                    Ok(one) => refused.extend(one),
                    Err(error) => errors.push(error),
                }
            }
            if refused.is_empty() {
                return if errors.is_empty() {
                    self.state = desired;
                    Ok(applied)
                } else {
                    Err(Error::Teardown { errors })
                };
            }
            desired = refused
                .iter()
                .fold(desired, |desired, one| one.remove_from(desired));
            applied.refused.extend(refused);
        }
    }

    /// Removes the state of a netns that is gone, as far as possible.
    pub(crate) fn remove(&mut self, datapath: &mut Datapath) -> Result<(), Error> {
        let mut target = Target {
            datapath,
            netns: None,
        };
        let done = self.teardown(&mut target, KernelState::default());
        done.map(drop)
    }

    fn roll_back(&self, target: &mut Target<'_>, done: Vec<Step>) {
        for undo in done.into_iter().rev().filter_map(Step::undo) {
            let error = match self.apply_step(target, &undo) {
                Ok(None) => continue,
                Ok(Some(refused)) => format!("the network namespace refuses {refused:?}"),
                Err(error) => one_line(&error),
            };
            warn!(?undo, error, "failed to roll back a step");
        }
    }

    /// Executes one step, unless the netns refuses it.
    fn apply_step(&self, target: &mut Target<'_>, step: &Step) -> Result<Option<Refused>, Error> {
        fail_point!("crash", |_| crate::failpoint::now());
        let Target { datapath, netns } = target;
        match step {
            Step::AddRule(entry) => datapath.add_rule(entry)?,
            Step::RemoveRule(entry) => datapath.remove_rule(entry)?,
            Step::Address { addr, to, .. } => match to {
                Some(pod) => datapath.set_address(*addr, pod)?,
                None => datapath.remove_address(*addr)?,
            },
            Step::NetnsEntry { to, .. } => match to {
                Some(netns_entry) => datapath.set_netns_entry(self.cookie, netns_entry)?,
                None => datapath.remove_netns_entry(self.cookie)?,
            },
            Step::SetAliasRoutes { from, to } => {
                let features = datapath.features();
                match netns {
                    Some(netns) => return apply_routes(netns, features, from, to),
                    // The routes went with the namespace.
                    None if to.is_empty() => {}
                    None => return Err(Error::Gone),
                }
            }
            Step::SetSourceRouting { from, to } => match netns {
                Some(netns) => return apply_source_routing(netns, *from, *to),
                // The routes went with the namespace.
                None if to.is_none() => {}
                None => return Err(Error::Gone),
            },
            Step::SetRerouting { from, to } => {
                rerouting::apply(datapath, self.cookie, *netns, (from.as_ref(), to.as_ref()))?;
            }
            Step::AttachSkLookup => {
                datapath.attach_sk_lookup(self.cookie, netns.ok_or(Error::Gone)?.as_fd())?;
            }
            Step::DetachSkLookup => datapath.detach_sk_lookup(self.cookie)?,
            Step::AddPassthroughAddr => {
                netns.ok_or(Error::Gone)?.add_to_loopback(PASSTHROUGH)?;
            }
            // The address went with the namespace.
            Step::RemovePassthroughAddr => {
                if let Some(netns) = netns {
                    netns.remove_from_loopback(PASSTHROUGH)?;
                }
            }
            Step::ReservePorts { from, to } => return reserve_ports(*netns, *from, *to),
            Step::OpenBeforeProxy => datapath.open_before_proxy(self.cookie)?,
            Step::AdoptListeners => self.adopt_listeners(datapath, netns.ok_or(Error::Gone)?)?,
        }
        Ok(None)
    }

    /// Stores the user of a foreign listener on the outbound port, or that there is none. Of the sockets
    /// that were counted at the adoption, those that have ended are not counted any more.
    pub(crate) fn find_foreign_listener(
        &self,
        datapath: &mut Datapath,
        netns: &Netns,
    ) -> Result<(), Error> {
        let Some(NetnsEntry { pod, .. }) = datapath.netns_entry(self.cookie)? else {
            return Ok(());
        };
        let (port, proxy) = (pod.outbound_port.get(), ProxyUser::of(&pod));
        let sockets = netns.sockets()?;
        let outbound = netns.dup_listeners(&sockets, port, proxy)?.foreign;
        let mut all = outbound;
        for other in [pod.dns_port, pod.inbound_port] {
            all += netns.dup_listeners(&sockets, other.get(), proxy)?.foreign;
        }
        self.foreign_listeners
            .set(all.min(self.foreign_listeners()));
        let uid = sockets.foreign_user_on(port, proxy);
        let uid = uid.filter(|_| outbound > 0);
        Ok(datapath.set_foreign_listener(self.cookie, uid)?)
    }

    fn adopt_listeners(&self, datapath: &mut Datapath, netns: &Netns) -> Result<(), Error> {
        let Some(netns_entry) = datapath.netns_entry(self.cookie)? else {
            return Ok(());
        };
        let proxy = ProxyUser::of(&netns_entry.pod);
        let sockets = netns.sockets()?;
        let dns = netns.dup_listeners(&sockets, netns_entry.pod.dns_port.get(), proxy)?;
        let outbound = netns.dup_listeners(&sockets, netns_entry.pod.outbound_port.get(), proxy)?;
        let inbound = netns.dup_listeners(&sockets, netns_entry.pod.inbound_port.get(), proxy)?;
        self.foreign_listeners
            .set(dns.foreign + outbound.foreign + inbound.foreign);
        let loops = sockets.foreign_user_on(netns_entry.pod.outbound_port.get(), proxy);
        let loops = loops.filter(|_| outbound.foreign > 0);
        datapath.set_foreign_listener(self.cookie, loops)?;
        if !outbound.listeners.is_empty() {
            datapath.close_before_proxy(self.cookie)?;
        }
        if !dns.listeners.is_empty() {
            datapath.capture_dns(self.cookie)?;
        }
        for listener in inbound.listeners {
            let socket = listener.socket.as_fd();
            mark_listener(socket, &netns_entry.pod)?;
            match datapath.add_listener(self.cookie, listener.family, socket) {
                Ok(()) => debug!(cookie = self.cookie, "proxy listener adopted"),
                // The registered listeners serve the whole `SO_REUSEPORT` group.
                Err(bpf::Error::NoListenerSlot { .. }) => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

impl Applied {
    /// Logs the parts that the netns refused.
    pub(crate) fn log(&self, pod: &str) {
        for refused in &self.refused {
            match refused {
                Refused::AliasRoutes(routes) => {
                    debug!(
                        pod,
                        ?routes,
                        "alias routes refused; connections are bound to their source instead"
                    );
                }
                Refused::SourceRouting(source) => warn!(
                    pod,
                    error = one_line(source),
                    "source routing refused; the proxy's connections to the Pod from client addresses \
                     are refused. Check that the kernel has policy routing and that lo is up"
                ),
                Refused::ReservedPorts(source) => warn!(
                    pod,
                    error = one_line(source),
                    "ports of the proxy are not reserved; a process that binds no port may get one while \
                     the proxy does not listen. Check that the daemon may mount procfs"
                ),
            }
        }
    }
}

impl Refused {
    fn remove_from(&self, desired: KernelState) -> KernelState {
        match self {
            Self::AliasRoutes(routes) => desired.without(routes),
            Self::SourceRouting(_) => desired.without_source_routing(),
            Self::ReservedPorts(_) => desired.without_reserved_ports(),
        }
    }
}

/// Replaces routes. The IPv6 alias route makes the alias network reachable from outside the Pod, so
/// the inbound hook must see connections that arrive on an interface other than `lo`.
fn apply_routes(
    netns: &Netns,
    features: Features,
    from: &[SourceRoute],
    to: &[SourceRoute],
) -> Result<Option<Refused>, Error> {
    let stays = |network| to.iter().any(|route| route.dst == network);
    let gone = from.iter().map(|route| route.dst);
    let gone: Vec<_> = gone.filter(|network| !stays(*network)).collect();
    let is_safe = |route: &SourceRoute| route.prefsrc.is_ipv4() || features.ingress;
    let (new, mut refused): (Vec<_>, Vec<_>) = to.iter().partition(|route| is_safe(route));
    refused.extend(netns.install_local_routes(&gone, &new)?);
    Ok((!refused.is_empty()).then_some(Refused::AliasRoutes(refused)))
}

/// Replaces the reserved ports. A release that fails leaves ports that the kernel does not select.
fn reserve_ports(
    netns: Option<&Netns>,
    from: ReservedPorts,
    to: ReservedPorts,
) -> Result<Option<Refused>, Error> {
    let Some(netns) = netns else {
        // The setting went with the namespace.
        return if to.is_empty() {
            Ok(None)
        } else {
            Err(Error::Gone)
        };
    };
    match netns.reserve(from.without(to), to.without(from)) {
        Err(error) if to.is_empty() => {
            debug!(
                error = one_line(&error),
                "failed to release ports of the proxy"
            );
            Ok(None)
        }
        done => Ok(done.err().map(Refused::ReservedPorts)),
    }
}

/// Replaces the routing of connections that keep their source.
fn apply_source_routing(
    netns: &Netns,
    from: Option<SourceRouting>,
    to: Option<SourceRouting>,
) -> Result<Option<Refused>, Error> {
    if let Some(from) = from
        && to.is_none_or(|to| to.families != from.families)
    {
        let kept = to.map_or_else(Switches::default, |to| to.switches);
        netns.remove_source_routing(from.switches.without(kept))?;
    }
    let installed = to.map_or(Ok(()), |to| netns.install_source_routing(to));
    Ok(installed.err().map(Refused::SourceRouting))
}

/// Marks a listener as `sock_ops` marks the later ones: see [`PodConfig::LISTENER_MARK`].
fn mark_listener(socket: BorrowedFd<'_>, pod: &PodConfig) -> Result<(), Error> {
    if pod.source_mark == 0 {
        return Ok(());
    }
    let marked = match getsockopt(&socket, Mark) {
        Ok(0) => setsockopt(&socket, Mark, &PodConfig::LISTENER_MARK),
        other => other.map(drop),
    };
    marked.map_err(|source| {
        let call = "setsockopt(SO_MARK)";
        netns::Error::Call { call, source }.into()
    })
}
