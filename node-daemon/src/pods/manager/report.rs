//! The status of the daemon, the list of Pods, and the values of the metrics.

use std::time::Duration;

use sluice_abi::{ABI_VERSION, Reason};
use sluice_api::{ForeignProgramView, PodCounters, PodName, PodView, Status};

use super::{PodManager, view::View};
use crate::{
    bpf::{ForeignProgram, RunTime},
    kernel::Release,
    pods::{Error, Repairs, error::one_line, features, silent},
};

/// The values of the metrics.
#[derive(Clone, Debug)]
pub(crate) struct MetricsSnapshot {
    /// The number of decisions and events by reason.
    pub(crate) reasons: Vec<(Reason, u64)>,
    /// The number of intercepted attachments.
    pub(crate) meshed: usize,
    /// The number of attachments that are not intercepted.
    pub(crate) bypassed: usize,
    /// The number of pending Pods.
    pub(crate) pending: usize,
    /// The number of meshed Pods whose proxy does not listen.
    pub(crate) without_listener: usize,
    /// Connections without an alias address, because the Pod's share of alias addresses is used up.
    /// Only Pods with such connections.
    pub(crate) alias_fallbacks: Vec<(PodName, u64)>,
    /// Denials of a proxy's port to other users. Only Pods with denials.
    pub(crate) foreign_uses: Vec<(PodName, u64)>,
    /// Decisions about each intercepted Pod.
    pub(crate) pod_counters: Vec<(PodName, PodCounters)>,
    /// The repairs.
    pub(crate) repairs: Repairs,
    /// Programs of other owners at Sluice's hooks.
    pub(crate) foreign_programs: Vec<ForeignProgram>,
}

impl PodManager {
    pub(in crate::pods) fn status(&mut self) -> Result<Status, Error> {
        let (meshed_pods, unmeshed_pods) = self.registry.count();
        let (_, orphaned_netns) = self.namespaces.count();
        let silent = self.view().without_listener()?;
        let pods_without_listener = silent.len();
        let silent = self.logs.silent_proxies(silent);
        let faults = self.faults();
        let view = self.view();
        let foreign = view.foreign_binds()?;
        let programs = self.datapath.foreign_programs()?;
        let ipv6 = view.ipv6_problem()?;
        let addresses = view.cut_addresses_problem();
        let kernel = Release::running();
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            abi: ABI_VERSION,
            ready: faults.is_empty(),
            // The actions of a Pod's processes never make the node unready.
            problems: (faults.into_iter())
                .chain(foreign)
                .chain(view.foreign_listeners())
                .chain(silent_problem(view, &silent))
                .chain(ipv6)
                .chain(addresses)
                .chain(programs.iter().filter_map(runs_first))
                .collect(),
            mesh: self.node_policy.mesh.name.clone(),
            acceleration: self.node_policy.acceleration.name().to_owned(),
            families: self.node_policy.mesh.node.families.name().to_owned(),
            features: features::describe(&kernel, self.datapath.features()),
            kernel: kernel.to_string(),
            ztunnel: None,
            programs: self.datapath.programs()?,
            programs_adopted: self.datapath.programs_are_adopted(),
            foreign_programs: programs.into_iter().map(foreign_program).collect(),
            adds_with_annotations: 0,
            adds_without_annotations: 0,
            meshed_pods,
            unmeshed_pods,
            pending_pods: self.pending.len(),
            pods_without_listener,
            orphaned_netns,
        })
    }

    /// The reasons why an ADD would fail.
    fn faults(&self) -> Vec<String> {
        let hooks = match self.datapath.missing() {
            Ok(none) if none.is_empty() => None,
            Ok(names) => Some(format!(
                "hooks of the cgroup are missing: {}",
                names.join(", ")
            )),
            Err(error) => Some(error.to_string()),
        };
        let records = self.registry.try_writing().err();
        let records = records.map(|error| one_line(&error));
        hooks.into_iter().chain(records).collect()
    }

    /// Every Pod.
    pub(in crate::pods) fn list(&self) -> Result<Vec<PodView>, Error> {
        let mut all = self.view().attachments()?;
        all.extend(self.discovery.left());
        Ok(all)
    }

    /// The runs of the programs.
    pub(in crate::pods) fn run_times(&self) -> Result<Vec<RunTime>, Error> {
        Ok(self.datapath.run_times()?)
    }

    pub(in crate::pods) fn read(&self) -> Result<MetricsSnapshot, Error> {
        let (meshed, bypassed) = self.registry.count();
        let view = self.view();
        Ok(MetricsSnapshot {
            reasons: self.datapath.counters()?,
            meshed,
            bypassed,
            pending: self.pending.len(),
            without_listener: view.without_listener()?.len(),
            alias_fallbacks: view.alias_fallbacks()?,
            foreign_uses: view.foreign_uses_by_name()?,
            pod_counters: view.counters_by_name()?,
            repairs: self.repairs,
            foreign_programs: self.datapath.foreign_programs()?,
        })
    }
}

/// The Pods without a listener for longer than the grace time, in one sentence.
fn silent_problem(view: View<'_>, silent: &[(u64, Duration)]) -> Option<String> {
    let (first, age) = silent.first()?;
    let name = view.name_of(*first);
    Some(silent::problem(&name, *age, silent.len() - 1))
}

/// A foreign program that runs before Sluice's.
fn runs_first(program: &ForeignProgram) -> Option<String> {
    let ForeignProgram {
        hook,
        id,
        name,
        cgroup,
        ..
    } = program;
    program.runs_first.then(|| {
        format!(
            "program '{name}' (id {id}) runs before '{hook}' in {}: the proxy may receive addresses that it wrote",
            cgroup.display()
        )
    })
}

fn foreign_program(program: ForeignProgram) -> ForeignProgramView {
    ForeignProgramView {
        hook: program.hook.to_owned(),
        id: program.id,
        name: program.name,
        uid: program.uid,
        cgroup: program.cgroup.display().to_string(),
        runs_first: program.runs_first,
    }
}
