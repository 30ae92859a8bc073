//! What the kernel shall hold for a Pod, and the steps that lead there. Pure.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
};

use sluice_abi::{Addr, NetnsEntry, PodConfig, PodFlags, Port};

use super::{
    acceleration::Acceleration, alias_routes, policy::PodPolicy, rule_set, source_addr::SourceAddrs,
};
use crate::{bpf::Rule, netns::SourceRoute};

/// What the kernel holds for one network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct KernelState {
    /// Ports and networks that the Pod lists.
    pub(crate) rule_set: HashSet<Rule>,
    /// Entries of `local_pod_ips`.
    pub(crate) addresses: HashMap<Addr, PodConfig>,
    /// The entry of `process_ip`.
    pub(crate) netns_entry: Option<NetnsEntry>,
    /// Whether new connections are steered to the proxy.
    pub(crate) sk_lookup: bool,
    /// Whether `lo` has `::6` from us, from which the proxy calls the application over IPv6.
    pub(crate) passthrough: bool,
    /// Routes to the addresses at which the proxy is met, of which `netns_entry` tells by its flags.
    pub(crate) routes: Vec<SourceRoute>,
}

/// What becomes of a network namespace when a daemon takes over from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// The kernel is brought to this state.
    Converge(Box<KernelState>),
    /// Nobody knows the Pod, but it lives: it stays as it is, or it would run open.
    Keep,
    /// The Pod is gone: what the kernel holds is removed.
    Remove,
}

/// One change of the kernel's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// List a port or a network.
    AddRule(Rule),
    /// Take it off the list.
    RemoveRule(Rule),
    /// Write or remove an address.
    Address {
        /// The address.
        addr: Addr,
        /// What is there before.
        from: Option<PodConfig>,
        /// What is there after.
        to: Option<PodConfig>,
    },
    /// Write or remove the entry of the Pod's processes.
    NetnsEntry {
        /// What is there before.
        from: Option<NetnsEntry>,
        /// What is there after.
        to: Option<NetnsEntry>,
    },
    /// Lay routes to the addresses at which the proxy is met, or take them up.
    SetAliasRoutes {
        /// What is there before.
        from: Vec<SourceRoute>,
        /// What is there after.
        to: Vec<SourceRoute>,
    },
    /// Steer new connections to the proxy.
    AttachSkLookup,
    /// Stop steering.
    DetachSkLookup,
    /// Give `::6` to the loopback interface.
    AddPassthroughAddr,
    /// Take it away again.
    RemovePassthroughAddr,
    /// Register the proxy's listeners that are there already.
    AdoptListeners,
}

/// What the kernel shall hold for a Pod with these addresses. The main ones, which are the source of
/// what is diverted, are those that the routes prefer, or else the first ones.
/// `passthrough`: whether `lo` needs `::6`, should one of them be an IPv6 address.
pub(crate) fn desired(
    cookie: u64,
    policy: &PodPolicy,
    addresses: &[IpAddr],
    passthrough: bool,
) -> KernelState {
    let SourceAddrs { v4, v6, others } = SourceAddrs::of(&policy.sources, addresses);
    let routes = if policy.mesh.proxy_listens_on_localhost_only {
        Vec::new()
    } else {
        alias_routes::routes(v4, v6)
    };
    let more = addresses
        .iter()
        .any(|ip| ![v4, v6].contains(&Addr::from(*ip)));
    let pod = PodConfig {
        cookie,
        proxy_uid: policy.uid,
        proxy_gid: policy.gid,
        outbound_port: Port::new(policy.ports.outbound),
        inbound_port: Port::new(policy.ports.inbound),
        dns_port: Port::new(policy.ports.dns),
        hbone_port: Port::new(policy.mesh.hbone_port),
        mark: policy.mesh.mark,
        mark_mask: policy.mesh.mark_mask,
        excluded: rule_set::port_bitmap_of(policy),
        flags: flags([
            (more, PodFlags::HAS_EXTRA_ADDRS),
            (
                policy.mesh.proxy_listens_on_localhost_only,
                PodFlags::PROXY_ON_LOCALHOST_ONLY,
            ),
            (policy.tproxy, PodFlags::TPROXY),
            (!policy.mesh.hairpin, PodFlags::NO_HAIRPIN),
            (policy.mesh.bypass_local_dns, PodFlags::BYPASS_LOCAL_DNS),
            (!others.is_empty(), PodFlags::HAS_PREFSRC),
        ])
        .with(rule_set::flags_of(policy))
        .with(alias_routes::flags(&routes))
        .with(
            policy
                .acceleration
                .map_or(PodFlags::default(), Acceleration::flags),
        ),
    };
    KernelState {
        rule_set: (rule_set::rules_of(cookie, policy))
            .chain(others.iter().map(|one| rule_set::source(cookie, one)))
            .collect(),
        addresses: addresses.iter().map(|ip| ((*ip).into(), pod)).collect(),
        netns_entry: Some(NetnsEntry { v4, v6, pod }),
        sk_lookup: true,
        passthrough: passthrough && addresses.iter().any(IpAddr::is_ipv6),
        routes,
    }
}

impl KernelState {
    /// The same without some routes: what they would lead is bound to its source, one connection at a
    /// time, and over IPv6 meets the proxy at `::1`.
    pub(crate) fn without(mut self, routes: &[SourceRoute]) -> Self {
        self.routes.retain(|route| !routes.contains(route));
        let flags = alias_routes::flags(routes);
        let pods = self.addresses.values_mut();
        let own = self
            .netns_entry
            .iter_mut()
            .map(|netns_entry| &mut netns_entry.pod);
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
        .filter(|(annotation_unless_star, _)| *annotation_unless_star)
        .fold(PodFlags::default(), |all, (_, flag)| all.with(flag))
}

/// What becomes of every network namespace. `desired`: what the kernel shall hold for the Pods that
/// exist; `state`: those for which it holds something; `alive`: whether one of these exists.
pub(crate) fn reconcile(
    desired: BTreeMap<u64, KernelState>,
    state: impl Iterator<Item = u64>,
    alive: impl Fn(u64) -> bool,
) -> BTreeMap<u64, Action> {
    let rest = state.map(|cookie| {
        (
            cookie,
            if alive(cookie) {
                Action::Keep
            } else {
                Action::Remove
            },
        )
    });
    let mut actions: BTreeMap<_, _> = rest.collect();
    actions.extend(
        desired
            .into_iter()
            .map(|(cookie, state)| (cookie, Action::Converge(state.into()))),
    );
    actions
}

/// The steps from one state to another. What a hook reads is written before the hook begins to
/// work, and removed after it has ended; but a source goes before another takes its place in the
/// map, and until then the main address serves.
pub(crate) fn steps(before: &KernelState, after: &KernelState) -> Vec<Step> {
    let netns_entry = (before.netns_entry != after.netns_entry).then_some(Step::NetnsEntry {
        from: before.netns_entry,
        to: after.netns_entry,
    });
    let (netns_entry_set, netns_entry_removed) = match after.netns_entry {
        Some(_) => (netns_entry, None),
        None => (None, netns_entry),
    };
    let routes = (before.routes != after.routes).then_some(Step::SetAliasRoutes {
        from: before.routes.clone(),
        to: after.routes.clone(),
    });
    // The programs are told of routes that are there.
    let (routes_installed, routes_removed) = if after.routes.is_empty() {
        (None, routes)
    } else {
        (routes, None)
    };
    let begins = !before.sk_lookup && after.sk_lookup;
    let ends = before.sk_lookup && !after.sk_lookup;

    let is_source = |rule: &&Rule| matches!(rule, Rule::Prefsrc(..));
    let (sources, rest): (Vec<&Rule>, Vec<&Rule>) =
        (before.rule_set.difference(&after.rule_set)).partition(is_source);

    let mut steps = Vec::from_iter(routes_installed);
    steps.extend(sources.into_iter().map(|rule| Step::RemoveRule(*rule)));
    steps.extend((after.rule_set.difference(&before.rule_set)).map(|rule| Step::AddRule(*rule)));
    steps.extend(after.addresses.iter().filter_map(|(addr, pod)| {
        let from = before.addresses.get(addr).copied();
        address(*addr, from, Some(*pod))
    }));
    steps.extend(netns_entry_set);
    steps.extend(begins.then_some(Step::AttachSkLookup));
    steps.extend((!before.passthrough && after.passthrough).then_some(Step::AddPassthroughAddr));
    steps.extend(begins.then_some(Step::AdoptListeners));

    steps.extend((before.passthrough && !after.passthrough).then_some(Step::RemovePassthroughAddr));
    steps.extend(ends.then_some(Step::DetachSkLookup));
    steps.extend(netns_entry_removed);
    steps.extend(routes_removed);
    let gone = before.addresses.iter();
    steps.extend(
        gone.filter(|(addr, _)| !after.addresses.contains_key(addr))
            .filter_map(|(addr, pod)| address(*addr, Some(*pod), None)),
    );
    steps.extend(rest.into_iter().map(|rule| Step::RemoveRule(*rule)));
    steps
}

fn address(addr: Addr, from: Option<PodConfig>, to: Option<PodConfig>) -> Option<Step> {
    (from != to).then_some(Step::Address { addr, from, to })
}

impl Step {
    /// The step that takes this one back, if there is anything to take back.
    pub(crate) fn undo(self) -> Option<Self> {
        Some(match self {
            Self::AddRule(rule) => Self::RemoveRule(rule),
            Self::RemoveRule(rule) => Self::AddRule(rule),
            Self::Address { addr, from, to } => Self::Address {
                addr,
                from: to,
                to: from,
            },
            Self::NetnsEntry { from, to } => Self::NetnsEntry { from: to, to: from },
            Self::SetAliasRoutes { from, to } => Self::SetAliasRoutes { from: to, to: from },
            Self::AttachSkLookup => Self::DetachSkLookup,
            Self::DetachSkLookup => Self::AttachSkLookup,
            Self::AddPassthroughAddr => Self::RemovePassthroughAddr,
            Self::RemovePassthroughAddr => Self::AddPassthroughAddr,
            // The kernel drops them when they close; without steering nobody looks at them.
            Self::AdoptListeners => return None,
        })
    }
}

#[cfg(test)]
mod tests;
