//! The desired kernel state of a Pod, and the steps that lead to it. Pure.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
};

use sluice_abi::{Addr, NetnsEntry, PodConfig, PodFlags, Port};

use super::{
    acceleration::Acceleration, alias_routes, own_addrs::OwnAddrs, policy::ResolvedPolicy,
    rerouting, rule_set, source_addr::SourceAddrs, store::Changes,
};
use crate::{
    bpf::Rule,
    netns::{Families, Rerouting, ReservedPorts, SourceRoute, SourceRouting, Switches},
};

/// The kernel state of one netns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct KernelState {
    /// Entries of the Pod's lists, and of its own addresses.
    pub(crate) rule_set: HashSet<Rule>,
    /// Entries of `local_pod_ips`.
    pub(crate) addresses: HashMap<Addr, PodConfig>,
    /// The entry of `process_ip`.
    pub(crate) netns_entry: Option<NetnsEntry>,
    /// Whether the inbound hook (`sk_lookup`) is attached.
    pub(crate) sk_lookup: bool,
    /// Whether Sluice added `::6`, the source of the proxy's IPv6 calls to the application, to
    /// `lo`.
    pub(crate) passthrough: bool,
    /// The ports of the proxy that Sluice reserved.
    pub(crate) reserved: ReservedPorts,
    /// The alias routes. The flags of `netns_entry` announce them to the programs.
    pub(crate) routes: Vec<SourceRoute>,
    /// The routing of connections that keep their source. [`PodConfig::source_mark`] announces it to
    /// the programs.
    pub(crate) source_routing: Option<SourceRouting>,
    /// The virtual interfaces.
    pub(crate) rerouting: Option<Rerouting>,
}

/// The action on a netns when a daemon takes over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Bring the kernel to this state.
    Converge(Box<KernelState>),
    /// The Pod has no record but is alive: keep its state, because its traffic would bypass the
    /// proxy without it.
    Keep,
    /// The Pod is gone: remove its kernel state.
    Remove,
}

/// One change of the kernel state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Add a port or network entry.
    AddRule(Rule),
    /// Remove it.
    RemoveRule(Rule),
    /// Write or remove an address.
    Address {
        /// The address.
        addr: Addr,
        /// The value before.
        from: Option<PodConfig>,
        /// The value after.
        to: Option<PodConfig>,
    },
    /// Write or remove the entry of the Pod's netns.
    NetnsEntry {
        /// The value before.
        from: Option<NetnsEntry>,
        /// The value after.
        to: Option<NetnsEntry>,
    },
    /// Install or remove alias routes.
    SetAliasRoutes {
        /// The routes before.
        from: Vec<SourceRoute>,
        /// The routes after.
        to: Vec<SourceRoute>,
    },
    /// Install or remove the routing of connections that keep their source.
    SetSourceRouting {
        /// The routing before.
        from: Option<SourceRouting>,
        /// The routing after.
        to: Option<SourceRouting>,
    },
    /// Install or remove the rules and the programs of virtual interfaces.
    SetRerouting {
        /// The interfaces before.
        from: Option<Rerouting>,
        /// The interfaces after.
        to: Option<Rerouting>,
    },
    /// Attach the inbound hook.
    AttachSkLookup,
    /// Detach the inbound hook.
    DetachSkLookup,
    /// Add `::6` to the loopback interface.
    AddPassthroughAddr,
    /// Remove `::6` again.
    RemovePassthroughAddr,
    /// Reserve ports of the proxy, or release them.
    ReservePorts {
        /// The ports before.
        from: ReservedPorts,
        /// The ports after.
        to: ReservedPorts,
    },
    /// Let outbound connections bypass the proxy until it listens for the first time. Only once for
    /// each netns.
    OpenBeforeProxy,
    /// Register the existing listeners of the proxy.
    AdoptListeners,
}

/// The desired state of a Pod with these addresses. Its main addresses, the source of redirected
/// connections, are those that the routes prefer, or else the first ones. `changes`: whether `lo`
/// needs `::6` if the Pod has an IPv6 address, and the settings that are off.
pub(crate) fn desired(
    cookie: u64,
    policy: &ResolvedPolicy,
    addresses: &[IpAddr],
    changes: Changes,
) -> KernelState {
    let sources = SourceAddrs::of(policy.sources(), addresses);
    let SourceAddrs { v4, v6, .. } = sources;
    let routes = if policy.mesh.proxy_listens_on_localhost_only {
        Vec::new()
    } else {
        alias_routes::routes(v4, v6)
    };
    let own = OwnAddrs::of(addresses, policy.own_addresses(), [v4, v6]);
    let flags = flags(policy, addresses, &sources, &own).with(alias_routes::flags(&routes));
    let pod = pod_config(cookie, policy, flags);
    KernelState {
        rule_set: (rule_set::rules_of(cookie, policy))
            .chain((sources.others.iter()).map(|one| rule_set::source(cookie, one)))
            .chain(rule_set::own_addrs(cookie, &own))
            .collect(),
        addresses: addresses.iter().map(|ip| ((*ip).into(), pod)).collect(),
        netns_entry: Some(NetnsEntry { v4, v6, pod }),
        sk_lookup: true,
        passthrough: changes.passthrough && addresses.iter().any(IpAddr::is_ipv6),
        reserved: changes.reserved,
        routes,
        source_routing: (policy.source_mark() != 0).then(|| SourceRouting {
            mark: policy.source_mark(),
            families: Families::of(addresses),
            switches: changes.switches,
        }),
        rerouting: rerouting::desired(policy, addresses),
    }
}

/// The settings of a Pod, as the programs read them.
fn pod_config(cookie: u64, policy: &ResolvedPolicy, flags: PodFlags) -> PodConfig {
    let loopback = policy.mesh.node.loopback;
    let [loopback_net, loopback_mask] = loopback.map_or([0, 0], |cidr| {
        [cidr.network(), cidr.netmask()].map(|ip| u32::from_ne_bytes(ip.octets()))
    });
    PodConfig {
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
        source_mark: policy.source_mark(),
        validator_uid: policy.validator_uid,
        loopback_net,
        loopback_mask,
        flags,
    }
}

/// The flags of a Pod, without those of its alias routes.
fn flags(
    policy: &ResolvedPolicy,
    addresses: &[IpAddr],
    sources: &SourceAddrs,
    own: &OwnAddrs,
) -> PodFlags {
    PodFlags::from_iter([
        (own.need_flag(), PodFlags::HAS_EXTRA_ADDRS),
        (
            policy.mesh.proxy_listens_on_localhost_only,
            PodFlags::PROXY_ON_LOCALHOST_ONLY,
        ),
        (policy.tproxy, PodFlags::TPROXY),
        (!policy.mesh.hairpin, PodFlags::NO_HAIRPIN),
        (policy.mesh.bypass_local_dns, PodFlags::BYPASS_LOCAL_DNS),
        (policy.mesh.bypasses_node(), PodFlags::BYPASS_NODE),
        (!sources.others.is_empty(), PodFlags::HAS_PREFSRC),
        (policy.bypasses_ipv6(addresses), PodFlags::IPV4_ONLY),
        (policy.bypass_before_proxy, PodFlags::BEFORE_PROXY),
    ])
    .with(rule_set::flags_of(policy))
    .with(
        policy
            .acceleration
            .map_or(PodFlags::default(), Acceleration::flags),
    )
}

impl KernelState {
    /// The same state without some routes: each connection on them is then bound to its source
    /// separately, and reaches an IPv6 proxy at `::1`.
    pub(crate) fn without(mut self, routes: &[SourceRoute]) -> Self {
        self.routes.retain(|route| !routes.contains(route));
        let flags = alias_routes::flags(routes);
        self.update_config(|pod| pod.flags = pod.flags.without(flags))
    }

    /// The same state without the routing of connections that keep their source: the programs refuse
    /// such connections.
    pub(crate) fn without_source_routing(mut self) -> Self {
        self.source_routing = None;
        self.update_config(|pod| pod.source_mark = 0)
    }

    /// The same state without reserved ports.
    pub(crate) fn without_reserved_ports(self) -> Self {
        Self {
            reserved: ReservedPorts::NONE,
            ..self
        }
    }

    /// Sluice's changes inside the netns.
    pub(crate) fn changes(&self) -> Changes {
        Changes {
            passthrough: self.passthrough,
            reserved: self.reserved,
            switches: self
                .source_routing
                .map_or_else(Switches::default, |one| one.switches),
        }
    }

    fn update_config(mut self, update: impl Fn(&mut PodConfig)) -> Self {
        let own = self
            .netns_entry
            .iter_mut()
            .map(|netns_entry| &mut netns_entry.pod);
        self.addresses.values_mut().chain(own).for_each(update);
        self
    }
}

/// The action on every netns. `desired`: the state of the existing Pods; `state`: the namespaces
/// with kernel state, and that state; `alive`: whether such a Pod exists.
pub(crate) fn reconcile(
    desired: BTreeMap<u64, KernelState>,
    state: impl Iterator<Item = u64>,
    alive: impl Fn(u64) -> bool,
) -> BTreeMap<u64, Action> {
    let rest = state.filter(|cookie| !desired.contains_key(cookie));
    let rest = rest.map(|cookie| {
        let action = if alive(cookie) {
            Action::Keep
        } else {
            Action::Remove
        };
        (cookie, action)
    });
    let rest: BTreeMap<_, _> = rest.collect();
    let converge = |(cookie, state)| (cookie, Action::Converge(Box::new(state)));
    desired.into_iter().map(converge).chain(rest).collect()
}

/// The steps from one state to another. Parts are set in the order of their use: data before the hook
/// that reads it. Then parts are removed in the reverse order.
pub(crate) fn steps(before: &KernelState, after: &KernelState) -> Vec<Step> {
    let mut steps = Steps::default();
    // The ports are reserved before the rules lead connections to them.
    steps.change(
        [&before.reserved, &after.reserved],
        after.netns_entry.is_some(),
        |from, to| Step::ReservePorts { from, to },
    );
    // The netns entry announces only installed routes, and only installed routing.
    steps.change(
        [&before.routes, &after.routes],
        !after.routes.is_empty(),
        |from, to| Step::SetAliasRoutes { from, to },
    );
    steps.change(
        [&before.source_routing, &after.source_routing],
        after.source_routing.is_some(),
        |from, to| Step::SetSourceRouting { from, to },
    );
    steps.change_rules(&before.rule_set, &after.rule_set);
    steps.change_addresses(&before.addresses, &after.addresses);
    let begins = !before.sk_lookup && after.sk_lookup;
    let may_bypass = |entry: &NetnsEntry| entry.pod.flags.has(PodFlags::BEFORE_PROXY);
    let opens = begins && after.netns_entry.as_ref().is_some_and(may_bypass);
    steps.set.extend(opens.then_some(Step::OpenBeforeProxy));
    steps.change(
        [&before.netns_entry, &after.netns_entry],
        after.netns_entry.is_some(),
        |from, to| Step::NetnsEntry { from, to },
    );
    let passthrough = [Step::RemovePassthroughAddr, Step::AddPassthroughAddr];
    steps.switch(before.passthrough, after.passthrough, passthrough);
    // From the netns entry on, `sock_ops` registers new listeners. Those of a running proxy come before
    // the hook, which refuses a connection without a listener.
    steps.set.extend(begins.then_some(Step::AdoptListeners));
    let hook = [Step::DetachSkLookup, Step::AttachSkLookup];
    steps.switch(before.sk_lookup, after.sk_lookup, hook);
    // Its programs read the Pod's entry, and the alias routes lead their packets to the proxy.
    steps.change(
        [&before.rerouting, &after.rerouting],
        after.rerouting.is_some(),
        |from, to| Step::SetRerouting { from, to },
    );
    steps.in_order()
}

/// Steps, by what they do to their part.
#[derive(Default)]
struct Steps {
    /// The part exists afterwards. In the order of execution.
    set: Vec<Step>,
    /// It does not. In the reverse order of execution.
    removed: Vec<Step>,
}

impl Steps {
    fn in_order(self) -> Vec<Step> {
        let Self { mut set, removed } = self;
        set.extend(removed.into_iter().rev());
        set
    }

    /// A part with a value. `exists`: whether it does after the step.
    fn change<T: Clone + PartialEq>(
        &mut self,
        [from, to]: [&T; 2],
        exists: bool,
        step: impl FnOnce(T, T) -> Step,
    ) {
        if from != to {
            let steps = if exists {
                &mut self.set
            } else {
                &mut self.removed
            };
            steps.push(step(from.clone(), to.clone()));
        }
    }

    /// A part without a value, with the step that removes it and the step that sets it.
    fn switch(&mut self, from: bool, to: bool, [remove, set]: [Step; 2]) {
        self.change([&from, &to], to, |_, to| if to { set } else { remove });
    }

    /// A source entry is removed before its replacement is written; the main address applies meanwhile.
    fn change_rules(&mut self, before: &HashSet<Rule>, after: &HashSet<Rule>) {
        let is_source = |rule: &Rule| matches!(rule, Rule::Prefsrc(..));
        let gone = before.difference(after).copied();
        let (sources, others): (Vec<_>, Vec<_>) = gone.partition(is_source);
        let added = after.difference(before).copied();
        self.set.extend(sources.into_iter().map(Step::RemoveRule));
        self.set.extend(added.map(Step::AddRule));
        let others = others.into_iter().map(Step::RemoveRule);
        self.removed.extend(others);
    }

    fn change_addresses(
        &mut self,
        before: &HashMap<Addr, PodConfig>,
        after: &HashMap<Addr, PodConfig>,
    ) {
        let gone = before.keys().filter(|addr| !after.contains_key(addr));
        for addr in after.keys().chain(gone).copied() {
            let [from, to] = [before, after].map(|state| state.get(&addr).copied());
            let step = |from, to| Step::Address { addr, from, to };
            self.change([&from, &to], to.is_some(), step);
        }
    }
}

impl Step {
    /// The step that undoes this one, if any.
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
            Self::SetSourceRouting { from, to } => Self::SetSourceRouting { from: to, to: from },
            Self::SetRerouting { from, to } => Self::SetRerouting { from: to, to: from },
            Self::AttachSkLookup => Self::DetachSkLookup,
            Self::DetachSkLookup => Self::AttachSkLookup,
            Self::AddPassthroughAddr => Self::RemovePassthroughAddr,
            Self::RemovePassthroughAddr => Self::AddPassthroughAddr,
            Self::ReservePorts { from, to } => Self::ReservePorts { from: to, to: from },
            // The entry before the proxy is removed with that of the netns. The kernel removes listeners when
            // they close; without the hook no program reads them.
            Self::OpenBeforeProxy | Self::AdoptListeners => return None,
        })
    }
}

#[cfg(test)]
mod tests;
