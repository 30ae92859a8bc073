//! Virtual interfaces that appear after the ADD, and repairs of those that a Pod has.
//!
//! The daemon looks for them: a socket that reports them would keep the Pod's netns alive. Until the
//! programs are attached, a routing rule refuses the connections of the interface.

use tracing::{error, info};

use super::PodManager;
use crate::pods::{
    Error, Repair,
    apply::Target,
    error::one_line,
    plan::{self, KernelState},
    policy::PodPolicy,
    rerouting,
};

impl PodManager {
    /// Attaches programs to new virtual interfaces; with `verify`, reinstalls missing parts as well. `true`
    /// if a Pod may have virtual interfaces.
    pub(in crate::pods) fn follow_virtual_interfaces(&mut self, verify: bool) -> bool {
        let names = |policy: &PodPolicy| !policy.virtual_interfaces.is_empty();
        let all: Vec<u64> = (self.pods.iter())
            .filter(|(_, pod)| names(&pod.policy))
            .map(|(cookie, _)| *cookie)
            .collect();
        for cookie in &all {
            let done = self.follow_in_pod(*cookie, verify);
            let pod = || self.name_of(*cookie);
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
        let addresses = self.addresses_of(cookie);
        let features = self.datapath.features();
        let Some(pod) = self.pods.get_mut(&cookie) else {
            return Ok(false);
        };
        let Some(netns) = pod.reopen() else {
            return Ok(false);
        };
        let policy = PodPolicy {
            virtual_links: rerouting::links(&pod.policy, &netns, features)?,
            ..pod.policy.clone()
        };
        let changes = pod.kernel.state().changes();
        let desired = plan::desired(cookie, &policy, &addresses, changes);
        // Refused routes stay refused until the next resync.
        let desired = KernelState {
            rule_set: desired.rule_set,
            rerouting: desired.rerouting,
            ..pod.kernel.state().clone()
        };
        let is_missing = match &pod.kernel.state().rerouting {
            Some(installed) if verify => !netns.has_rerouting(installed.clone())?,
            _ => false,
        };
        if desired == *pod.kernel.state() && !is_missing {
            return Ok(false);
        }
        if is_missing {
            pod.kernel.mark_lost(|state| KernelState {
                rerouting: None,
                ..state
            });
            self.repairs.count(Repair::AliasRoutes);
        }
        let mut target = Target {
            datapath: &mut self.datapath,
            netns: Some(&netns),
        };
        pod.kernel.apply(&mut target, desired)?;
        pod.policy = policy;
        Ok(true)
    }
}
