//! Addresses and routes inside the Pods: they may change, and settings follow from them.

use std::collections::BTreeMap;

use tracing::{debug, error, info, warn};

use super::{PodManager, namespaces::MeshedPod, netns_facts::routes_of};
use crate::{
    netns::ReservedPorts,
    pods::{
        Error, Repair,
        error::one_line,
        plan::{self, KernelState},
        rule_set,
        store::Changes,
    },
};

impl PodManager {
    /// Updates the settings that depend on addresses and routes: a process in a Pod may add some without
    /// notice.
    pub(super) fn refresh_routes(&mut self) {
        for cookie in self.namespaces.cookies() {
            let done = self.refresh_pod_routes(cookie);
            let pod = || self.view().name_of(cookie);
            match done {
                Ok(Change::Nothing) => {}
                Ok(Change::Addresses) => debug!(pod = pod(), "addresses of the Pod changed"),
                Ok(Change::Routes) => {
                    info!(pod = pod(), "routes changed; bypass rules updated");
                    self.repairs.count(Repair::BypassRoutesUpdated);
                }
                Err(error) => warn!(
                    pod = pod(),
                    error = one_line(&error),
                    "failed to refresh addresses and routes"
                ),
            }
        }
    }

    /// Reinstalls missing routes inside the Pods, and retries refused ones: without alias routes each
    /// connection is bound separately, and without source routing some are refused.
    pub(super) fn repair_alias_routes(&mut self) {
        for cookie in self.namespaces.cookies() {
            match self.reinstall_alias_routes(cookie) {
                Ok(false) => {}
                Ok(true) => {
                    self.repairs.count(Repair::AliasRoutes);
                    let pod = self.view().name_of(cookie);
                    warn!(pod, "routes inside the Pod were missing; reinstalled");
                }
                Err(error) => {
                    let pod = self.view().name_of(cookie);
                    error!(
                        pod,
                        error = one_line(&error),
                        "failed to reinstall routes inside the Pod"
                    );
                }
            }
        }
    }

    /// `true` if a desired route was missing, unless the netns refuses it again.
    fn reinstall_alias_routes(&mut self, cookie: u64) -> Result<bool, Error> {
        let Some(pod) = self.namespaces.get(cookie) else {
            return Ok(false);
        };
        let Some(netns) = pod.reopen() else {
            return Ok(false);
        };
        let before = pod.state().clone();
        let attachments = self.namespaces.attachments(cookie);
        let addresses = self.registry.addresses(attachments);
        let changes = Changes::of(self.registry.records(attachments));
        let desired = plan::desired(cookie, pod.policy(), &addresses, changes);
        let installed = netns.installed(&desired.routes)?;
        let routing = match before.source_routing {
            Some(routing) if netns.has_source_routing(routing)? => Some(routing),
            _ => None,
        };
        let is_complete = installed == desired.routes && routing == desired.source_routing;
        if is_complete && installed == before.routes {
            return Ok(false);
        }
        let has_lost = before.routes.iter().any(|route| !installed.contains(route))
            || routing != before.source_routing;
        let lost = |state| KernelState {
            routes: installed,
            source_routing: routing,
            ..state
        };
        let applied = (self.namespaces).repair(&mut self.datapath, &netns, lost, desired)?;
        applied.log(&self.view().name_of(cookie));
        let now = self.namespaces.get(cookie).map(MeshedPod::state);
        Ok(has_lost || now != Some(&before))
    }

    /// Reserves the proxy's ports again where they are not reserved any more. A runtime writes a Pod's own
    /// `net.ipv4.ip_local_reserved_ports` after ADD.
    pub(super) fn repair_reserved_ports(&mut self) {
        let mut failed = BTreeMap::new();
        for cookie in self.namespaces.cookies() {
            match self.reserve_again(cookie) {
                Ok(false) => {}
                Ok(true) => {
                    self.repairs.count(Repair::ReservedPorts);
                    let pod = self.view().name_of(cookie);
                    warn!(
                        pod,
                        "ports of the proxy were not reserved any more; reserved again"
                    );
                }
                Err(error) => drop(failed.insert(cookie, one_line(&error))),
            }
        }
        for cookie in self.logs.new_unreserved(failed.keys().copied().collect()) {
            let pod = self.view().name_of(cookie);
            warn!(
                pod,
                error = failed.remove(&cookie),
                "failed to reserve ports of the proxy"
            );
        }
    }

    /// `true` if one of the Pod's reserved ports was not reserved.
    fn reserve_again(&self, cookie: u64) -> Result<bool, Error> {
        let Some(pod) = self.namespaces.get(cookie) else {
            return Ok(false);
        };
        let Some(netns) = pod.reopen() else {
            return Ok(false);
        };
        let missing = netns.unreserved(pod.state().reserved)?;
        if missing.is_empty() {
            return Ok(false);
        }
        netns.reserve(ReservedPorts::NONE, missing)?;
        Ok(true)
    }

    /// The settings that changed.
    fn refresh_pod_routes(&mut self, cookie: u64) -> Result<Change, Error> {
        let Some(pod) = self.namespaces.get(cookie) else {
            return Ok(Change::Nothing);
        };
        let Some(netns) = pod.reopen() else {
            return Ok(Change::Nothing);
        };
        let routes = routes_of(pod.policy(), &netns, &netns.interfaces()?)?;
        let policy = pod.policy().with_routes(routes);
        rule_set::check_resolved(&policy)?;
        let before = pod.policy();
        if policy == *before {
            return Ok(Change::Nothing);
        }
        let change = if (policy.bypass(), policy.sources()) == (before.bypass(), before.sources()) {
            Change::Addresses
        } else {
            Change::Routes
        };
        let addresses = self.view().addresses_of(cookie);
        let desired = plan::desired(cookie, &policy, &addresses, pod.state().changes());
        let applied = (self.namespaces).update(&mut self.datapath, &netns, policy, desired)?;
        applied.log(&self.view().name_of(cookie));
        Ok(change)
    }
}

/// The settings that a refresh changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Nothing,
    /// The own addresses.
    Addresses,
    /// The preferred sources, or the traffic of excluded interfaces; perhaps the own addresses, too.
    Routes,
}
