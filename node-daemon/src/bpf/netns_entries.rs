//! The map `process_ip`, and the map of foreign listeners, whose presence a flag of each entry shows.
//!
//! No desired state has the flag: readers do not see it, and writers do not remove it.

use sluice_abi::{NetnsEntry, PodFlags, maps};

use super::{Error, loaded::Loaded, typed_map::TypedMap};

/// The maps `process_ip` and `foreign_listeners`.
pub(super) struct NetnsEntries {
    entries: TypedMap<u64, NetnsEntry>,
    foreign_listeners: TypedMap<u64, u32>,
}

impl NetnsEntries {
    /// Opens the maps of the object.
    pub(super) fn open(object: &mut Loaded) -> Result<Self, Error> {
        Ok(Self {
            entries: TypedMap::open(object, maps::PROCESS_IP)?,
            foreign_listeners: TypedMap::open(object, maps::FOREIGN_LISTENERS)?,
        })
    }

    /// Every entry, with its cookie.
    pub(super) fn all(&self) -> Result<Vec<(u64, NetnsEntry)>, Error> {
        let mut all = self.entries.all()?;
        for (_, entry) in &mut all {
            *entry = flagged(*entry, false);
        }
        Ok(all)
    }

    /// The entry of a network namespace.
    pub(super) fn get(&self, cookie: u64) -> Result<Option<NetnsEntry>, Error> {
        let entry = self.entries.get(cookie)?;
        Ok(entry.map(|entry| flagged(entry, false)))
    }

    /// The cookie of every entry.
    pub(super) fn keys(&self) -> Result<Vec<u64>, Error> {
        self.entries.keys()
    }

    /// Writes the entry of a network namespace, and replaces an existing one.
    pub(super) fn set(&mut self, cookie: u64, entry: NetnsEntry) -> Result<(), Error> {
        let has_foreign = self.foreign_listener(cookie)?.is_some();
        self.entries.set(cookie, flagged(entry, has_foreign))
    }

    /// Removes the entry of a network namespace, and its foreign listener.
    pub(super) fn remove(&mut self, cookie: u64) -> Result<(), Error> {
        self.entries.remove(cookie)?;
        self.foreign_listeners.remove(cookie)
    }

    /// The UID of a process that listens on a Pod's outbound port and is not the proxy.
    pub(super) fn foreign_listener(&self, cookie: u64) -> Result<Option<u32>, Error> {
        self.foreign_listeners.get(cookie)
    }

    /// Writes that UID, or that there is none.
    pub(super) fn set_foreign_listener(
        &mut self,
        cookie: u64,
        uid: Option<u32>,
    ) -> Result<(), Error> {
        match uid {
            Some(uid) => self.foreign_listeners.set(cookie, uid)?,
            None => self.foreign_listeners.remove(cookie)?,
        }
        let Some(entry) = self.entries.get(cookie)? else {
            return Ok(());
        };
        let changed = flagged(entry, uid.is_some());
        if changed == entry {
            return Ok(());
        }
        self.entries.set(cookie, changed)
    }
}

/// The entry with or without the flag.
fn flagged(mut entry: NetnsEntry, has_foreign: bool) -> NetnsEntry {
    let flag = PodFlags::FOREIGN_LISTENER;
    entry.pod.flags = if has_foreign {
        entry.pod.flags.with(flag)
    } else {
        entry.pod.flags.without(flag)
    };
    entry
}
