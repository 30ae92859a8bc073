//! Virtual interfaces that appear after the ADD, and repairs of those that a Pod has.
//!
//! The daemon looks for them: a socket that reports them would keep the Pod's netns alive. Until the
//! programs are attached, a routing rule refuses the connections of the interface.

use tracing::{error, info};

use super::PodManager;
use crate::pods::{
    Error, Repair,
    error::one_line,
    plan::{self, KernelState},
    rerouting,
};

impl PodManager {
    /// Attaches programs to new virtual interfaces; with `verify`, reinstalls missing parts as well. `true`
    /// if a Pod may have virtual interfaces.
    pub(in crate::pods) fn follow_virtual_interfaces(&mut self, verify: bool) -> bool {
        let all: Vec<u64> = (self.namespaces.iter())
            .filter(|(_, pod)| !pod.policy().virtual_interfaces.is_empty())
            .map(|(cookie, _)| cookie)
            .collect();
        for cookie in &all {
            let done = self.follow_in_pod(*cookie, verify);
            let pod = || self.view().name_of(*cookie);
            match done {
                Ok(false) => {}
                Ok(true) => info!(pod = pod(), "programs of virtual interfaces updated"),
                Err(error) => error!(
                    pod = pod(),
                    error = one_line(&error),
                    "programs of virtual interfaces are not attached; their connections are refused, \
                     retrying"
                ),
            }
        }
        !all.is_empty()
    }

    /// `true` if something changed.
    fn follow_in_pod(&mut self, cookie: u64, verify: bool) -> Result<bool, Error> {
        let Some(pod) = self.namespaces.get(cookie) else {
            return Ok(false);
        };
        let Some(netns) = pod.reopen() else {
            return Ok(false);
        };
        let links = rerouting::links(pod.policy(), &netns, self.datapath.features())?;
        let policy = pod.policy().with_links(links);
        let state = pod.state();
        let addresses = self.view().addresses_of(cookie);
        let desired = plan::desired(cookie, &policy, &addresses, state.changes());
        // Refused routes stay refused until the next resync.
        let desired = KernelState {
            rule_set: desired.rule_set,
            rerouting: desired.rerouting,
            ..state.clone()
        };
        let is_missing = match &state.rerouting {
            Some(installed) if verify => !netns.has_rerouting(installed)?,
            _ => false,
        };
        if desired == *state && !is_missing {
            return Ok(false);
        }
        if is_missing {
            self.namespaces.mark_lost(cookie, |state| KernelState {
                rerouting: None,
                ..state
            });
            self.repairs.count(Repair::AliasRoutes);
        }
        let applied = (self.namespaces).update(&mut self.datapath, &netns, policy, desired)?;
        applied.log(&self.view().name_of(cookie));
        Ok(true)
    }
}
