//! Routes inside the Pods: they may change, and settings follow from them.

use tracing::{error, info, warn};

use super::{PodManager, netns_facts::routes_of};
use crate::pods::{
    Error, Repair,
    apply::Target,
    error::one_line,
    plan::{self, KernelState},
    rule_set,
    store::Changes,
};

impl PodManager {
    /// Updates Pods whose settings depend on routes: networks may be added to a Pod without notice.
    pub(super) fn refresh_routes(&mut self) {
        let all: Vec<u64> = (self.pods.iter())
            .filter(|(_, pod)| pod.policy.depends_on_routes())
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
        let routes = routes_of(&pod.policy, &netns, &netns.interfaces()?)?;
        let policy = pod.policy.with_routes(routes);
        rule_set::check_resolved(&policy)?;
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
