//! The daemon's interface to programs, links and maps: the only module that uses aya.
//!
//! [`Datapath`] has all of them. They are pinned: they stay active in the kernel without a daemon, and
//! the next daemon adopts them.

mod adoption;
mod aliases;
mod attach;
mod blocked_signals;
mod btf;
mod cgroup_prog;
mod decide_progs;
mod error;
mod events;
mod fill;
mod foreign;
mod hierarchy;
mod hooks;
mod kernel_offsets;
mod link;
mod listeners;
mod loaded;
mod netns_entries;
mod netns_prog;
mod node_conns;
mod optional_maps;
mod pinned_link;
mod pins;
mod pod_counters;
mod raw_prog;
mod reroute_prog;
mod ring;
mod rule_maps;
mod syscall;
mod typed_map;

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
};

use aya::maps::{Array, MapData, PerCpuArray};
use serde::Deserialize;
use sluice_abi::{
    Addr, AliasKey, AliasUsage, BeforeProxy, ConnKey, Endpoint, Flow, ForeignKey, ForeignUse,
    KernelOffsets, NetnsEntry, PodConfig, PodCounters, SockKey, maps,
};

use attach::EnabledHooks;
pub(crate) use attach::Features;
#[cfg(fuzzing)]
pub(crate) use btf::fuzz as fuzz_btf;
pub(crate) use error::Error;
pub(crate) use fill::{Fill, dump, fill};
use foreign::ForeignBinds;
pub(crate) use hierarchy::ForeignProgram;
pub(crate) use hooks::RunTime;
pub(crate) use kernel_offsets::of_this_kernel as kernel_offsets;
use listeners::Listeners;
use loaded::Loaded;
use netns_entries::NetnsEntries;
use netns_prog::NetnsProgram;
pub(crate) use node_conns::NodeConns;
use pins::Generation;
pub(crate) use pins::{Pins, PrivateBpffs};
use pod_counters::CounterMap;
use reroute_prog::RerouteProgram;
pub(crate) use ring::Ring;
pub(crate) use rule_maps::Rule;
use rule_maps::RuleMaps;
use typed_map::TypedMap;

/// `AF_INET6`, in keys of the programs.
const AF_INET6: u16 = 10;

/// The optional parts of the datapath.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Options {
    /// From [`kernel_offsets`]: sockets of the node may be accelerated.
    pub(crate) kernel_offsets: Option<KernelOffsets>,
    /// Raw sockets in meshed Pods.
    pub(crate) raw_sockets: RawSockets,
    /// The cookie of the node's netns, if the connections of its processes pass to some Pods
    /// ([`PodFlags::BYPASS_NODE`](sluice_abi::PodFlags::BYPASS_NODE)).
    pub(crate) bypassing_node: Option<u64>,
}

/// Whether processes of meshed Pods may create raw IP sockets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum RawSockets {
    /// Those with `CAP_NET_RAW` may.
    #[default]
    Allow,
    /// No process may.
    Deny,
}

/// Programs, links and maps.
pub(crate) struct Datapath {
    pins: Pins,
    generation: Generation,
    adopted: bool,
    enabled_hooks: EnabledHooks,
    cgroup: PathBuf,
    features: Features,
    loaded: Loaded,
    addresses: TypedMap<Addr, PodConfig>,
    netns_entries: NetnsEntries,
    dns_capture: TypedMap<u64, u8>,
    alias_to_dst: TypedMap<AliasKey, Endpoint>,
    alias_usage: TypedMap<u64, AliasUsage>,
    accel_conns: TypedMap<ConnKey, SockKey>,
    accel_flows: TypedMap<u64, Flow>,
    pending_pods: Array<MapData, u64>,
    monitor_until: Array<MapData, u64>,
    foreign_binds: ForeignBinds,
    node_conns: NodeConns,
    pod_counters: CounterMap,
    before_proxy: TypedMap<u64, BeforeProxy>,
    rule_maps: RuleMaps,
    listeners: Listeners,
    netns_prog: NetnsProgram,
    reroute_prog: RerouteProgram,
    counters: PerCpuArray<MapData, u64>,
}

impl Datapath {
    /// Adopts the pins of an earlier daemon, or builds the datapath: completely, or not at all.
    ///
    /// # Errors
    ///
    /// [`Error::Object`], [`Error::Program`] or [`Error::Verifier`] if the kernel rejects it;
    /// [`Error::Cgroup`] if `cgroup` cannot be opened; [`Error::Pin`] if a pin cannot be created.
    pub(crate) fn open(pins: Pins, cgroup: &Path, options: Options) -> Result<Self, Error> {
        let current = pins.current()?;
        let adopted = current.is_some();
        let generation = current.map_or_else(|| pins.begin(), Ok)?;
        let enabled_hooks = |features: Features| EnabledHooks {
            sock_create: options.raw_sockets == RawSockets::Deny,
            splice: features.splice == Some(true),
        };
        generation.set_root(cgroup)?;
        let (mut loaded, features) =
            adoption::adopt_or_load(&generation, options, |loaded, features| {
                attach::attach(loaded, &generation, cgroup, enabled_hooks(features))
            })?;
        let netns_prog = NetnsProgram::open(&loaded)?;
        let reroute_prog = RerouteProgram::open(&loaded)?;
        let generation = if adopted {
            generation
        } else {
            pins.publish(&generation)?
        };
        Ok(Self {
            pins,
            generation,
            adopted,
            enabled_hooks: enabled_hooks(features),
            cgroup: cgroup.into(),
            features,
            addresses: TypedMap::open(&mut loaded, maps::LOCAL_POD_IPS)?,
            netns_entries: NetnsEntries::open(&mut loaded)?,
            dns_capture: TypedMap::open(&mut loaded, maps::DNS_CAPTURE)?,
            alias_to_dst: TypedMap::open(&mut loaded, maps::ALIAS_TO_DST)?,
            alias_usage: TypedMap::open(&mut loaded, maps::ALIAS_USAGE)?,
            accel_conns: TypedMap::open(&mut loaded, maps::ACCEL_CONNS)?,
            accel_flows: TypedMap::open(&mut loaded, maps::ACCEL_FLOWS)?,
            pending_pods: typed_map::open(&mut loaded, maps::PENDING_PODS)?,
            monitor_until: typed_map::open(&mut loaded, maps::MONITOR_UNTIL)?,
            rule_maps: RuleMaps::open(&mut loaded)?,
            foreign_binds: ForeignBinds::open(&mut loaded)?,
            node_conns: NodeConns::open(&mut loaded, options.bypassing_node)?,
            pod_counters: CounterMap::open(&mut loaded)?,
            before_proxy: TypedMap::open(&mut loaded, maps::BEFORE_PROXY)?,
            listeners: Listeners::open(&mut loaded)?,
            netns_prog,
            reroute_prog,
            counters: typed_map::open(&mut loaded, maps::COUNTERS)?,
            loaded,
        })
    }

    /// The detected kernel features.
    pub(crate) fn features(&self) -> Features {
        self.features
    }

    /// Whether the pins of an earlier daemon were adopted.
    pub(crate) fn is_adopted(&self) -> bool {
        self.adopted
    }

    /// Whether an earlier daemon loaded the programs, and they are unchanged.
    pub(crate) fn programs_are_adopted(&self) -> bool {
        self.loaded.are_adopted()
    }

    /// The root cgroup, whose processes are served.
    pub(crate) fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// Removes the pins of daemons of other versions, and returns their paths. Call it when every Pod
    /// is in the maps of this one.
    pub(crate) fn remove_others(&self) -> Result<Vec<PathBuf>, Error> {
        self.pins.remove_others()
    }

    /// Releases the datapath without changing the kernel state.
    pub(crate) fn into_pins(self) -> Pins {
        self.pins
    }

    /// Every entry of `process_ip`.
    pub(crate) fn all_netns_entries(&self) -> Result<Vec<(u64, NetnsEntry)>, Error> {
        self.netns_entries.all()
    }

    /// Open connections of the node that pass to Pods. A shared handle.
    pub(crate) fn node_conns(&self) -> NodeConns {
        self.node_conns.clone()
    }

    /// Every entry of `local_pod_ips`.
    pub(crate) fn all_addresses(&self) -> Result<Vec<(Addr, PodConfig)>, Error> {
        self.addresses.all()
    }

    /// Every rule of every Pod.
    pub(crate) fn all_rules(&self) -> Result<Vec<Rule>, Error> {
        self.rule_maps.all()
    }

    /// Registers a listener of the proxy that existed before its Pod was enrolled. `family` is
    /// `AF_INET` or `AF_INET6`.
    pub(crate) fn add_listener(
        &mut self,
        cookie: u64,
        family: u16,
        socket: BorrowedFd<'_>,
    ) -> Result<(), Error> {
        self.listeners.add(cookie, family, socket)
    }

    /// The number of registered listeners of a Pod's proxy.
    pub(crate) fn listeners(&self, cookie: u64) -> Result<usize, Error> {
        let all = self.all_listeners()?;
        Ok(all.get(&cookie).copied().unwrap_or_default())
    }

    /// The number of registered listeners of each Pod's proxy, by netns cookie. Absent means none.
    pub(crate) fn all_listeners(&self) -> Result<BTreeMap<u64, usize>, Error> {
        self.listeners.counts()
    }

    /// The netns cookies of the Pods whose proxy has a registered IPv6 listener.
    pub(crate) fn with_ipv6_listener(&self) -> Result<BTreeSet<u64>, Error> {
        self.listeners.of_family(AF_INET6)
    }

    /// Writes the entry of a network namespace, and replaces an existing one.
    pub(crate) fn set_netns_entry(
        &mut self,
        cookie: u64,
        netns_entry: &NetnsEntry,
    ) -> Result<(), Error> {
        self.pod_counters.insert(cookie)?;
        self.netns_entries.set(cookie, *netns_entry)
    }

    /// Replaces the list of pending Pods, with which the programs compare unknown callers. Each has an
    /// entry under a provisional cookie. The list holds the first [`maps::MAX_PENDING_PODS`].
    pub(crate) fn set_pending_pods(&mut self, provisional: &[u64]) -> Result<(), Error> {
        let slots = provisional.iter().chain(std::iter::repeat(&0));
        for (slot, cookie) in (0..maps::MAX_PENDING_PODS).zip(slots) {
            self.pending_pods
                .set(slot, cookie, 0)
                .map_err(|source| Error::map(maps::PENDING_PODS, "write to", source))?;
        }
        Ok(())
    }

    /// Removes the entry of a network namespace, if there is one, and the programs' state of its proxy.
    pub(crate) fn remove_netns_entry(&mut self, cookie: u64) -> Result<(), Error> {
        self.netns_entries.remove(cookie)?;
        self.foreign_binds.remove(cookie)?;
        self.pod_counters.remove(cookie)?;
        self.before_proxy.remove(cookie)?;
        self.dns_capture.remove(cookie)
    }

    /// The number of decisions about a Pod since it was enrolled.
    pub(crate) fn pod_counters(&self, cookie: u64) -> Result<PodCounters, Error> {
        self.pod_counters.get(cookie)
    }

    /// Denied binds of proxy ports: Pod, port, UID and number (LRU).
    pub(crate) fn foreign_binds(&self) -> Result<Vec<(ForeignKey, ForeignUse)>, Error> {
        self.foreign_binds.all()
    }

    /// Writes the UID of a process that listens on a Pod's outbound port and is not the proxy, or that
    /// there is none.
    pub(crate) fn set_foreign_listener(
        &mut self,
        cookie: u64,
        uid: Option<u32>,
    ) -> Result<(), Error> {
        self.netns_entries.set_foreign_listener(cookie, uid)
    }

    /// That UID.
    pub(crate) fn foreign_listener(&self, cookie: u64) -> Result<Option<u32>, Error> {
        self.netns_entries.foreign_listener(cookie)
    }

    /// Lets a Pod's outbound connections bypass its proxy until it listens. An entry that exists stays
    /// unchanged: its proxy may have listened already.
    pub(crate) fn open_before_proxy(&mut self, cookie: u64) -> Result<(), Error> {
        if self.before_proxy.get(cookie)?.is_some() {
            return Ok(());
        }
        self.before_proxy
            .set(cookie, BeforeProxy { open: 1, count: 0 })
    }

    /// Ends that: the proxy listens.
    pub(crate) fn close_before_proxy(&mut self, cookie: u64) -> Result<(), Error> {
        match self.before_proxy.get(cookie)? {
            Some(state) => self
                .before_proxy
                .set(cookie, BeforeProxy { open: 0, ..state }),
            None => Ok(()),
        }
    }

    /// A Pod's outbound connections before its proxy listened, if they may bypass it.
    pub(crate) fn before_proxy(&self, cookie: u64) -> Result<Option<BeforeProxy>, Error> {
        self.before_proxy.get(cookie)
    }

    /// Enables DNS capture for a Pod: its proxy answers queries.
    pub(crate) fn capture_dns(&mut self, cookie: u64) -> Result<(), Error> {
        self.dns_capture.set(cookie, 0)
    }

    /// Whether a Pod's DNS queries are captured.
    pub(crate) fn captures_dns(&self, cookie: u64) -> Result<bool, Error> {
        Ok(self.dns_capture.get(cookie)?.is_some())
    }

    /// The entry of a network namespace.
    pub(crate) fn netns_entry(&self, cookie: u64) -> Result<Option<NetnsEntry>, Error> {
        self.netns_entries.get(cookie)
    }

    /// Writes the entry of a Pod's address, and replaces an existing one.
    pub(crate) fn set_address(&mut self, addr: Addr, pod: &PodConfig) -> Result<(), Error> {
        self.addresses.set(addr, *pod)
    }

    /// Removes the entry of a Pod's address, if there is one.
    pub(crate) fn remove_address(&mut self, addr: Addr) -> Result<(), Error> {
        self.addresses.remove(addr)
    }

    /// The entry of a Pod's address.
    pub(crate) fn address(&self, addr: Addr) -> Result<Option<PodConfig>, Error> {
        self.addresses.get(addr)
    }

    /// Adds a rule of a Pod.
    pub(crate) fn add_rule(&mut self, rule: &Rule) -> Result<(), Error> {
        self.rule_maps.add(rule)
    }

    /// Removes a rule of a Pod, if it exists.
    pub(crate) fn remove_rule(&mut self, rule: &Rule) -> Result<(), Error> {
        self.rule_maps.remove(rule)
    }

    /// The destination of an alias address of a Pod, if it is one.
    pub(crate) fn alias_destination(
        &self,
        cookie: u64,
        alias: Endpoint,
    ) -> Result<Option<Endpoint>, Error> {
        let key = AliasKey::from_addr(cookie, alias);
        key.map_or(Ok(None), |key| self.alias_to_dst.get(key))
    }

    /// Whether sockmap redirection carries a connection of a Pod: within it, or to another Pod.
    pub(crate) fn is_accelerated(
        &self,
        cookie: u64,
        client: Endpoint,
        server: Endpoint,
    ) -> Result<bool, Error> {
        for cookie in [cookie, 0] {
            let key = ConnKey {
                cookie,
                client,
                server,
            };
            if let Some(client) = self.accel_conns.get(key)?
                && let Some(flow) = self.accel_flows.get(client.number())?
            {
                return Ok(flow.is_redirected());
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests;
