//! Takeover: merges the records, the existing namespaces and the kernel state that the previous
//! daemon left.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    path::{Path, PathBuf},
};

use sluice_api::AddRequest;
use tracing::{error, info, warn};

use super::{
    PodManager, has_passthrough, name, namespaces::Enrollment, netns_facts::resolve_in_netns,
    registry::MeshStatus,
};
use crate::{
    cgroup,
    netns::{self, Netns, Rerouting, ReservedPorts, SourceRouting, Visited},
    pods::{
        Error, Repair, StartupState, alias_routes,
        apply::AppliedState,
        error::one_line,
        plan::{self, Action, KernelState},
        policy::{ResolvedPolicy, Verdict, without_unknown},
        settings,
        store::{Changes, Record, RecordId},
    },
};

/// The meaning of a record at takeover.
enum RecordState {
    Meshed(Box<FoundNetns>),
    /// Another attachment of a Pod that an earlier record has.
    Member,
    Bypassed(&'static str),
    /// The Pod is gone.
    Gone,
}

/// An existing Pod, assembled from its records.
struct Found {
    netns: FoundNetns,
    members: Vec<(RecordId, Record)>,
}

/// The netns of a record.
struct FoundNetns {
    netns: Netns,
    policy: ResolvedPolicy,
    /// Whether it has the address `::6`.
    passthrough: bool,
}

impl PodManager {
    /// Takes over from the previous daemon: completes unfinished requests, and removes the state of
    /// Pods that are gone. If an update of a Pod fails, the Pod keeps its state.
    ///
    /// # Errors
    ///
    /// If the kernel's maps cannot be read, or the machine has no descriptors, memory or threads to open the
    /// namespaces. No Pod is changed then.
    pub(in crate::pods) fn restore(startup_state: StartupState) -> Result<Self, Error> {
        let StartupState {
            datapath,
            store,
            records,
            pending_dels,
            node_policy,
        } = startup_state;
        let mut manager = Self::new(datapath, store, pending_dels, node_policy);
        for _ in 0..manager.registry.damaged() {
            manager.repairs.count(Repair::DamagedRecord);
        }
        let mut state = manager.state()?;
        let mut found = BTreeMap::new();
        let mut complete = true;
        let netns = (records.iter()).filter_map(|(_, record)| record.netns_path());
        let mut visited = netns::visit_all(netns, |visited| visited);
        for (record_id, record) in records {
            complete &= manager.classify_record(record_id, record, &mut visited, &mut found)?;
        }
        let desired = (found.iter()).map(|(cookie, pod)| (*cookie, pod.desired(*cookie)));
        let alive = |cookie| manager.datapath.has_sk_lookup(cookie);
        for (cookie, action) in plan::reconcile(desired.collect(), state.keys().copied(), alive) {
            let state = state.remove(&cookie).unwrap_or_default();
            let done = match (action, found.remove(&cookie)) {
                (Action::Converge(desired), Some(pod)) => {
                    let kernel = AppliedState::of(cookie, pod.in_netns(state, &desired));
                    manager.converge(kernel, *desired, pod)
                }
                (Action::Keep, _) => {
                    warn!(
                        cookie,
                        "netns without a record stays intercepted (orphaned)"
                    );
                    let kernel = AppliedState::of(cookie, state);
                    manager.namespaces.keep(cookie, kernel);
                    Ok(())
                }
                _ => AppliedState::of(cookie, state).remove(&mut manager.datapath),
            };
            if let Err(error) = done {
                let pod = manager.view().name_of(cookie);
                error!(
                    pod,
                    error = one_line(&error),
                    "failed to restore a pod completely"
                );
                complete = false;
            }
        }
        manager.remove_old_generations(complete);
        manager.remove_stale_aliases();
        Ok(manager)
    }

    /// Older generations serve their Pods until this generation does.
    fn remove_old_generations(&self, complete: bool) {
        let (pods, orphaned) = self.namespaces.count();
        info!(
            pods,
            orphaned,
            adopted = self.datapath.is_adopted(),
            "state restored"
        );
        if !complete {
            return;
        }
        match self.datapath.remove_others() {
            Ok(others) => {
                for path in others {
                    info!(path = %path.display(), "removed an earlier generation");
                }
            }
            Err(error) => warn!(
                error = one_line(&error),
                "failed to remove earlier generations"
            ),
        }
    }

    /// The kernel state, by netns cookie.
    fn state(&self) -> Result<BTreeMap<u64, KernelState>, Error> {
        let mut all: BTreeMap<u64, KernelState> = BTreeMap::new();
        for (cookie, netns_entry) in self.datapath.all_netns_entries()? {
            let state = all.entry(cookie).or_default();
            state.routes = alias_routes::announced(&netns_entry);
            state.source_routing = SourceRouting::announced(&netns_entry);
            state.rerouting = Rerouting::announced(&netns_entry);
            state.netns_entry = Some(netns_entry);
        }
        for (addr, pod) in self.datapath.all_addresses()? {
            all.entry(pod.cookie)
                .or_default()
                .addresses
                .insert(addr, pod);
        }
        for entry in self.datapath.all_rules()? {
            all.entry(entry.cookie())
                .or_default()
                .rule_set
                .insert(entry);
        }
        for cookie in self.datapath.netns_with_sk_lookup()? {
            // A hook in a namespace that is gone is a pin to be removed, not a hook.
            all.entry(cookie).or_default().sk_lookup = true;
        }
        Ok(all)
    }

    /// The meaning of a record now. `false` if it cannot be determined. `visited`: the namespaces at the records'
    /// paths, which this takes.
    ///
    /// # Errors
    ///
    /// If the machine lacks the resources to open its namespace.
    fn classify_record(
        &mut self,
        record_id: RecordId,
        record: Record,
        visited: &mut HashMap<PathBuf, Visited>,
        found: &mut BTreeMap<u64, Found>,
    ) -> Result<bool, Error> {
        let visited = visited.remove(Path::new(&record.request.netns));
        let pod = record.netns.and_then(|id| found.get_mut(&id.cookie));
        let known = match self.record_state(&record, pod.is_some(), visited) {
            Ok(RecordState::Meshed(netns)) => {
                let cookie = netns.netns.id().cookie;
                let (netns, members) = (*netns, vec![(record_id, record)]);
                found.insert(cookie, Found { netns, members });
                true
            }
            Ok(RecordState::Member) => {
                if let Some(pod) = pod {
                    pod.members.push((record_id, record));
                }
                true
            }
            Ok(RecordState::Bypassed(reason)) => {
                let status = MeshStatus::Bypassed { reason };
                self.registry.insert(record_id, record, status);
                true
            }
            Ok(RecordState::Gone) => {
                let done = self.registry.discard(record_id);
                done.inspect_err(|error| {
                    warn!(error = one_line(error), "failed to remove a record");
                })
                .is_ok()
            }
            Err(error) if error.is_shortage() => return Err(error),
            Err(error) => {
                let container = record.request.attachment.container_id;
                error!(
                    container,
                    error = one_line(&error),
                    "failed to restore a record; the pod is not changed"
                );
                false
            }
        };
        Ok(known)
    }

    /// `is_member`: another record has its netns. `visited`: the namespace at the record's path, if it could be
    /// read.
    fn record_state(
        &self,
        record: &Record,
        is_member: bool,
        visited: Option<Visited>,
    ) -> Result<RecordState, Error> {
        let path = Path::new(&record.request.netns);
        match (self.recorded_verdict(&record.request)?, record.netns) {
            (Verdict::Intercept(_), Some(_)) if is_member => Ok(RecordState::Member),
            (Verdict::Intercept(policy), Some(id)) => {
                let visited = visited.filter(|one| one.netns.id() == id);
                let Visited { netns, interfaces } = match visited {
                    Some(visited) => visited,
                    None => match self.find(path, id)? {
                        Some(netns) => netns.visit()?,
                        None => return Ok(RecordState::Gone),
                    },
                };
                let features = self.datapath.features();
                let mut policy = resolve_in_netns(*policy, &netns, &interfaces, features)?;
                // Without an entry of this generation nothing shows that the proxy has not listened.
                policy.bypass_before_proxy &= self.datapath.before_proxy(id.cookie)?.is_some();
                Ok(RecordState::Meshed(Box::new(FoundNetns {
                    netns,
                    policy,
                    passthrough: has_passthrough(&interfaces),
                })))
            }
            (Verdict::Bypass(reason), None) if path.exists() => Ok(RecordState::Bypassed(reason)),
            (Verdict::Bypass(_) | Verdict::Intercept(_), None) if !path.exists() => {
                Ok(RecordState::Gone)
            }
            // The configuration changed since the record was written.
            (Verdict::Intercept(_), None) | (Verdict::Bypass(_), _) => Err(Error::Changed),
        }
    }

    /// The namespace with this identity: at its path, or by a process in it.
    ///
    /// # Errors
    ///
    /// If it may be at the path, and cannot be opened.
    fn find(&self, path: &Path, id: netns::Id) -> Result<Option<Netns>, Error> {
        let opened = Netns::open(path);
        let by_process = || netns::find(&cgroup::processes(self.datapath.cgroup()), id);
        match opened {
            Ok(netns) if netns.id() == id => Ok(Some(netns)),
            Err(error) if !error.is_absence() => by_process().map(Some).ok_or(error.into()),
            _ => Ok(by_process()),
        }
    }

    /// The verdict on a Pod that was added. An earlier version ignored unknown annotations of Sluice; a
    /// running Pod keeps its settings.
    fn recorded_verdict(&self, request: &AddRequest) -> Result<Verdict, Error> {
        match (self.view().verdict(request), &request.annotations) {
            (Err(Error::Policy(settings::Error::NotOwn { .. })), Some(annotations)) => {
                let known = Some(without_unknown(annotations));
                self.view().verdict(&AddRequest {
                    annotations: known,
                    ..request.clone()
                })
            }
            (verdict, _) => verdict,
        }
    }

    /// Brings a Pod's kernel state to the desired one.
    fn converge(
        &mut self,
        kernel: AppliedState,
        desired: KernelState,
        pod: Found,
    ) -> Result<(), Error> {
        let Found { netns, members } = pod;
        let FoundNetns { netns, policy, .. } = netns;
        let first = members.first();
        let pod = first.map(|(_, record)| name(&record.request.pod));
        let status = MeshStatus::Meshed {
            cookie: netns.id().cookie,
            mesh: &policy.mesh.name,
        };
        let mut attachments = Vec::new();
        for (record_id, record) in members {
            attachments.push(record.request.attachment.clone());
            self.registry.insert(record_id, record, status);
        }
        let enrollment = Enrollment {
            policy,
            attachments,
            desired,
        };
        let done = (self.namespaces).adopt(&mut self.datapath, &netns, kernel, enrollment);
        done.map(|applied| applied.log(&pod.unwrap_or_default()))
    }
}

impl Found {
    fn changes(&self) -> Changes {
        Changes::of(self.members.iter().map(|(_, record)| record))
    }

    fn desired(&self, cookie: u64) -> KernelState {
        let records = || self.members.iter().map(|(_, record)| record);
        let addresses: Vec<IpAddr> = records().flat_map(Record::addresses).collect();
        plan::desired(cookie, &self.netns.policy, &addresses, self.changes())
    }

    /// The kernel state, with Sluice's changes inside the netns, which the maps do not hold.
    ///
    /// Ports are the first change of an enrollment and `sk_lookup` is one of the last, so the ports of a Pod
    /// with the hook count as reserved. The resync reserves those that are not. A look here would take a time
    /// that grows with the square of the number of Pods: the names in `/proc/sys` of all namespaces are in one
    /// hash chain (`proc_sys_compare`).
    fn in_netns(&self, mut state: KernelState, desired: &KernelState) -> KernelState {
        if let Some(routing) = &mut state.source_routing {
            routing.switches = self.changes().switches;
        }
        let reserved = if state.sk_lookup {
            desired.reserved
        } else {
            ReservedPorts::NONE
        };
        KernelState {
            passthrough: desired.passthrough && self.netns.passthrough,
            reserved,
            ..state
        }
    }
}
