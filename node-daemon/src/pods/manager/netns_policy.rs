//! The settings that depend on a Pod's netns: users, addresses and routes. They may change.

use std::net::IpAddr;

use tracing::{error, info, warn};

use super::PodManager;
use crate::{
    bpf::Features,
    netns::{Interface, Netns},
    pods::{
        Error, Repair,
        apply::Target,
        bypass::{self, Bypass},
        error::one_line,
        plan::{self, KernelState},
        policy::PodPolicy,
        rule_set, source_addr,
        store::Changes,
    },
};

/// The settings with host uids, with the addresses that routes prefer, and with the networks behind
/// excluded interfaces.
pub(super) fn resolve_in_netns(
    policy: PodPolicy,
    netns: &Netns,
    interfaces: &[Interface],
    features: Features,
) -> Result<PodPolicy, Error> {
    let policy = policy.map_to_host_ids(&netns.users()?)?;
    // Without the interface, the inbound hook cannot detect the Pod's own connections.
    let source_mark = if features.ingress {
        policy.mesh_source_mark()
    } else {
        0
    };
    let policy = PodPolicy {
        source_mark,
        ..policy
    };
    if !policy.excluded_interfaces.is_empty() && !features.ingress {
        return Err(bypass::Error::Kernel.into());
    }
    routed(policy, netns, interfaces)
}

/// The settings with the data of routes. Pods with one address and no excluded interfaces, nearly
/// all, need none.
fn routed(policy: PodPolicy, netns: &Netns, interfaces: &[Interface]) -> Result<PodPolicy, Error> {
    let sources = if source_addr::is_ambiguous(interfaces) {
        netns.sources()?
    } else {
        Vec::new()
    };
    rule_set::check_routes(sources.len())?;
    let bypass = if policy.excluded_interfaces.is_empty() {
        policy.bypass
    } else {
        let routes = netns.routes()?;
        rule_set::check_routes(routes.main.len())?;
        Bypass::from_interfaces(&policy.excluded_interfaces, interfaces, &routes)?
    };
    let policy = PodPolicy {
        bypass,
        sources,
        ..policy
    };
    rule_set::check(&policy)?;
    Ok(policy)
}

impl PodManager {
    /// Updates Pods whose settings depend on routes: networks may be added to a Pod without notice.
    pub(super) fn refresh_routes(&mut self) {
        let by_routes = |policy: &PodPolicy| {
            !policy.excluded_interfaces.is_empty() || !policy.sources.is_empty()
        };
        let all: Vec<u64> = (self.pods.iter())
            .filter(|(_, pod)| by_routes(&pod.policy))
            .map(|(cookie, _)| *cookie)
            .collect();
        for cookie in all {
            match self.refresh_pod_routes(cookie) {
                Ok(false) => {}
                Ok(true) => info!(
                    pod = self.name_of(cookie),
                    "routes changed; bypass rules updated"
                ),
                Err(error) => {
                    let pod = self.name_of(cookie);
                    warn!(pod, error = one_line(&error), "failed to refresh routes");
                }
            }
        }
    }

    /// Reinstalls missing routes inside the Pods, and retries refused ones: without alias routes each
    /// connection is bound separately, and without source routing some are refused.
    pub(super) fn repair_alias_routes(&mut self) {
        let all: Vec<u64> = self.pods.keys().copied().collect();
        for cookie in all {
            match self.reinstall_alias_routes(cookie) {
                Ok(false) => {}
                Ok(true) => {
                    self.repairs.count(Repair::AliasRoutes);
                    let pod = self.name_of(cookie);
                    warn!(pod, "routes inside the Pod were missing; reinstalled");
                }
                Err(error) => {
                    let pod = self.name_of(cookie);
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
        let addresses = self.addresses_of(cookie);
        let Some(pod) = self.pods.get_mut(&cookie) else {
            return Ok(false);
        };
        let Some(netns) = pod.reopen() else {
            return Ok(false);
        };
        let before = pod.kernel.state().clone();
        let known = pod
            .attachments
            .iter()
            .filter_map(|one| self.attachments.get(one));
        let changes = Changes::of(known.map(|known| &known.record));
        let desired = plan::desired(cookie, &pod.policy, &addresses, changes);
        let installed = netns.installed(desired.routes.clone())?;
        let routing = match before.source_routing {
            Some(routing) if netns.has_source_routing(routing)? => Some(routing),
            _ => None,
        };
        let is_complete = installed == desired.routes && routing == desired.source_routing;
        if is_complete && installed == before.routes {
            return Ok(false);
        }
        let lost = before.routes.iter().any(|route| !installed.contains(route))
            || routing != before.source_routing;
        pod.kernel.mark_lost(|state| KernelState {
            routes: installed,
            source_routing: routing,
            ..state
        });
        let mut target = Target {
            datapath: &mut self.datapath,
            netns: Some(&netns),
        };
        let applied = pod.kernel.apply(&mut target, desired)?;
        let is_changed = *pod.kernel.state() != before;
        applied.log(&self.name_of(cookie));
        Ok(lost || is_changed)
    }

    /// The addresses of all attachments of a Pod.
    pub(super) fn addresses_of(&self, cookie: u64) -> Vec<IpAddr> {
        let pods = self.pods.get(&cookie).into_iter();
        pods.flat_map(|pod| &pod.attachments)
            .filter_map(|one| self.attachments.get(one))
            .flat_map(|known| known.record.addresses())
            .collect()
    }

    /// `true` if the settings changed.
    fn refresh_pod_routes(&mut self, cookie: u64) -> Result<bool, Error> {
        let addresses = self.addresses_of(cookie);
        let Some(pod) = self.pods.get_mut(&cookie) else {
            return Ok(false);
        };
        let Some(netns) = pod.reopen() else {
            return Ok(false);
        };
        let policy = routed(pod.policy.clone(), &netns, &netns.interfaces()?)?;
        if policy == pod.policy {
            return Ok(false);
        }
        let state = pod.kernel.state();
        let desired = plan::desired(cookie, &policy, &addresses, state.changes());
        let mut target = Target {
            datapath: &mut self.datapath,
            netns: Some(&netns),
        };
        let applied = pod.kernel.apply(&mut target, desired)?;
        pod.policy = policy;
        applied.log(&self.name_of(cookie));
        self.repairs.count(Repair::BypassRoutesUpdated);
        Ok(true)
    }
}
