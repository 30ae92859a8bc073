//! The alias map: removal of stale entries, and each Pod's share.

use std::collections::{HashMap, HashSet};

use sluice_abi::AliasUsage;

use super::{Datapath, Error};

impl Datapath {
    /// Removes the entries of network namespaces that are no longer intercepted, and corrects the usage
    /// counts of the others. Returns the number of removed alias entries.
    pub(crate) fn remove_stale_aliases(&mut self) -> Result<usize, Error> {
        // The order matters: entries that are added meanwhile belong to namespaces in `process_ip`.
        let aliases = self.alias_to_dst.keys()?;
        let usages = self.alias_usage.all()?;
        let served: HashSet<u64> = self.netns_entries.keys()?.into_iter().collect();
        let mut held: HashMap<u64, u64> = HashMap::new();
        let mut removed = 0;
        for alias in aliases {
            if served.contains(&alias.cookie) {
                *held.entry(alias.cookie).or_default() += 1;
            } else {
                self.alias_to_dst.remove(alias)?;
                removed += 1;
            }
        }
        for (cookie, usage) in usages {
            let held = held.get(&cookie).copied().unwrap_or_default();
            if !served.contains(&cookie) {
                self.alias_usage.remove(cookie)?;
            } else if usage.held < held {
                self.alias_usage.set(cookie, AliasUsage { held, ..usage })?;
            }
        }
        Ok(removed)
    }

    /// A Pod's usage of the map `alias_to_dst`.
    pub(crate) fn alias_usage(&self, cookie: u64) -> Result<AliasUsage, Error> {
        Ok(self.alias_usage.get(cookie)?.unwrap_or_default())
    }
}

#[cfg(test)]
impl Datapath {
    /// Inserts an entry, as the programs do.
    pub(crate) fn insert_alias(&mut self, alias: sluice_abi::AliasKey, to: sluice_abi::Endpoint) {
        self.alias_to_dst.set(alias, to).unwrap();
    }

    /// Whether an alias has an entry.
    pub(crate) fn has_alias(&self, alias: sluice_abi::AliasKey) -> bool {
        self.alias_to_dst.get(alias).unwrap().is_some()
    }
}
