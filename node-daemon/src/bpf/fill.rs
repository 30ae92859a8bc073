//! The entries of pinned maps, read without a daemon.

use std::{fmt::Debug, path::Path};

use aya::maps::{HashMap, LpmTrie, Map, MapData, MapError};
use sluice_abi::{
    Addr, AliasKey, AliasUsage, CidrKey, Endpoint, InterfaceKey, NetnsEntry, OwnAddrKey, PodConfig,
    PortKey, maps,
};

use super::Error;

/// The use of one map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fill {
    /// Its name.
    pub(crate) map: &'static str,
    /// The number of entries.
    pub(crate) used: usize,
    /// Their limit.
    pub(crate) limit: usize,
}

/// The use of each map that can fill up, in a directory of pins.
pub(crate) fn fill(directory: &Path) -> Result<Vec<Fill>, Error> {
    let hash = |name, limit, count: fn(Map) -> Result<usize, MapError>| {
        let open = || count(Map::HashMap(MapData::from_pin(directory.join(name))?));
        found(name, limit, open())
    };
    let trie = |name| {
        let open = || tries(Map::LpmTrie(MapData::from_pin(directory.join(name))?));
        found(name, maps::MAX_NETWORKS, open())
    };
    [
        hash(maps::PROCESS_IP, maps::MAX_PODS, entries::<u64, NetnsEntry>),
        hash(
            maps::LOCAL_POD_IPS,
            maps::MAX_ADDRESSES,
            entries::<Addr, PodConfig>,
        ),
        hash(
            maps::OWN_ADDRS,
            maps::MAX_OWN_ADDRS,
            entries::<OwnAddrKey, u8>,
        ),
        hash(maps::PORTS, maps::MAX_PORTS, entries::<PortKey, u8>),
        hash(
            maps::EXCLUDE_IFINDEX,
            maps::MAX_INTERFACES,
            entries::<InterfaceKey, u8>,
        ),
        hash(
            maps::ALIAS_TO_DST,
            maps::MAX_ALIASES,
            entries::<AliasKey, Endpoint>,
        ),
        trie(maps::INCLUDE_CIDRS),
        trie(maps::EXCLUDE_CIDRS),
        trie(maps::BYPASS_CIDRS),
    ]
    .into_iter()
    .collect()
}

fn found(map: &'static str, limit: usize, used: Result<usize, MapError>) -> Result<Fill, Error> {
    match used {
        Ok(used) => Ok(Fill { map, used, limit }),
        Err(source) => Err(Error::map(map, "read", source)),
    }
}

fn entries<K: aya::Pod, V: aya::Pod>(map: Map) -> Result<usize, MapError> {
    let map: HashMap<MapData, K, V> = map.try_into()?;
    // A key that is removed meanwhile restarts the walk.
    let keys = map.keys().take(maps::MAX_NETWORKS);
    Ok(keys.flatten().count())
}

fn tries(map: Map) -> Result<usize, MapError> {
    let map: LpmTrie<MapData, CidrKey, u8> = map.try_into()?;
    let keys = map.keys().take(maps::MAX_NETWORKS);
    Ok(keys.flatten().count())
}

/// Some entries of the maps that describe Pods, as text.
pub(crate) fn dump(
    directory: &Path,
    most: usize,
) -> Vec<(&'static str, Result<Vec<String>, Error>)> {
    let lines = |name, read: fn(Map, usize) -> Result<Vec<String>, MapError>| {
        let open = || read(Map::HashMap(MapData::from_pin(directory.join(name))?), most);
        (
            name,
            open().map_err(|source| Error::map(name, "read", source)),
        )
    };
    vec![
        lines(maps::PROCESS_IP, listed::<u64, NetnsEntry>),
        lines(maps::LOCAL_POD_IPS, listed::<Addr, PodConfig>),
        lines(maps::PORTS, listed::<PortKey, u8>),
        lines(maps::ALIAS_TO_DST, listed::<AliasKey, Endpoint>),
        lines(maps::ALIAS_USAGE, listed::<u64, AliasUsage>),
    ]
}

fn listed<K: aya::Pod + Debug, V: aya::Pod + Debug>(
    map: Map,
    most: usize,
) -> Result<Vec<String>, MapError> {
    let map: HashMap<MapData, K, V> = map.try_into()?;
    let entries = map.iter().take(most);
    let lines = entries.map(|entry| entry.map(|(key, value)| format!("{key:?} {value:?}")));
    lines.collect()
}
