//! The maps of the Pods' rules: ports, CIDRs, interfaces, preferred sources and own addresses.

use aya::{
    Pod,
    maps::{
        MapData,
        lpm_trie::{Key, LpmTrie},
    },
};
use sluice_abi::{
    Addr, CidrKey, InterfaceKey, NetworkPrefix, OwnAddrKey, OwnerGroupKey, PortKey, PortPrefix,
    maps,
};

use super::{
    Error,
    loaded::Loaded,
    typed_map::{self, TypedMap, absent_is_none},
};

/// A rule of a Pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Rule {
    /// Ports, in the list that their key identifies.
    Port(PortPrefix),
    /// A CIDR whose connections are redirected.
    IncludeCidr(NetworkPrefix),
    /// A CIDR that is not redirected.
    ExcludeCidr(NetworkPrefix),
    /// A CIDR that bypasses all rules.
    BypassCidr(NetworkPrefix),
    /// A CIDR with the preferred source address of its route.
    Prefsrc(NetworkPrefix, Addr),
    /// An interface that bypasses all rules.
    ExcludeInterface(InterfaceKey),
    /// A virtual interface, whose connections the proxy gets.
    VirtualInterface(InterfaceKey),
    /// A group that the Pod's rules name.
    OwnerGroup(OwnerGroupKey),
    /// An address of the Pod beside its main addresses.
    OwnAddr(OwnAddrKey),
}

/// The maps `ports`, `port_ranges`, `include_cidrs`, `exclude_cidrs`, `bypass_cidrs`, `prefsrc_by_dst`,
/// `exclude_ifindex`, `virtual_ifindex`, `owner_groups` and `own_addrs`.
pub(super) struct RuleMaps {
    ports: TypedMap<PortKey, u8>,
    ranges: Trie<PortKey, u8>,
    include_cidrs: Trie<CidrKey, u8>,
    exclude_cidrs: Trie<CidrKey, u8>,
    bypass_cidrs: Trie<CidrKey, u8>,
    prefsrc_by_dst: Trie<CidrKey, Addr>,
    exclude_ifindex: TypedMap<InterfaceKey, u8>,
    virtual_ifindex: TypedMap<InterfaceKey, u8>,
    owner_groups: TypedMap<OwnerGroupKey, u8>,
    own_addrs: TypedMap<OwnAddrKey, u8>,
}

/// A trie with its name for error messages.
struct Trie<K: Pod, V: Pod> {
    name: &'static str,
    map: LpmTrie<MapData, K, V>,
}

impl Rule {
    /// Cookie of the network namespace of the Pod.
    pub(crate) fn cookie(&self) -> u64 {
        match self {
            Self::Port(prefix) => prefix.key.cookie,
            Self::IncludeCidr(prefix)
            | Self::ExcludeCidr(prefix)
            | Self::BypassCidr(prefix)
            | Self::Prefsrc(prefix, _) => prefix.key.cookie,
            Self::ExcludeInterface(key) | Self::VirtualInterface(key) => key.cookie,
            Self::OwnerGroup(key) => key.cookie,
            Self::OwnAddr(key) => key.cookie,
        }
    }
}

impl RuleMaps {
    /// Opens the maps of the object.
    pub(super) fn open(object: &mut Loaded) -> Result<Self, Error> {
        Ok(Self {
            ports: TypedMap::open(object, maps::PORTS)?,
            ranges: Trie::open(object, maps::PORT_RANGES)?,
            include_cidrs: Trie::open(object, maps::INCLUDE_CIDRS)?,
            exclude_cidrs: Trie::open(object, maps::EXCLUDE_CIDRS)?,
            bypass_cidrs: Trie::open(object, maps::BYPASS_CIDRS)?,
            prefsrc_by_dst: Trie::open(object, maps::PREFSRC_BY_DST)?,
            exclude_ifindex: TypedMap::open(object, maps::EXCLUDE_IFINDEX)?,
            virtual_ifindex: TypedMap::open(object, maps::VIRTUAL_IFINDEX)?,
            owner_groups: TypedMap::open(object, maps::OWNER_GROUPS)?,
            own_addrs: TypedMap::open(object, maps::OWN_ADDRS)?,
        })
    }

    /// Adds a rule.
    pub(super) fn add(&mut self, rule: &Rule) -> Result<(), Error> {
        match rule {
            Rule::Port(prefix) if prefix.is_single() => self.ports.set(prefix.key, 0),
            Rule::Port(prefix) => self.ranges.set(prefix.bits, prefix.key, 0),
            Rule::IncludeCidr(prefix) => self.include_cidrs.set(prefix.bits, prefix.key, 0),
            Rule::ExcludeCidr(prefix) => self.exclude_cidrs.set(prefix.bits, prefix.key, 0),
            Rule::BypassCidr(prefix) => self.bypass_cidrs.set(prefix.bits, prefix.key, 0),
            Rule::Prefsrc(prefix, prefsrc) => {
                self.prefsrc_by_dst.set(prefix.bits, prefix.key, *prefsrc)
            }
            Rule::ExcludeInterface(key) => self.exclude_ifindex.set(*key, 0),
            Rule::VirtualInterface(key) => self.virtual_ifindex.set(*key, 0),
            Rule::OwnerGroup(key) => self.owner_groups.set(*key, 0),
            Rule::OwnAddr(key) => self.own_addrs.set(*key, 0),
        }
    }

    /// Removes a rule, if it exists.
    pub(super) fn remove(&mut self, rule: &Rule) -> Result<(), Error> {
        match rule {
            Rule::Port(prefix) if prefix.is_single() => self.ports.remove(prefix.key),
            Rule::Port(prefix) => self.ranges.remove(prefix.bits, prefix.key),
            Rule::IncludeCidr(prefix) => self.include_cidrs.remove(prefix.bits, prefix.key),
            Rule::ExcludeCidr(prefix) => self.exclude_cidrs.remove(prefix.bits, prefix.key),
            Rule::BypassCidr(prefix) => self.bypass_cidrs.remove(prefix.bits, prefix.key),
            Rule::Prefsrc(prefix, _) => self.prefsrc_by_dst.remove(prefix.bits, prefix.key),
            Rule::ExcludeInterface(key) => self.exclude_ifindex.remove(*key),
            Rule::VirtualInterface(key) => self.virtual_ifindex.remove(*key),
            Rule::OwnerGroup(key) => self.owner_groups.remove(*key),
            Rule::OwnAddr(key) => self.own_addrs.remove(*key),
        }
    }

    /// The number of virtual interfaces of all Pods.
    pub(super) fn virtual_interfaces(&self) -> Result<usize, Error> {
        self.virtual_ifindex.keys().map(|keys| keys.len())
    }

    /// Every rule in the maps.
    pub(super) fn all(&self) -> Result<Vec<Rule>, Error> {
        let single = |key| {
            let bits = PortKey::BITS;
            Rule::Port(PortPrefix { key, bits })
        };
        let range = |(bits, key, _)| Rule::Port(PortPrefix { key, bits });
        let network = |(bits, key, _)| NetworkPrefix { key, bits };
        let source = |(bits, key, prefsrc)| Rule::Prefsrc(NetworkPrefix { key, bits }, prefsrc);
        let ports = self.ports.all()?.into_iter().map(|(key, _)| single(key));
        let ranges = self.ranges.all()?.into_iter().map(range);
        let include_cidrs = self.include_cidrs.all()?.into_iter().map(network);
        let exclude_cidrs = self.exclude_cidrs.all()?.into_iter().map(network);
        let bypass_cidrs = self.bypass_cidrs.all()?.into_iter().map(network);
        let prefsrc_by_dst = self.prefsrc_by_dst.all()?.into_iter().map(source);
        let exclude_ifindex = self.exclude_ifindex.all()?.into_iter().map(|(key, _)| key);
        let virtual_ifindex = self.virtual_ifindex.all()?.into_iter().map(|(key, _)| key);
        let groups = self.owner_groups.all()?.into_iter().map(|(key, _)| key);
        let own_addrs = self.own_addrs.all()?.into_iter().map(|(key, _)| key);
        Ok(ports
            .chain(ranges)
            .chain(include_cidrs.map(Rule::IncludeCidr))
            .chain(exclude_cidrs.map(Rule::ExcludeCidr))
            .chain(bypass_cidrs.map(Rule::BypassCidr))
            .chain(prefsrc_by_dst)
            .chain(exclude_ifindex.map(Rule::ExcludeInterface))
            .chain(virtual_ifindex.map(Rule::VirtualInterface))
            .chain(groups.map(Rule::OwnerGroup))
            .chain(own_addrs.map(Rule::OwnAddr))
            .collect())
    }
}

impl<K: Pod, V: Pod> Trie<K, V> {
    fn open(object: &mut Loaded, name: &'static str) -> Result<Self, Error> {
        let map = typed_map::open(object, name)?;
        Ok(Self { name, map })
    }

    fn set(&mut self, bits: u32, key: K, value: V) -> Result<(), Error> {
        let Self { name, map } = self;
        map.insert(&Key::new(bits, key), value, 0)
            .map_err(|source| Error::map(name, "write to", source))
    }

    fn remove(&mut self, bits: u32, key: K) -> Result<(), Error> {
        let Self { name, map } = self;
        absent_is_none(map.remove(&Key::new(bits, key)))
            .map(drop)
            .map_err(|source| Error::map(name, "remove from", source))
    }

    fn all(&self) -> Result<Vec<(u32, K, V)>, Error> {
        let Self { name, map } = self;
        map.iter()
            .map(|rule| rule.map(|(key, value)| (key.prefix_len(), key.data(), value)))
            .collect::<Result<_, _>>()
            .map_err(|source| Error::map(name, "read", source))
    }
}
