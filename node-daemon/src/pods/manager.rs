//! The Pod manager: carries requests out on the registry of attachments, the intercepted namespaces and
//! the kernel side. Each part keeps its own invariants; the manager orders the changes of several.

mod adopt;
mod del;
mod departed;
mod discovery;
mod foreign;
#[cfg(fuzzing)]
pub(crate) mod fuzz;
mod ipv6_listeners;
mod logs;
mod namespaces;
mod netns_facts;
mod own_addrs;
mod pending;
mod pod_routes;
mod registry;
mod report;
mod restore;
mod resync;
mod view;
mod virtual_interfaces;

use std::{collections::BTreeMap, net::IpAddr, path::Path, time::Duration};

use sluice_api::{AddRequest, AddResponse, Attachment, PodName};
use tracing::{debug, info, warn};

pub(crate) use report::MetricsSnapshot;

use super::{
    Error, NodePolicy, PendingDels, Repairs, addresses, one_line, plan,
    policy::{MissingAnnotations, PodPolicy, ResolvedPolicy, UnknownKey, Verdict, unknown},
    rule_set,
    source_addr::PASSTHROUGH,
    store::{Changes, Record, RecordId, Store},
};
use crate::{
    bpf::{Datapath, Pins},
    netns::{Families, Interface, Netns, ReservedPorts, Switches},
};
use departed::Departed;
use discovery::Discovery;
use logs::Logs;
use namespaces::{Enrollment, Namespaces};
use netns_facts::resolve_in_netns;
use pending::PendingPods;
use registry::{MeshStatus, Registry, is_reported};
use view::View;

/// Owns the kernel side and everything that is known of this node's Pods.
pub(crate) struct PodManager {
    datapath: Datapath,
    node_policy: NodePolicy,
    pending_dels: PendingDels,
    repairs: Repairs,
    registry: Registry,
    namespaces: Namespaces,
    pending: PendingPods,
    discovery: Discovery,
    logs: Logs,
    departed: Departed,
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
            pending_dels,
            repairs: Repairs::default(),
            registry: Registry::new(store),
            namespaces: Namespaces::default(),
            pending: PendingPods::default(),
            discovery: Discovery::default(),
            logs: Logs::default(),
            departed: Departed::default(),
        }
    }

    /// The answers to requests that change nothing.
    pub(super) fn view(&self) -> View<'_> {
        View {
            datapath: &self.datapath,
            node_policy: &self.node_policy,
            registry: &self.registry,
            namespaces: &self.namespaces,
        }
    }

    /// Changes the policy for later ADDs without annotations.
    pub(super) fn set_missing_annotations(&mut self, policy: MissingAnnotations) {
        self.node_policy.missing_annotations = policy;
    }

    pub(super) fn add(&mut self, request: AddRequest) -> Result<AddResponse, Error> {
        self.admit_in(request, None)
    }

    /// Loads in advance what the next Pod needs. Called while no request waits.
    pub(super) fn prepare_next(&mut self) {
        if let Err(error) = self.datapath.prepare_sk_lookup() {
            // The next ADD loads the program, and reports the error.
            debug!(
                error = one_line(&error),
                "failed to prepare the hook of the next pod"
            );
        }
    }

    /// Enrolls in a netns that is already open, if it is: its path may lead to another one by now.
    fn admit_in(
        &mut self,
        request: AddRequest,
        netns: Option<Netns>,
    ) -> Result<AddResponse, Error> {
        let container = request.attachment.container_id.clone();
        let pod = name(&request.pod);
        let status = match self.view().verdict(&request)? {
            Verdict::Intercept(policy) => {
                let visit = || Netns::open(Path::new(&request.netns));
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

    /// The addresses are not checked, because they are not used. They only end a stale Pod that had
    /// them before, so that its state does not apply to this Pod.
    fn record_bypass(
        &mut self,
        request: AddRequest,
        reason: &'static str,
    ) -> Result<MeshStatus, Error> {
        if let Some(UnknownKey { key, nearest }) = request.annotations.as_ref().and_then(unknown) {
            warn!(
                pod = %name(&request.pod),
                key,
                nearest,
                reason,
                "annotation of a Pod that is not intercepted is unknown and has no effect. Correct it to \
                 the nearest known one, or remove it"
            );
        }
        self.del(&request.attachment)?;
        for address in &request.addresses {
            if let Some(cookie) = self.view().pod_at(address.ip.to_canonical().into())?
                && !self.view().is_alive(cookie)
            {
                self.remove_pod(cookie)?;
            }
        }
        let record = self.registry.record(request, None, Changes::default());
        let status = MeshStatus::Bypassed { reason };
        self.registry.register(record, status, || Ok(()))?;
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
        if addresses.is_empty() && self.namespaces.get(id.cookie).is_none() {
            let interface = ifname.clone();
            return Err(addresses::Error::Nowhere { interface }.into());
        }
        self.check_netns_unclaimed(netns, &request.attachment)?;
        self.claim_addresses(&addresses, id.cookie, is_reported(&request.attachment))?;
        let old = self.registry.cookie_of(&request.attachment);
        if old.is_some_and(|old| old != id.cookie) {
            self.del(&request.attachment)?;
        }
        let changes = self.own_changes(netns, &policy, &interfaces, &addresses);
        let status = MeshStatus::Meshed {
            cookie: id.cookie,
            mesh: &policy.mesh.name,
        };
        let record = self.registry.record(request, Some(id), changes);
        self.enroll_attachment(netns, policy, record, status)?;
        self.pending.drop_for(&mut self.datapath, &addresses)?;
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
        let earlier = self.namespaces.get(netns.id().cookie);
        let earlier = earlier.map_or_else(Changes::default, |pod| pod.state().changes());
        let there = has_passthrough(interfaces);
        let off = if policy.source_mark() == 0 {
            Switches::default()
        } else {
            // If they cannot be read, they cannot be switched on, and the routing is refused.
            netns
                .switches_off(Families::of(addresses))
                .unwrap_or_default()
        };
        let ports = &policy.ports;
        let ports = ReservedPorts::of([ports.outbound, ports.inbound, ports.dns]);
        // Likewise: what cannot be read is refused.
        let unreserved = netns.unreserved(ports).unwrap_or(ports);
        Changes {
            reserved: earlier.reserved.or(unreserved),
            passthrough: !there || earlier.passthrough,
            switches: earlier.switches.or(off),
        }
    }

    /// Checks that a netns does not belong to another Pod. All attachments of a Pod have the
    /// container id of its sandbox; an adopted Pod has none yet.
    fn check_netns_unclaimed(&self, netns: &Netns, attachment: &Attachment) -> Result<(), Error> {
        let cookie = netns.id().cookie;
        let foreign = |one: &Attachment| {
            one.container_id != attachment.container_id && !one.network.is_empty()
        };
        if self.namespaces.attachments(cookie).iter().any(foreign) {
            return Err(Error::Occupied {
                netns: netns.path().into(),
                other_pod: self.view().name_of(cookie),
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
            let other = self.view().pod_at((*address).into())?;
            let another = |one: &u64| *one != cookie && !self.pending.contains(*one);
            if let Some(other) = other.filter(another) {
                self.release_address(*address, other, reported)?;
            }
        }
        Ok(())
    }

    /// The record is written first: if the daemon dies before the end, its successor completes the
    /// enrollment.
    fn enroll_attachment(
        &mut self,
        netns: &Netns,
        policy: ResolvedPolicy,
        record: Record,
        status: MeshStatus,
    ) -> Result<(), Error> {
        let cookie = netns.id().cookie;
        let attachment = &record.request.attachment;
        let mut attachments = self.namespaces.attachments(cookie).to_vec();
        if !attachments.contains(attachment) {
            attachments.push(attachment.clone());
        }
        let addresses = |one: &Attachment| {
            if one == attachment {
                record.addresses().collect::<Vec<_>>()
            } else {
                self.registry.addresses(std::slice::from_ref(one))
            }
        };
        let addresses: Vec<IpAddr> = attachments.iter().flat_map(addresses).collect();
        rule_set::check_addresses(addresses.len())?;
        let desired = plan::desired(cookie, &policy, &addresses, record.changes());
        let pod = name(&record.request.pod);
        let enrollment = Enrollment {
            policy,
            attachments,
            desired,
        };
        let (namespaces, datapath) = (&mut self.namespaces, &mut self.datapath);
        let enroll = || namespaces.enroll(datapath, netns, enrollment);
        self.registry.register(record, status, enroll)?.log(&pod);
        Ok(())
    }

    /// Enables the events of the programs for a while. Returns the names of the Pods by netns
    /// cookie: of all Pods, or of the requested one.
    pub(super) fn enable_events(
        &mut self,
        pod: Option<&str>,
        time: Duration,
    ) -> Result<BTreeMap<u64, String>, Error> {
        self.datapath.enable_events(time)?;
        self.view().names(pod)
    }

    /// Releases the parts that ending the data path needs.
    pub(super) fn into_parts(self) -> (Pins, Store, Vec<(RecordId, Record)>, PendingDels) {
        let (store, records) = self.registry.into_parts();
        (self.datapath.into_pins(), store, records, self.pending_dels)
    }
}

/// Whether a netns has the address `::6`.
fn has_passthrough(interfaces: &[Interface]) -> bool {
    (interfaces.iter()).any(|one| one.addresses.contains(&PASSTHROUGH))
}

fn name(pod: &PodName) -> String {
    format!("{}/{}", pod.namespace, pod.name)
}

#[cfg(test)]
mod tests;
