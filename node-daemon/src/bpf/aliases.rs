//! What the programs keep of destinations, by the addresses at which the proxy is met, and each Pod's
//! share of it.

use std::collections::{HashMap, HashSet};

use sluice_abi::AliasUsage;

use super::{Datapath, Error};

impl Datapath {
    /// Removes what was asked for in network namespaces that have no entry any more, and corrects what
    /// the programs counted of the others. How much was removed.
    pub(crate) fn forget_destinations(&mut self) -> Result<usize, Error> {
        // In this order: what is added meanwhile is of namespaces that have an entry.
        let meetings = self.destinations.keys()?;
        let usages = self.alias_usage.all()?;
        let served: HashSet<u64> = self.processes.keys()?.into_iter().collect();
        let mut held: HashMap<u64, u64> = HashMap::new();
        let mut removed = 0;
        for meeting in meetings {
            if served.contains(&meeting.cookie) {
                *held.entry(meeting.cookie).or_default() += 1;
            } else {
                self.destinations.remove(meeting)?;
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

    /// What a Pod uses of the map `destinations`.
    pub(crate) fn alias_usage(&self, cookie: u64) -> Result<AliasUsage, Error> {
        Ok(self.alias_usage.get(cookie)?.unwrap_or_default())
    }
}

#[cfg(test)]
impl Datapath {
    /// What a program does that diverts a connection.
    pub(crate) fn tell(&mut self, meeting: sluice_abi::Meeting, to: sluice_abi::Endpoint) {
        self.destinations.set(meeting, to).unwrap();
    }

    /// Whether something is told at a place.
    pub(crate) fn tells(&self, meeting: sluice_abi::Meeting) -> bool {
        self.destinations.get(meeting).unwrap().is_some()
    }
}
