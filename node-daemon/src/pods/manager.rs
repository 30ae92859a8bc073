//! The Pod manager: owns the registry of attachments and the kernel state of their Pods.

mod audit_request;
mod check;
mod del;
mod explain_request;
mod foreign;
mod found;
#[cfg(fuzzing)]
pub(crate) mod fuzz;
mod netns_facts;
mod pending;
mod pod_routes;
mod restore;
mod resync;
mod view;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
};

use sluice_abi::Addr;
use sluice_api::{AddRequest, AddResponse, Attachment, PodName};
use tracing::{info, warn};

use pending::PendingPod;
pub(crate) use view::MetricsSnapshot;

use super::{
    Error, ListedPod, NodePolicy, PendingDels, Repairs, addresses,
    apply::{AppliedState, Target},
    error::one_line,
    evidence::Doubt,
    foreign_log::ForeignLog,
    plan::{self, KernelState},
    policy::{self, MissingAnnotations, PodPolicy, ResolvedPolicy, Subject, Verdict},
    rule_set,
    silent::SilentProxies,
    source_addr::PASSTHROUGH,
    store::{Changes, Record, RecordId, Store},
    survey::Lodging,
};
use crate::{
    bpf::{Datapath, Pins},
    limit::LogLimit,
    netns::{self, Families, Interface, Netns, Switches},
};
use found::{LeftPod, is_reported};
use netns_facts::resolve_in_netns;

/// Owns the kernel side and the registry of attachments.
pub(crate) struct PodManager {
    datapath: Datapath,
    node_policy: NodePolicy,
    store: Store,
    pending_dels: PendingDels,
    repairs: Repairs,
    attachments: BTreeMap<Attachment, AttachmentState>,
    /// By netns cookie. Several attachments may share one.
    pods: BTreeMap<u64, MeshedPod>,
    /// Intercepted namespaces without a record. They stay intercepted: without the hooks, traffic
    /// of their Pods would bypass the proxy.
    orphaned: BTreeMap<u64, AppliedState>,
    /// The Pods of this node in the latest list of the API server.
    listed: Vec<ListedPod>,
    /// The pending Pods, by a provisional cookie.
    pending: BTreeMap<u64, PendingPod>,
    /// The number of namespaces that the last survey rejected, by reason, and of unprivileged
    /// users' namespaces.
    doubts: (BTreeMap<Doubt, usize>, usize),
    /// Running Pods that were not adopted.
    left: Vec<LeftPod>,
    /// The users that were denied a port of a proxy and are logged, by cookie, port and protocol.
    foreign_reported: BTreeMap<(u64, u16, u16), u32>,
    /// The rate limit of log lines that unprivileged users can cause.
    stranger_log: LogLimit,
    silent_proxies: SilentProxies,
    /// The foreign programs that were logged.
    foreign_log: ForeignLog,
}

/// The state of a registered attachment.
struct AttachmentState {
    record_id: RecordId,
    record: Record,
    status: MeshStatus,
}

#[derive(Clone, Copy)]
enum MeshStatus {
    Meshed { cookie: u64, mesh: &'static str },
    Bypassed { reason: &'static str },
}

/// A netns whose traffic is intercepted.
struct MeshedPod {
    id: netns::Id,
    path: PathBuf,
    policy: ResolvedPolicy,
    /// In the order of their ADDs: the first one's addresses are the Pod's main addresses, unless
    /// routes prefer others.
    attachments: Vec<Attachment>,
    kernel: AppliedState,
}

impl PodManager {
    /// An empty registry: see [`PodManager::restore`].
    fn new(
        datapath: Datapath,
        store: Store,
        pending_dels: PendingDels,
        node_policy: NodePolicy,
    ) -> Self {
        Self {
            datapath,
            node_policy,
            store,
            pending_dels,
            repairs: Repairs::default(),
            attachments: BTreeMap::new(),
            pods: BTreeMap::new(),
            orphaned: BTreeMap::new(),
            listed: Vec::new(),
            pending: BTreeMap::new(),
            doubts: Default::default(),
            left: Vec::new(),
            foreign_reported: BTreeMap::new(),
            stranger_log: LogLimit::default(),
            silent_proxies: SilentProxies::default(),
            foreign_log: ForeignLog::default(),
        }
    }

    /// Changes the policy for later ADDs without annotations.
    pub(super) fn set_missing_annotations(&mut self, policy: MissingAnnotations) {
        self.node_policy.missing_annotations = policy;
    }

    pub(super) fn add(&mut self, request: AddRequest) -> Result<AddResponse, Error> {
        self.admit_in(request, None)
    }

    /// Enrolls in a netns that is already open, if it is: its path may lead to another one by now.
    fn admit_in(
        &mut self,
        request: AddRequest,
        netns: Option<Netns>,
    ) -> Result<AddResponse, Error> {
        let container = request.attachment.container_id.clone();
        let pod = name(&request.pod);
        let status = match self.verdict(&request)? {
            Verdict::Intercept(policy) => {
                let visit = || Netns::open_with_worker(Path::new(&request.netns));
                let netns = netns.map_or_else(visit, Ok)?;
                self.enroll(request, *policy, &netns)?
            }
            Verdict::Bypass(reason) => self.record_bypass(request, reason)?,
        };
        let answer = AddResponse {
            meshed: status.is_meshed(),
            reason: status.reason(),
        };
        let (meshed, reason) = (answer.meshed, &answer.reason);
        info!(container_id = container, %pod, meshed, reason, "pod added");
        Ok(answer)
    }

    /// The decision on a Pod of this node.
    fn verdict<'a>(&self, pod: impl Into<Subject<'a>>) -> Result<Verdict, Error> {
        let mut verdict = policy::decide(&self.node_policy, pod)?;
        if let Verdict::Intercept(policy) = &mut verdict {
            rule_set::check(policy)?;
            policy.acceleration = Some(self.node_policy.acceleration.of_pod(policy.acceleration));
        }
        Ok(verdict)
    }

    /// The addresses are not checked, because they are not used. They only end a stale Pod that had
    /// them before, so that its state does not apply to this Pod.
    fn record_bypass(
        &mut self,
        request: AddRequest,
        reason: &'static str,
    ) -> Result<MeshStatus, Error> {
        self.del(&request.attachment)?;
        for address in &request.addresses {
            if let Some(cookie) = self.pod_at(address.ip.to_canonical().into())?
                && !self.is_alive(cookie)
            {
                self.remove_pod(cookie)?;
            }
        }
        let record_id = self.store.new_record_id();
        let record = self.store.record(request, None, Changes::default());
        self.store.put(record_id, &record)?;
        let status = MeshStatus::Bypassed { reason };
        self.record_attachment(record_id, record, status);
        Ok(status)
    }

    fn enroll(
        &mut self,
        mut request: AddRequest,
        policy: PodPolicy,
        netns: &Netns,
    ) -> Result<MeshStatus, Error> {
        rule_set::check_addresses(request.addresses.len())?;
        let interfaces = netns.interfaces()?;
        let policy = resolve_in_netns(policy, netns, &interfaces, self.datapath.features())?;
        let id = netns.id();
        let ifname = &request.attachment.ifname;
        if request.addresses.is_empty() {
            request.addresses = addresses::of_interface(&interfaces, ifname);
        }
        let addresses = addresses::verify(&request.addresses, &interfaces)?;
        // A second interface may have no address: the Pod is reachable at those of the first.
        if addresses.is_empty() && !self.pods.contains_key(&id.cookie) {
            let interface = ifname.clone();
            return Err(addresses::Error::Nowhere { interface }.into());
        }
        self.check_netns_unclaimed(netns, &request.attachment)?;
        self.claim_addresses(&addresses, id.cookie, is_reported(&request.attachment))?;
        if self
            .cookie_of(&request.attachment)
            .is_some_and(|old| old != id.cookie)
        {
            self.del(&request.attachment)?;
        }
        let changes = self.own_changes(netns, &policy, &interfaces, &addresses);
        let status = MeshStatus::Meshed {
            cookie: id.cookie,
            mesh: &policy.mesh.name,
        };
        let record = self.store.record(request, Some(id), changes);
        self.enroll_attachment(netns, policy, record, status)?;
        self.drop_pending_for(&addresses)?;
        Ok(status)
    }

    /// What Sluice changes inside the netns: what is absent now, and what it changed for an earlier
    /// attachment.
    fn own_changes(
        &self,
        netns: &Netns,
        policy: &ResolvedPolicy,
        interfaces: &[Interface],
        addresses: &[IpAddr],
    ) -> Changes {
        let earlier = self.pods.get(&netns.id().cookie);
        let earlier = earlier.map_or_else(Changes::default, |pod| pod.kernel.state().changes());
        let there = (interfaces.iter()).any(|one| one.addresses.contains(&PASSTHROUGH));
        let off = if policy.source_mark() == 0 {
            Switches::default()
        } else {
            // If they cannot be read, they cannot be switched on, and the routing is refused.
            netns
                .switches_off(Families::of(addresses))
                .unwrap_or_default()
        };
        Changes {
            passthrough: !there || earlier.passthrough,
            switches: earlier.switches.or(off),
        }
    }

    /// Checks that a netns does not belong to another Pod. All attachments of a Pod have the
    /// container id of its sandbox; an adopted Pod has none yet.
    fn check_netns_unclaimed(&self, netns: &Netns, attachment: &Attachment) -> Result<(), Error> {
        let cookie = netns.id().cookie;
        let members = self.pods.get(&cookie).map(|pod| &*pod.attachments);
        let foreign = |one: &Attachment| {
            one.container_id != attachment.container_id && !one.network.is_empty()
        };
        if members.unwrap_or_default().iter().any(foreign) {
            return Err(Error::Occupied {
                netns: netns.path().into(),
                other_pod: self.name_of(cookie),
            });
        }
        Ok(())
    }

    /// Checks that no other Pod has these addresses: see [`PodManager::release_address`].
    fn claim_addresses(
        &mut self,
        addresses: &[IpAddr],
        cookie: u64,
        reported: bool,
    ) -> Result<(), Error> {
        for address in addresses {
            let other = self.pod_at((*address).into())?;
            let another = |one: &u64| *one != cookie && !self.is_pending(*one);
            if let Some(other) = other.filter(another) {
                self.release_address(*address, other, reported)?;
            }
        }
        Ok(())
    }

    /// Writes the record first: if the daemon dies before the end, its successor completes the
    /// enrollment.
    fn enroll_attachment(
        &mut self,
        netns: &Netns,
        policy: ResolvedPolicy,
        record: Record,
        status: MeshStatus,
    ) -> Result<(), Error> {
        let attachment = record.request.attachment.clone();
        let mut pod = self.take_pod(netns, &policy);
        let mut members = pod.attachments.clone();
        if !members.contains(&attachment) {
            members.push(attachment.clone());
        }
        let mut all = Vec::new();
        for member in &members {
            let known = self.attachments.get(member).map(|known| &known.record);
            let record = if *member == attachment {
                Some(&record)
            } else {
                known
            };
            all.extend(record.into_iter().flat_map(Record::addresses));
        }
        if let Err(error) = rule_set::check_addresses(all.len()) {
            self.put_pod(netns.id().cookie, pod);
            return Err(error.into());
        }
        let desired = plan::desired(netns.id().cookie, &policy, &all, record.changes());

        let before = self.attachments.get(&attachment);
        let before = before.map(|known| (known.record_id, known.record.clone()));
        let record_id = match before {
            Some((record_id, _)) => record_id,
            None => self.store.new_record_id(),
        };
        let mut target = Target {
            datapath: &mut self.datapath,
            netns: Some(netns),
        };
        let done = (self.store.put(record_id, &record).map_err(Error::from))
            .and_then(|()| pod.kernel.apply(&mut target, desired));
        if let Ok(applied) = &done {
            applied.log(&name(&record.request.pod));
            netns.path().clone_into(&mut pod.path);
            pod.policy = policy;
            pod.attachments = members;
            self.record_attachment(record_id, record, status);
        } else {
            self.rollback_record(record_id, before.map(|(_, record)| record));
        }
        self.put_pod(netns.id().cookie, pod);
        done.map(drop)
    }

    /// Restores the record from before a failed enrollment.
    fn rollback_record(&self, record_id: RecordId, before: Option<Record>) {
        let done = match before {
            Some(record) => self.store.put(record_id, &record),
            None => self.store.remove(record_id),
        };
        if let Err(error) = done {
            warn!(error = one_line(&error), "failed to roll back a record");
        }
    }

    /// Removes a Pod from the registry to change it, or starts a new one.
    fn take_pod(&mut self, netns: &Netns, policy: &ResolvedPolicy) -> MeshedPod {
        let id = netns.id();
        self.pods.remove(&id.cookie).unwrap_or_else(|| MeshedPod {
            id,
            path: netns.path().into(),
            policy: policy.clone(),
            attachments: Vec::new(),
            kernel: (self.orphaned.remove(&id.cookie))
                .unwrap_or_else(|| AppliedState::of(id.cookie, KernelState::default())),
        })
    }

    /// Returns a Pod to the registry, unless it has no attachments.
    fn put_pod(&mut self, cookie: u64, pod: MeshedPod) {
        if !pod.attachments.is_empty() {
            self.pods.insert(cookie, pod);
        } else if *pod.kernel.state() != KernelState::default() {
            self.orphaned.insert(cookie, pod.kernel);
        }
    }

    fn record_attachment(&mut self, record_id: RecordId, record: Record, status: MeshStatus) {
        let attachment = record.request.attachment.clone();
        let known = AttachmentState {
            record_id,
            record,
            status,
        };
        self.attachments.insert(attachment, known);
    }

    /// Releases the parts that ending the data path needs.
    pub(super) fn into_parts(self) -> (Pins, Store, Vec<(RecordId, Record)>) {
        let Self {
            datapath,
            store,
            attachments,
            ..
        } = self;
        let records = attachments.into_values();
        let records = records
            .map(|known| (known.record_id, known.record))
            .collect();
        (datapath.into_pins(), store, records)
    }

    fn cookie_of(&self, attachment: &Attachment) -> Option<u64> {
        match self.attachments.get(attachment)?.status {
            MeshStatus::Meshed { cookie, .. } => Some(cookie),
            MeshStatus::Bypassed { .. } => None,
        }
    }

    /// The meshed Pod that has an address: the kernel's own map is the index.
    fn pod_at(&self, addr: Addr) -> Result<Option<u64>, Error> {
        let found = self.datapath.address(addr)?;
        Ok(found.map(|pod| pod.cookie))
    }

    fn is_alive(&self, cookie: u64) -> bool {
        match self.pods.get(&cookie) {
            Some(pod) => pod.is_alive(self.addresses_of(cookie)),
            None => self.orphaned.contains_key(&cookie) && self.datapath.has_sk_lookup(cookie),
        }
    }

    fn name_of(&self, cookie: u64) -> String {
        let first = (self.pods.get(&cookie)).and_then(|pod| pod.attachments.first());
        let known = first.and_then(|one| self.attachments.get(one));
        known.map_or_else(
            || format!("in the network namespace with cookie {cookie}"),
            |AttachmentState { record, .. }| {
                let AddRequest {
                    pod, attachment, ..
                } = &record.request;
                format!("{} (container {})", name(pod), attachment.container_id)
            },
        )
    }
}

impl MeshedPod {
    /// Opens the netns, if the path still leads to it.
    fn reopen(&self) -> Option<Netns> {
        let found = Netns::open(&self.path).ok()?;
        (found.id() == self.id).then_some(found)
    }

    /// Whether its netns exists and has one of the Pod's addresses, or a process. A mount can keep
    /// a netns after the Pod has ended.
    fn is_alive(&self, addresses: Vec<IpAddr>) -> bool {
        let Self { id, path, .. } = self;
        let lodging = Lodging {
            id: *id,
            path: path.clone(),
            addresses,
        };
        self.reopen()
            .is_some_and(|netns| lodging.is_inhabited(&netns))
    }
}

impl MeshStatus {
    fn is_meshed(self) -> bool {
        matches!(self, Self::Meshed { .. })
    }

    fn reason(self) -> String {
        match self {
            Self::Meshed { mesh, .. } => format!("sidecar of {mesh} found"),
            Self::Bypassed { reason } => reason.to_owned(),
        }
    }
}

fn name(pod: &PodName) -> String {
    format!("{}/{}", pod.namespace, pod.name)
}

#[cfg(test)]
mod tests;
