//! The ports and networks that Pods list.

use aya::{
    Ebpf, Pod,
    maps::{
        MapData,
        lpm_trie::{Key, LpmTrie},
    },
};
use sluice_abi::{Addr, InterfaceKey, NetworkPrefix, PortKey, PortPrefix, RangeKey, maps};

use super::{
    Error,
    table::{self, Table, absent_is_none},
};

/// Something that a Pod lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Entry {
    /// Ports, in the list that their key names.
    Port(PortPrefix),
    /// A network whose connections are the proxy's.
    Included(NetworkPrefix),
    /// A network that is left alone.
    Excluded(NetworkPrefix),
    /// A network of which no row is asked.
    Aside(NetworkPrefix),
    /// A network that is reached from this address.
    Source(NetworkPrefix, Addr),
    /// An interface of which no row is asked.
    Interface(InterfaceKey),
}

/// The maps `ports`, `port_ranges`, `included`, `excluded`, `aside`, `sources` and `interfaces`.
pub(super) struct Lists {
    ports: Table<PortKey, u8>,
    ranges: Trie<PortKey, u8>,
    included: Trie<RangeKey, u8>,
    excluded: Trie<RangeKey, u8>,
    aside: Trie<RangeKey, u8>,
    sources: Trie<RangeKey, Addr>,
    interfaces: Table<InterfaceKey, u8>,
}

/// A trie with its name, for errors that tell which.
struct Trie<K: Pod, V: Pod> {
    name: &'static str,
    map: LpmTrie<MapData, K, V>,
}

impl Entry {
    /// Cookie of the network namespace of the Pod.
    pub(crate) fn cookie(&self) -> u64 {
        match self {
            Self::Port(prefix) => prefix.key.cookie,
            Self::Included(prefix)
            | Self::Excluded(prefix)
            | Self::Aside(prefix)
            | Self::Source(prefix, _) => prefix.key.cookie,
            Self::Interface(key) => key.cookie,
        }
    }
}

impl Lists {
    /// Takes the maps out of the object.
    pub(super) fn take(object: &mut Ebpf) -> Result<Self, Error> {
        Ok(Self {
            ports: Table::take(object, maps::PORTS)?,
            ranges: Trie::take(object, maps::PORT_RANGES)?,
            included: Trie::take(object, maps::INCLUDED)?,
            excluded: Trie::take(object, maps::EXCLUDED)?,
            aside: Trie::take(object, maps::ASIDE)?,
            sources: Trie::take(object, maps::SOURCES)?,
            interfaces: Table::take(object, maps::INTERFACES)?,
        })
    }

    /// Lists something.
    pub(super) fn add(&mut self, entry: &Entry) -> Result<(), Error> {
        match entry {
            Entry::Port(prefix) if prefix.is_single() => self.ports.set(prefix.key, 0),
            Entry::Port(prefix) => self.ranges.set(prefix.bits, prefix.key, 0),
            Entry::Included(prefix) => self.included.set(prefix.bits, prefix.key, 0),
            Entry::Excluded(prefix) => self.excluded.set(prefix.bits, prefix.key, 0),
            Entry::Aside(prefix) => self.aside.set(prefix.bits, prefix.key, 0),
            Entry::Source(prefix, from) => self.sources.set(prefix.bits, prefix.key, *from),
            Entry::Interface(key) => self.interfaces.set(*key, 0),
        }
    }

    /// Takes it off the list, if it is there.
    pub(super) fn remove(&mut self, entry: &Entry) -> Result<(), Error> {
        match entry {
            Entry::Port(prefix) if prefix.is_single() => self.ports.remove(prefix.key),
            Entry::Port(prefix) => self.ranges.remove(prefix.bits, prefix.key),
            Entry::Included(prefix) => self.included.remove(prefix.bits, prefix.key),
            Entry::Excluded(prefix) => self.excluded.remove(prefix.bits, prefix.key),
            Entry::Aside(prefix) => self.aside.remove(prefix.bits, prefix.key),
            Entry::Source(prefix, _) => self.sources.remove(prefix.bits, prefix.key),
            Entry::Interface(key) => self.interfaces.remove(*key),
        }
    }

    /// Everything that is listed.
    pub(super) fn all(&self) -> Result<Vec<Entry>, Error> {
        let single = |key| {
            let bits = PortKey::BITS;
            Entry::Port(PortPrefix { key, bits })
        };
        let range = |(bits, key, _)| Entry::Port(PortPrefix { key, bits });
        let network = |(bits, key, _)| NetworkPrefix { key, bits };
        let source = |(bits, key, from)| Entry::Source(NetworkPrefix { key, bits }, from);
        let ports = self.ports.all()?.into_iter().map(|(key, _)| single(key));
        let ranges = self.ranges.all()?.into_iter().map(range);
        let included = self.included.all()?.into_iter().map(network);
        let excluded = self.excluded.all()?.into_iter().map(network);
        let aside = self.aside.all()?.into_iter().map(network);
        let sources = self.sources.all()?.into_iter().map(source);
        let interfaces = self.interfaces.all()?.into_iter().map(|(key, _)| key);
        Ok(ports
            .chain(ranges)
            .chain(included.map(Entry::Included))
            .chain(excluded.map(Entry::Excluded))
            .chain(aside.map(Entry::Aside))
            .chain(sources)
            .chain(interfaces.map(Entry::Interface))
            .collect())
    }
}

impl<K: Pod, V: Pod> Trie<K, V> {
    fn take(object: &mut Ebpf, name: &'static str) -> Result<Self, Error> {
        let map = table::take(object, name)?;
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
            .map(|entry| entry.map(|(key, value)| (key.prefix_len(), key.data(), value)))
            .collect::<Result<_, _>>()
            .map_err(|source| Error::map(name, "read", source))
    }
}
