//! The kernel side, seen from the daemon: the only module that knows aya.
//!
//! [`Datapath`] reaches every program, link and map. They are pinned: the kernel works on when the
//! daemon is gone, and the next one takes them over.

mod aliases;
mod attach;
mod btf;
mod cgroup_prog;
mod error;
mod foreign;
mod hierarchy;
mod layout;
mod link;
mod listeners;
mod lists;
mod netns_prog;
mod pins;
mod ring;
mod table;

use std::{
    os::fd::{AsFd as _, BorrowedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use aya::{
    Ebpf,
    maps::{Array, MapData, PerCpuArray},
};
use daemon_api::ProgramView;
use nix::time::{ClockId, clock_gettime};
use sluice_abi::{
    Addr, AliasUsage, Endpoint, Event, ForeignKey, Layout, Meeting, Pod, PodFlags, Process, Reason,
    maps,
};

use attach::Extent;
pub(crate) use attach::Features;
#[cfg(fuzzing)]
pub(crate) use btf::fuzz as fuzz_btf;
pub(crate) use error::Error;
use foreign::ForeignBinds;
pub(crate) use hierarchy::ForeignProgram;
pub(crate) use layout::of_this_kernel as layout;
use listeners::Listeners;
pub(crate) use lists::Entry;
use lists::Lists;
use netns_prog::NetnsProgram;
use pins::Generation;
pub(crate) use pins::{Pins, Private};
pub(crate) use ring::Ring;
use table::Table;

/// Programs, links and maps.
pub(crate) struct Datapath {
    pins: Pins,
    generation: Generation,
    adopted: bool,
    extent: Extent,
    cgroup: PathBuf,
    features: Features,
    programs: Ebpf,
    addresses: Table<Addr, Pod>,
    processes: Table<u64, Process>,
    resolvers: Table<u64, u8>,
    destinations: Table<Meeting, Endpoint>,
    alias_usage: Table<u64, AliasUsage>,
    awaited: Array<MapData, u64>,
    watched: Array<MapData, u64>,
    foreign_binds: ForeignBinds,
    lists: Lists,
    listeners: Listeners,
    netns_prog: NetnsProgram,
    counters: PerCpuArray<MapData, u64>,
}

impl Datapath {
    /// Takes over what an earlier daemon pinned, or builds it: all of it, or nothing. With a layout, which
    /// [`layout`] gives, sockets of the node may be accelerated.
    ///
    /// # Errors
    ///
    /// [`Error::Object`] or [`Error::Program`], with the verifier's log, if the kernel refuses;
    /// [`Error::Cgroup`] if `cgroup` cannot be opened; [`Error::Pin`] if something cannot be
    /// pinned.
    pub(crate) fn open(pins: Pins, cgroup: &Path, layout: Option<Layout>) -> Result<Self, Error> {
        let accelerates = layout.is_some();
        let features = Features::probe(accelerates);
        let current = pins.current()?;
        let adopted = current.is_some();
        let generation = current.map_or_else(|| pins.begin(), Ok)?;
        let mut programs = attach::load(&generation, features, layout)?;
        let processes = Table::take(&mut programs, maps::PROCESS_IP)?;
        let extent = Extent {
            accelerates,
            renounces: accelerates && any_renounces(&processes)?,
            splices: features.splices == Some(true),
        };
        generation.set_root(cgroup)?;
        attach::attach(&programs, &generation, cgroup, extent)?;
        let netns_prog = NetnsProgram::take(&mut programs)?;
        let generation = if adopted {
            generation
        } else {
            pins.publish(&generation)?
        };
        Ok(Self {
            pins,
            generation,
            adopted,
            extent,
            cgroup: cgroup.into(),
            features,
            addresses: Table::take(&mut programs, maps::LOCAL_POD_IPS)?,
            processes,
            resolvers: Table::take(&mut programs, maps::RESOLVERS)?,
            destinations: Table::take(&mut programs, maps::DESTINATIONS)?,
            alias_usage: Table::take(&mut programs, maps::ALIAS_USAGE)?,
            awaited: table::take(&mut programs, maps::AWAITED)?,
            watched: table::take(&mut programs, maps::WATCHED)?,
            lists: Lists::take(&mut programs)?,
            foreign_binds: ForeignBinds::take(&mut programs)?,
            listeners: Listeners::take(&mut programs)?,
            netns_prog,
            counters: table::take(&mut programs, maps::COUNTERS)?,
            programs,
        })
    }

    /// Puts hooks of the cgroup back whose pins somebody removed. `true` if there were any.
    ///
    /// Pins of maps are not put back: the maps are open here, and the next daemon builds a new
    /// generation if it finds this one incomplete.
    pub(crate) fn mend(&self) -> Result<bool, Error> {
        if self.missing()?.is_empty() {
            hierarchy::attach_children(&self.programs, &self.generation, &self.cgroup, false)?;
            return Ok(false);
        }
        self.generation.make_directories()?;
        self.generation.set_root(&self.cgroup)?;
        self.attach()?;
        Ok(true)
    }

    /// Everyone else's programs at the hooks whose order matters.
    pub(crate) fn foreign_programs(&self) -> Result<Vec<ForeignProgram>, Error> {
        hierarchy::foreign(&self.programs, &self.cgroup)
    }

    fn attach(&self) -> Result<(), Error> {
        let Self {
            programs,
            generation,
            cgroup,
            extent,
            ..
        } = self;
        attach::attach(programs, generation, cgroup, *extent)
    }

    /// Names of the programs that have lost their hook at the cgroup.
    pub(crate) fn missing(&self) -> Result<Vec<&'static str>, Error> {
        attach::missing(&self.programs, &self.generation, &self.cgroup, self.extent)
    }

    /// What was found of the kernel.
    pub(crate) fn features(&self) -> Features {
        self.features
    }

    /// Whether an earlier daemon's state was taken over.
    pub(crate) fn is_adopted(&self) -> bool {
        self.adopted
    }

    /// The cgroup whose processes are served.
    pub(crate) fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// Removes what daemons of other versions left, and tells what it was. To be called when
    /// every Pod is in this one's maps.
    pub(crate) fn remove_others(&self) -> Result<Vec<PathBuf>, Error> {
        self.pins.remove_others()
    }

    /// Lets go of the kernel side without changing it.
    pub(crate) fn into_pins(self) -> Pins {
        self.pins
    }

    /// The programs and where they run, by their names.
    pub(crate) fn programs(&self) -> Result<Vec<ProgramView>, Error> {
        let missing = self.missing();
        let is_there =
            |name: &str| (missing.as_ref()).is_ok_and(|all| all.iter().all(|one| *one != name));
        let mut views = Vec::new();
        for (name, program) in self.programs.programs() {
            if name == attach::SPLICE && !self.extent.has(name) {
                continue;
            }
            let info = program.info();
            let info = info.map_err(|source| Error::program(name, source))?;
            let (place, hooks) = match name {
                attach::STEER => ("netns", self.steered()?.len()),
                attach::SEND => ("map", 1),
                attach::SPLICE => ("kernel", usize::from(is_there(name))),
                attach::RENOUNCE if !self.extent.has(name) => ("cgroup", 0),
                name => (
                    "cgroup",
                    usize::from(is_there(name)) + hierarchy::count(&self.generation, name),
                ),
            };
            views.push(ProgramView {
                name: name.to_owned(),
                id: info.id(),
                place: place.to_owned(),
                hooks,
            });
        }
        views.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        Ok(views)
    }

    /// Attaches the inbound hook to a network namespace.
    pub(crate) fn steer(&mut self, cookie: u64, netns: BorrowedFd<'_>) -> Result<(), Error> {
        let program = self.netns_prog.load(cookie)?;
        attach::steer(program.as_fd(), netns, &self.generation.pod(cookie))
    }

    /// Detaches the inbound hook of a network namespace, if it is attached.
    pub(crate) fn release(&mut self, cookie: u64) -> Result<(), Error> {
        pins::remove(&self.generation.pod(cookie), &mut Vec::new())
    }

    /// Whether the inbound hook of a network namespace is attached.
    pub(crate) fn is_steered(&self, cookie: u64) -> bool {
        attach::is_steered(&self.generation.pod(cookie))
    }

    /// Network namespaces that have an inbound hook, also of Pods that are gone.
    pub(crate) fn steered(&self) -> Result<Vec<u64>, Error> {
        self.generation.pods()
    }

    /// Every entry of `process_ip`.
    pub(crate) fn all_processes(&self) -> Result<Vec<(u64, Process)>, Error> {
        self.processes.all()
    }

    /// Every entry of `local_pod_ips`.
    pub(crate) fn all_addresses(&self) -> Result<Vec<(Addr, Pod)>, Error> {
        self.addresses.all()
    }

    /// Everything that Pods list.
    pub(crate) fn all_lists(&self) -> Result<Vec<Entry>, Error> {
        self.lists.all()
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
        let Extent {
            accelerates,
            renounces,
            ..
        } = self.extent;
        if accelerates && !renounces && renounces_options(process) {
            self.extent.renounces = true;
            self.attach()?;
        }
        self.processes.set(cookie, *process)
    }

    /// Lets callers of whom nothing is known be compared with Pods whose network namespace is not
    /// known, in place of those that were awaited before. Each has an entry under a provisional
    /// cookie. Those beyond [`maps::MAX_AWAITED`] have to wait.
    pub(crate) fn set_awaited(&mut self, provisional: &[u64]) -> Result<(), Error> {
        let places = provisional.iter().chain(std::iter::repeat(&0));
        for (place, cookie) in (0..maps::MAX_AWAITED).zip(places) {
            self.awaited
                .set(place, cookie, 0)
                .map_err(|source| Error::map(maps::AWAITED, "write to", source))?;
        }
        Ok(())
    }

    /// To hear when the kernel has found an awaited Pod. To be taken once, within a runtime.
    pub(crate) fn learned(&mut self) -> Result<Ring<u64>, Error> {
        Ring::take(&mut self.programs, maps::LEARNED)
    }

    /// What the programs decide, while it is watched. To be taken once, within a runtime.
    pub(crate) fn events(&mut self) -> Result<Ring<Event>, Error> {
        Ring::take(&mut self.programs, maps::EVENTS)
    }

    /// Lets the programs tell of what they decide, for some time from now on.
    pub(crate) fn watch(&mut self, time: Duration) -> Result<(), Error> {
        // The clock of `bpf_ktime_get_ns`.
        let now =
            clock_gettime(ClockId::CLOCK_MONOTONIC).map_err(|errno| Error::Listen(errno.into()))?;
        let until = Duration::from(now) + time;
        let until = u64::try_from(until.as_nanos()).unwrap_or(u64::MAX);
        self.watched
            .set(0, until, 0)
            .map_err(|source| Error::map(maps::WATCHED, "write to", source))
    }

    /// Removes the entry of a network namespace, if there is one, and what the kernel learned of
    /// its proxy.
    pub(crate) fn remove_process(&mut self, cookie: u64) -> Result<(), Error> {
        self.processes.remove(cookie)?;
        self.foreign_binds.remove(cookie)?;
        self.resolvers.remove(cookie)
    }

    /// Who was refused a port of a proxy: Pod, port and user, the last ones only.
    pub(crate) fn foreign_binds(&self) -> Result<Vec<(ForeignKey, u32)>, Error> {
        self.foreign_binds.all()
    }

    /// Captures a Pod's DNS queries: its proxy answers them.
    pub(crate) fn capture_dns(&mut self, cookie: u64) -> Result<(), Error> {
        self.resolvers.set(cookie, 0)
    }

    /// Whether a Pod's DNS queries are captured.
    pub(crate) fn captures_dns(&self, cookie: u64) -> Result<bool, Error> {
        Ok(self.resolvers.get(cookie)?.is_some())
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

    /// Lists a port or a network of a Pod.
    pub(crate) fn list(&mut self, entry: &Entry) -> Result<(), Error> {
        self.lists.add(entry)
    }

    /// Takes it off the list, if it is there.
    pub(crate) fn unlist(&mut self, entry: &Entry) -> Result<(), Error> {
        self.lists.remove(entry)
    }

    /// How often each reason decided, over all CPUs, since the programs were loaded.
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

/// Whether a Pod's applications are refused options, because their sockets may be accelerated.
fn renounces_options(process: &Process) -> bool {
    process.pod.flags.has(PodFlags::ACCELERATE_ALL)
}

fn any_renounces(processes: &Table<u64, Process>) -> Result<bool, Error> {
    let all = processes.all()?;
    Ok(all.iter().any(|(_, process)| renounces_options(process)))
}

#[cfg(test)]
mod tests;
