//! The map of per-Pod counters. The programs count only for Pods with an entry.

use aya::{
    maps::{MapData, PerCpuHashMap, PerCpuValues},
    util::nr_cpus,
};
use sluice_abi::{PodCounters, maps};

use super::{
    Error,
    loaded::Loaded,
    typed_map::{self, absent_is_none},
};

/// The map `pod_counters`.
pub(super) struct CounterMap(PerCpuHashMap<MapData, u64, PodCounters>);

impl CounterMap {
    /// Opens the map of the object.
    pub(super) fn open(object: &mut Loaded) -> Result<Self, Error> {
        typed_map::open(object, maps::POD_COUNTERS).map(Self)
    }

    /// Inserts the entry of a Pod, unless it exists.
    pub(super) fn insert(&mut self, cookie: u64) -> Result<(), Error> {
        let failed = |source| Error::map(maps::POD_COUNTERS, "write to", source);
        if absent_is_none(self.0.get(&cookie, 0))
            .map_err(failed)?
            .is_some()
        {
            return Ok(());
        }
        let cpus = nr_cpus().map_err(|(_, error)| failed(io_error(error)))?;
        let zero = vec![PodCounters::default(); cpus];
        let zero = PerCpuValues::try_from(zero).map_err(|error| failed(io_error(error)))?;
        self.0.insert(cookie, zero, 0).map_err(failed)
    }

    /// Removes the entry of a Pod, if it exists.
    pub(super) fn remove(&mut self, cookie: u64) -> Result<(), Error> {
        absent_is_none(self.0.remove(&cookie))
            .map(drop)
            .map_err(|source| Error::map(maps::POD_COUNTERS, "remove from", source))
    }

    /// The counts of a Pod over all CPUs.
    pub(super) fn get(&self, cookie: u64) -> Result<PodCounters, Error> {
        let values = absent_is_none(self.0.get(&cookie, 0))
            .map_err(|source| Error::map(maps::POD_COUNTERS, "read", source))?;
        let all = values.iter().flat_map(|values| values.iter().copied());
        Ok(all.fold(PodCounters::default(), PodCounters::plus))
    }
}

fn io_error(io_error: std::io::Error) -> aya::maps::MapError {
    aya::maps::MapError::IoError(io_error)
}
