//! What the kernel shall hold for a Pod, and the steps that lead there. Pure.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
};

use sluice_abi::{Addr, Pod, PodFlags, Port, Process};

use super::{acceleration::Acceleration, lists, meetings, policy::Settings, sources::Sources};
use crate::{bpf::Entry, netns::Source};

/// What the kernel holds for one network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    /// Ports and networks that the Pod lists.
    pub(crate) lists: HashSet<Entry>,
    /// Entries of `local_pod_ips`.
    pub(crate) addresses: HashMap<Addr, Pod>,
    /// The entry of `process_ip`.
    pub(crate) process: Option<Process>,
    /// Whether new connections are steered to the proxy.
    pub(crate) steered: bool,
    /// Whether `lo` has `::6` from us, from which the proxy calls the application over IPv6.
    pub(crate) passthrough: bool,
    /// Routes to the addresses at which the proxy is met, of which `process` tells by its flags.
    pub(crate) routes: Vec<Source>,
}

/// What becomes of a network namespace when a daemon takes over from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The kernel is brought to this state.
    Bring(Box<Held>),
    /// Nobody knows the Pod, but it lives: it stays as it is, or it would run open.
    Keep,
    /// The Pod is gone: what the kernel holds is removed.
    Drop,
}

/// One change of the kernel's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// List a port or a network.
    List(Entry),
    /// Take it off the list.
    Unlist(Entry),
    /// Write or remove an address.
    Address {
        /// The address.
        addr: Addr,
        /// What is there before.
        from: Option<Pod>,
        /// What is there after.
        to: Option<Pod>,
    },
    /// Write or remove the entry of the Pod's processes.
    Process {
        /// What is there before.
        from: Option<Process>,
        /// What is there after.
        to: Option<Process>,
    },
    /// Lay routes to the addresses at which the proxy is met, or take them up.
    Routes {
        /// What is there before.
        from: Vec<Source>,
        /// What is there after.
        to: Vec<Source>,
    },
    /// Steer new connections to the proxy.
    Steer,
    /// Stop steering.
    Release,
    /// Give `::6` to the loopback interface.
    AddPassthrough,
    /// Take it away again.
    RemovePassthrough,
    /// Register the proxy's listeners that are there already.
    FetchListeners,
}

/// What the kernel shall hold for a Pod with these addresses. The main ones, which are the source of
/// what is diverted, are those that the routes prefer, or else the first ones.
/// `passthrough`: whether `lo` needs `::6`, should one of them be an IPv6 address.
pub(crate) fn wanted(
    cookie: u64,
    settings: &Settings,
    addresses: &[IpAddr],
    passthrough: bool,
) -> Held {
    let Sources { v4, v6, others } = Sources::of(&settings.sources, addresses);
    let routes = if settings.mesh.single_loopback {
        Vec::new()
    } else {
        meetings::routes(v4, v6)
    };
    let more = addresses
        .iter()
        .any(|ip| ![v4, v6].contains(&Addr::from(*ip)));
    let pod = Pod {
        cookie,
        proxy_uid: settings.uid,
        proxy_gid: settings.gid,
        outbound_port: Port::new(settings.ports.outbound),
        inbound_port: Port::new(settings.ports.inbound),
        dns_port: Port::new(settings.ports.dns),
        tunnel_port: Port::new(settings.mesh.tunnel),
        mark: settings.mesh.mark,
        mark_mask: settings.mesh.mark_mask,
        excluded: lists::sieve_of(settings),
        flags: flags([
            (more, PodFlags::MORE_ADDRESSES),
            (settings.mesh.single_loopback, PodFlags::SINGLE_LOOPBACK),
            (settings.transparent, PodFlags::TRANSPARENT),
            (!settings.mesh.hairpin, PodFlags::NO_HAIRPIN),
            (settings.mesh.own_resolvers, PodFlags::OWN_RESOLVERS),
            (!others.is_empty(), PodFlags::SOURCES),
        ])
        .with(lists::flags_of(settings))
        .with(meetings::flags(&routes))
        .with(
            settings
                .acceleration
                .map_or(PodFlags::default(), Acceleration::flags),
        ),
    };
    Held {
        lists: (lists::entries(cookie, settings))
            .chain(others.iter().map(|one| lists::source(cookie, one)))
            .collect(),
        addresses: addresses.iter().map(|ip| ((*ip).into(), pod)).collect(),
        process: Some(Process { v4, v6, pod }),
        steered: true,
        passthrough: passthrough && addresses.iter().any(IpAddr::is_ipv6),
        routes,
    }
}

impl Held {
    /// The same without some routes: what they would lead is bound to its source, one connection at a
    /// time, and over IPv6 meets the proxy at `::1`.
    pub(crate) fn without(mut self, routes: &[Source]) -> Self {
        self.routes.retain(|route| !routes.contains(route));
        let flags = meetings::flags(routes);
        let pods = self.addresses.values_mut();
        let own = self.process.iter_mut().map(|process| &mut process.pod);
        for pod in pods.chain(own) {
            pod.flags = pod.flags.without(flags);
        }
        self
    }
}

/// Those flags that were chosen.
pub(super) fn flags<const COUNT: usize>(choices: [(bool, PodFlags); COUNT]) -> PodFlags {
    choices
        .into_iter()
        .filter(|(chosen, _)| *chosen)
        .fold(PodFlags::default(), |all, (_, flag)| all.with(flag))
}

/// What becomes of every network namespace. `wanted`: what the kernel shall hold for the Pods that
/// exist; `held`: those for which it holds something; `alive`: whether one of these exists.
pub(crate) fn reconcile(
    wanted: BTreeMap<u64, Held>,
    held: impl Iterator<Item = u64>,
    alive: impl Fn(u64) -> bool,
) -> BTreeMap<u64, Fate> {
    let rest = held.map(|cookie| {
        (
            cookie,
            if alive(cookie) {
                Fate::Keep
            } else {
                Fate::Drop
            },
        )
    });
    let mut fates: BTreeMap<_, _> = rest.collect();
    fates.extend(
        wanted
            .into_iter()
            .map(|(cookie, held)| (cookie, Fate::Bring(held.into()))),
    );
    fates
}

/// The steps from one state to another. What a hook reads is written before the hook begins to
/// work, and removed after it has ended; but a source goes before another takes its place in the
/// map, and until then the main address serves.
pub(crate) fn steps(before: &Held, after: &Held) -> Vec<Step> {
    let process = (before.process != after.process).then_some(Step::Process {
        from: before.process,
        to: after.process,
    });
    let (process_set, process_removed) = match after.process {
        Some(_) => (process, None),
        None => (None, process),
    };
    let routes = (before.routes != after.routes).then_some(Step::Routes {
        from: before.routes.clone(),
        to: after.routes.clone(),
    });
    // The programs are told of routes that are there.
    let (routes_laid, routes_taken_up) = if after.routes.is_empty() {
        (None, routes)
    } else {
        (routes, None)
    };
    let begins = !before.steered && after.steered;
    let ends = before.steered && !after.steered;

    let is_source = |entry: &&Entry| matches!(entry, Entry::Source(..));
    let (sources, rest): (Vec<&Entry>, Vec<&Entry>) =
        (before.lists.difference(&after.lists)).partition(is_source);

    let mut steps = Vec::from_iter(routes_laid);
    steps.extend(sources.into_iter().map(|entry| Step::Unlist(*entry)));
    steps.extend((after.lists.difference(&before.lists)).map(|entry| Step::List(*entry)));
    steps.extend(after.addresses.iter().filter_map(|(addr, pod)| {
        let from = before.addresses.get(addr).copied();
        address(*addr, from, Some(*pod))
    }));
    steps.extend(process_set);
    steps.extend(begins.then_some(Step::Steer));
    steps.extend((!before.passthrough && after.passthrough).then_some(Step::AddPassthrough));
    steps.extend(begins.then_some(Step::FetchListeners));

    steps.extend((before.passthrough && !after.passthrough).then_some(Step::RemovePassthrough));
    steps.extend(ends.then_some(Step::Release));
    steps.extend(process_removed);
    steps.extend(routes_taken_up);
    let gone = before.addresses.iter();
    steps.extend(
        gone.filter(|(addr, _)| !after.addresses.contains_key(addr))
            .filter_map(|(addr, pod)| address(*addr, Some(*pod), None)),
    );
    steps.extend(rest.into_iter().map(|entry| Step::Unlist(*entry)));
    steps
}

fn address(addr: Addr, from: Option<Pod>, to: Option<Pod>) -> Option<Step> {
    (from != to).then_some(Step::Address { addr, from, to })
}

impl Step {
    /// The step that takes this one back, if there is anything to take back.
    pub(crate) fn undo(self) -> Option<Self> {
        Some(match self {
            Self::List(entry) => Self::Unlist(entry),
            Self::Unlist(entry) => Self::List(entry),
            Self::Address { addr, from, to } => Self::Address {
                addr,
                from: to,
                to: from,
            },
            Self::Process { from, to } => Self::Process { from: to, to: from },
            Self::Routes { from, to } => Self::Routes { from: to, to: from },
            Self::Steer => Self::Release,
            Self::Release => Self::Steer,
            Self::AddPassthrough => Self::RemovePassthrough,
            Self::RemovePassthrough => Self::AddPassthrough,
            // The kernel drops them when they close; without steering nobody looks at them.
            Self::FetchListeners => return None,
        })
    }
}

#[cfg(test)]
mod tests;
