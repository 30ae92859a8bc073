//! The reports of the programs: rings of events, and counters.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use sluice_abi::{Event, Reason, maps};

use super::{Datapath, Error, Ring};

impl Datapath {
    /// The ring of resolved pending Pods. Call it once, within a tokio runtime.
    pub(crate) fn netns_found(&mut self) -> Result<Ring<u64>, Error> {
        Ring::open(&mut self.loaded, maps::NETNS_FOUND)
    }

    /// The ring of events, which the programs fill while a monitor is active. Call it once, within a
    /// tokio runtime.
    pub(crate) fn events(&mut self) -> Result<Ring<Event>, Error> {
        Ring::open(&mut self.loaded, maps::EVENTS)
    }

    /// Enables events for a duration from now on.
    pub(crate) fn enable_events(&mut self, time: Duration) -> Result<(), Error> {
        // The clock of `bpf_ktime_get_ns`.
        let now =
            clock_gettime(ClockId::CLOCK_MONOTONIC).map_err(|errno| Error::Listen(errno.into()))?;
        let until = Duration::from(now) + time;
        let until = u64::try_from(until.as_nanos()).unwrap_or(u64::MAX);
        self.monitor_until
            .set(0, until, 0)
            .map_err(|source| Error::map(maps::MONITOR_UNTIL, "write to", source))
    }

    /// The ring of Pods in which a process was denied a port of the proxy. Call it once, within a tokio
    /// runtime.
    pub(crate) fn foreign_found(&mut self) -> Result<Ring<u64>, Error> {
        Ring::open(&mut self.loaded, maps::FOREIGN_FOUND)
    }

    /// The count of each reason, over all CPUs, since the programs were loaded.
    pub(crate) fn counters(&self) -> Result<Vec<(Reason, u64)>, Error> {
        let total = |reason: &Reason| {
            let slots = self
                .counters
                .get(&(*reason as u32), 0)
                .map_err(|source| Error::map(maps::COUNTERS, "read", source))?;
            Ok((*reason, slots.iter().sum()))
        };
        Reason::ALL.iter().map(total).collect()
    }
}
