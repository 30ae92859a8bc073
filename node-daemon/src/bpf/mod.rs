//! The kernel side, seen from the daemon: the only module that knows aya.
//!
//! [`Datapath`] owns every program, link and map. Dropping it closes them, and the kernel takes
//! the hooks away: nothing is left behind.

mod attach;
mod error;
mod listeners;
mod table;

use std::{os::fd::BorrowedFd, path::Path};

use aya::{
    Ebpf,
    maps::{MapData, PerCpuArray},
    programs::{SkLookup, sk_lookup::SkLookupLink},
};
use sluice_abi::{Addr, Pod, PortKey, Process, Reason, maps};

pub(crate) use error::Error;
use listeners::Listeners;
use table::Table;

/// Programs, links and maps.
pub(crate) struct Datapath {
    programs: Ebpf,
    addresses: Table<Addr, Pod>,
    processes: Table<u64, Process>,
    ports: Table<PortKey, u8>,
    listeners: Listeners,
    counters: PerCpuArray<MapData, u64>,
}

/// The inbound hook of one network namespace. Dropping it detaches the program.
pub(crate) struct Steering {
    _link: SkLookupLink,
}

impl Datapath {
    /// Loads every program and attaches those that belong to a cgroup.
    ///
    /// # Errors
    ///
    /// [`Error::Object`] or [`Error::Program`], with the verifier's log, if the kernel refuses;
    /// [`Error::Cgroup`] if `cgroup` cannot be opened.
    pub(crate) fn attach(cgroup: &Path) -> Result<Self, Error> {
        let mut programs = attach::load()?;
        attach::attach(&mut programs, cgroup)?;
        let counters = table::take(&mut programs, maps::COUNTERS)?;
        Ok(Self {
            addresses: Table::take(&mut programs, maps::LOCAL_POD_IPS)?,
            processes: Table::take(&mut programs, maps::PROCESS_IP)?,
            ports: Table::take(&mut programs, maps::PORTS)?,
            listeners: Listeners::take(&mut programs)?,
            counters,
            programs,
        })
    }

    /// Names of the programs, in alphabetical order.
    pub(crate) fn programs(&self) -> Vec<String> {
        let mut names: Vec<_> = self
            .programs
            .programs()
            .map(|(name, _)| name.to_owned())
            .collect();
        names.sort_unstable();
        names
    }

    /// Attaches the inbound hook to a network namespace.
    pub(crate) fn steer(&mut self, netns: BorrowedFd<'_>) -> Result<Steering, Error> {
        let wrap = |source| Error::Program {
            program: attach::STEER.to_owned(),
            source,
        };
        let program: &mut SkLookup = self
            .programs
            .program_mut(attach::STEER)
            .ok_or(Error::Missing {
                name: attach::STEER,
            })?
            .try_into()
            .map_err(wrap)?;
        let id = program.attach(netns).map_err(wrap)?;
        let link = program.take_link(id).map_err(wrap)?;
        Ok(Steering { _link: link })
    }

    /// Registers a listener of the proxy that was there before its Pod was admitted. `family` is
    /// `AF_INET` or `AF_INET6`.
    pub(crate) fn add_listener(
        &mut self,
        cookie: u64,
        family: u16,
        socket: BorrowedFd<'_>,
    ) -> Result<(), Error> {
        self.listeners.add(cookie, family, socket)
    }

    /// How many listeners of a Pod's proxy are registered.
    pub(crate) fn listeners(&self, cookie: u64) -> Result<usize, Error> {
        self.listeners.count(cookie)
    }

    /// Writes the entry of a network namespace, in place of the one that is there.
    pub(crate) fn set_process(&mut self, cookie: u64, process: &Process) -> Result<(), Error> {
        self.processes.set(cookie, *process)
    }

    /// Removes the entry of a network namespace, if there is one.
    pub(crate) fn remove_process(&mut self, cookie: u64) -> Result<(), Error> {
        self.processes.remove(cookie)
    }

    /// The entry of a network namespace.
    pub(crate) fn process(&self, cookie: u64) -> Result<Option<Process>, Error> {
        self.processes.get(cookie)
    }

    /// Writes the entry of a Pod's address, in place of the one that is there.
    pub(crate) fn set_address(&mut self, addr: Addr, pod: &Pod) -> Result<(), Error> {
        self.addresses.set(addr, *pod)
    }

    /// Removes the entry of a Pod's address, if there is one.
    pub(crate) fn remove_address(&mut self, addr: Addr) -> Result<(), Error> {
        self.addresses.remove(addr)
    }

    /// The entry of a Pod's address.
    pub(crate) fn address(&self, addr: Addr) -> Result<Option<Pod>, Error> {
        self.addresses.get(addr)
    }

    /// Excludes a port of a Pod from interception.
    pub(crate) fn exclude_port(&mut self, key: PortKey) -> Result<(), Error> {
        self.ports.set(key, 0)
    }

    /// Takes the exclusion of a port back, if there is one.
    pub(crate) fn include_port(&mut self, key: PortKey) -> Result<(), Error> {
        self.ports.remove(key)
    }

    /// How often each reason decided, over all CPUs, since the programs were loaded.
    pub(crate) fn counters(&self) -> Result<Vec<(Reason, u64)>, Error> {
        let total = |reason: &Reason| {
            let slots = self
                .counters
                .get(&(*reason as u32), 0)
                .map_err(|source| Error::Map {
                    map: maps::COUNTERS,
                    operation: "read",
                    source,
                })?;
            Ok((*reason, slots.iter().sum()))
        };
        Reason::ALL.iter().map(total).collect()
    }
}

#[cfg(test)]
mod tests;
