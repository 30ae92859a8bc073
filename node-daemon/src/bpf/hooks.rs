//! The programs and the hooks that they are attached to.

use std::{
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    time::Duration,
};

use sluice_api::ProgramView;

use super::{
    Datapath, Error, attach,
    cgroup_prog::{self, ProgramInfo},
    decide_progs,
    hierarchy::{self, ForeignProgram},
    netns_prog, pins, reroute_prog,
};

/// The runs of one program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RunTime {
    /// Its name.
    pub(crate) name: String,
    /// Its id.
    pub(crate) id: u32,
    /// Their number.
    pub(crate) runs: u64,
    /// Their duration in total.
    pub(crate) time: Duration,
}

impl Datapath {
    /// Restores cgroup hooks whose pins were removed. `true` if there were any.
    ///
    /// Pins of maps are not restored: this process has the maps open, and the next daemon builds a new
    /// generation if this one is incomplete.
    pub(crate) fn repair_hooks(&self) -> Result<bool, Error> {
        if self.missing()?.is_empty() {
            self.attach_new_children()?;
            return Ok(false);
        }
        self.generation.make_directories()?;
        self.generation.set_root(&self.cgroup)?;
        self.attach()?;
        Ok(true)
    }

    /// Attaches to new children of the root cgroup.
    pub(crate) fn attach_new_children(&self) -> Result<(), Error> {
        hierarchy::attach_children(&self.loaded, &self.generation, &self.cgroup, false)
    }

    /// Programs of other owners at the hooks whose order matters.
    pub(crate) fn foreign_programs(&self) -> Result<Vec<ForeignProgram>, Error> {
        hierarchy::foreign(&self.loaded, &self.cgroup)
    }

    fn attach(&self) -> Result<(), Error> {
        let Self {
            loaded,
            generation,
            cgroup,
            enabled_hooks,
            ..
        } = self;
        attach::attach(loaded, generation, cgroup, *enabled_hooks)
    }

    /// Names of the programs that are no longer attached to the cgroup.
    pub(crate) fn missing(&self) -> Result<Vec<&'static str>, Error> {
        attach::missing(
            &self.loaded,
            &self.generation,
            &self.cgroup,
            self.enabled_hooks,
        )
    }

    /// The programs and their attachments, by their names.
    pub(crate) fn programs(&self) -> Result<Vec<ProgramView>, Error> {
        let missing = self.missing();
        let is_there =
            |name: &str| (missing.as_ref()).is_ok_and(|all| all.iter().all(|one| *one != name));
        let mut views = Vec::new();
        for (name, program) in self.loaded.programs() {
            let info = ProgramInfo::of(program).map_err(|source| Error::attach(name, source))?;
            let (attach_type, attach_count) = match name {
                netns_prog::SK_LOOKUP_PROG => ("netns", self.netns_with_sk_lookup()?.len()),
                attach::SK_MSG_PROG => ("map", 1),
                name if decide_progs::names().any(|one| one == name) => ("map", 1),
                name if reroute_prog::PROGRAMS.contains(&name) => {
                    ("tc", self.rule_maps.virtual_interfaces()?)
                }
                attach::SPLICE_PROG => ("kernel", usize::from(is_there(name))),
                attach::SOCK_CREATE_PROG if !self.enabled_hooks.has(name) => ("cgroup", 0),
                name => (
                    "cgroup",
                    usize::from(hierarchy::is_for_root(name) && is_there(name))
                        + hierarchy::count(&self.generation, name),
                ),
            };
            views.push(ProgramView {
                name: name.to_owned(),
                id: info.id,
                attach_type: attach_type.to_owned(),
                attach_count,
            });
        }
        views.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        Ok(views)
    }

    /// Enables the kernel's statistics of programs until the descriptor is closed.
    pub(crate) fn enable_stats() -> Result<OwnedFd, Error> {
        aya::sys::enable_stats(aya::sys::Stats::RunTime)
            .map_err(|source| Error::Stats(source.io_error))
    }

    /// The name and id of each program, with the number and duration of its runs while statistics were
    /// enabled.
    pub(crate) fn run_times(&self) -> Result<Vec<RunTime>, Error> {
        let time = |(name, program): (&'static str, BorrowedFd<'_>)| {
            let read = || Ok((ProgramInfo::of(program)?.id, cgroup_prog::runs(program)?));
            let (id, (runs, time)) = read().map_err(|source| Error::attach(name, source))?;
            Ok(RunTime {
                name: name.to_owned(),
                id,
                runs,
                time,
            })
        };
        self.loaded.programs().map(time).collect()
    }

    /// Attaches the inbound hook to a network namespace.
    pub(crate) fn attach_sk_lookup(
        &mut self,
        cookie: u64,
        netns: BorrowedFd<'_>,
    ) -> Result<(), Error> {
        let program = self.netns_prog.assign(cookie)?;
        attach::attach_sk_lookup(program.as_fd(), netns, &self.generation.pod(cookie))
    }

    /// Loads in advance what the next network namespace needs.
    pub(crate) fn prepare_sk_lookup(&mut self) -> Result<(), Error> {
        self.netns_prog.prepare()
    }

    /// Loads the programs of a virtual interface, for packets from and to the hosts behind it.
    /// `link_header`: the length of the link's header, in bytes.
    pub(crate) fn load_reroute(&self, cookie: u64, link_header: u8) -> Result<[OwnedFd; 2], Error> {
        self.reroute_prog.load(cookie, link_header)
    }

    /// Detaches the inbound hook of a network namespace, if it is attached.
    pub(crate) fn detach_sk_lookup(&mut self, cookie: u64) -> Result<(), Error> {
        pins::remove(&self.generation.pod(cookie), &mut Vec::new())
    }

    /// Whether the inbound hook of a network namespace is attached.
    pub(crate) fn has_sk_lookup(&self, cookie: u64) -> bool {
        attach::has_sk_lookup(&self.generation.pod(cookie))
    }

    /// Network namespaces with an inbound hook, including those of deleted Pods.
    pub(crate) fn netns_with_sk_lookup(&self) -> Result<Vec<u64>, Error> {
        self.generation.pods()
    }
}
