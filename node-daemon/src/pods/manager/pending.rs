//! Pending Pods: listed Pods with known addresses and annotations, but without a known netns. A Pod
//! whose netns is found is enrolled at once. For the others, the kernel programs compare every
//! unknown caller with their addresses, and report the netns of the first connection from one of
//! these.

use std::net::IpAddr;

use sluice_abi::NetnsEntry;
use tracing::{error, warn};

use super::{PodManager, name};
use crate::pods::{
    Error, ListedPod,
    apply::{AppliedState, Target},
    error::one_line,
    plan::{self, KernelState},
    policy::{PodPolicy, Verdict},
    store::Changes,
    survey::Survey,
};

/// Netns cookies count up from one (`gen_cookie_next`, `linux/cookie.h`): none reaches this value.
const PROVISIONAL: u64 = 1 << 63;

/// A Pod whose netns is not known.
pub(super) struct PendingPod {
    pod: ListedPod,
    kernel: AppliedState,
}

impl PodManager {
    /// Stores a list of this node's Pods, in place of the previous one.
    pub(in crate::pods) fn note_list(&mut self, listed: Vec<ListedPod>) {
        self.listed = listed;
    }

    /// Enrolls the listed Pods, or makes them pending.
    pub(in crate::pods) fn expect(&mut self, survey: Survey) {
        self.apply_listed_annotations(&survey);
        let left = self.adopt(survey);
        let meshed: Vec<_> = (self.listed.iter())
            .filter(|pod| !pod.addresses.iter().any(|ip| left.contains(ip)))
            .filter_map(|pod| Some((pod.clone(), self.policy_of(pod)?)))
            .collect();
        for (pod, policy) in meshed {
            let who = name(&pod.pod);
            if let Err(error) = self.add_pending(pod, policy) {
                error!(
                    pod = who,
                    error = one_line(&error),
                    "pod netns not found; pod is NOT intercepted"
                );
            }
        }
        self.publish_pending();
    }

    /// The settings of a listed Pod, if it is meshed.
    pub(super) fn policy_of(&self, pod: &ListedPod) -> Option<PodPolicy> {
        match self.verdict(pod) {
            Ok(Verdict::Intercept(policy)) => Some(*policy),
            Ok(Verdict::Bypass(_)) => None,
            Err(error) => {
                error!(
                    pod = name(&pod.pod),
                    error = one_line(&error),
                    "annotations of a running pod are not supported; the pod is not changed"
                );
                None
            }
        }
    }

    /// Writes all entries that need no netns, under a cookie that no netns has.
    fn add_pending(&mut self, pod: ListedPod, policy: PodPolicy) -> Result<(), Error> {
        for address in &pod.addresses {
            if self.pod_at((*address).into())?.is_some() {
                return Ok(());
            }
        }
        let cookie = self.pending.keys().next_back();
        let cookie = cookie.map_or(PROVISIONAL, |last| last + 1);
        let policy = policy.provisional();
        let desired = plan::desired(cookie, &policy, &pod.addresses, Changes::default());
        let routes = desired.routes.clone();
        let desired = KernelState {
            sk_lookup: false,
            ..desired.without(&routes)
        };
        let mut kernel = AppliedState::of(cookie, KernelState::default());
        let mut target = Target {
            datapath: &mut self.datapath,
            netns: None,
        };
        kernel.apply(&mut target, desired)?.log(&name(&pod.pod));
        warn!(
            pod = name(&pod.pod),
            "pod netns not found; pod is pending until its first connection"
        );
        self.pending.insert(cookie, PendingPod { pod, kernel });
        Ok(())
    }

    /// Writes the pending Pods to the kernel.
    fn publish_pending(&mut self) {
        let pending: Vec<_> = self.pending.keys().copied().collect();
        if let Err(error) = self.datapath.set_pending_pods(&pending) {
            error!(
                error = one_line(&error),
                "failed to update the pending_pods map"
            );
        }
    }

    /// Removes the entries of namespaces that have a pending Pod's address and are not that Pod's.
    /// The Pod's own namespace is already adopted by then.
    pub(in crate::pods) fn resolve_pending(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let named = match self.datapath.all_netns_entries() {
            Ok(all) => all,
            Err(error) => {
                return error!(
                    error = one_line(&error),
                    "failed to read the process_ip map"
                );
            }
        };
        let is_named = |(cookie, netns_entry): &(u64, NetnsEntry)| {
            *cookie != netns_entry.pod.cookie && self.pending.contains_key(&netns_entry.pod.cookie)
        };
        let named: Vec<u64> = (named.iter().filter(|one| is_named(one)))
            .map(|(cookie, _)| *cookie)
            .collect();
        let mut removed = 0;
        for cookie in named {
            match self.datapath.remove_netns_entry(cookie) {
                Ok(()) => removed += 1,
                Err(error) => error!(
                    netns_cookie = cookie,
                    error = one_line(&error),
                    "failed to remove the entry of a network namespace that has a pending Pod's address"
                ),
            }
        }
        if removed > 0
            && let Some(dropped) = self.stranger_log.pass()
        {
            warn!(
                removed,
                dropped,
                "removed entries of network namespaces that have the address of a pending Pod and none of \
                 its processes"
            );
        }
    }

    /// Whether a cookie stands for an unknown netns.
    pub(super) fn is_pending(&self, cookie: u64) -> bool {
        self.pending.contains_key(&cookie)
    }

    /// Drops the pending Pods with one of these addresses: a known Pod has them now.
    pub(super) fn drop_pending_for(&mut self, addresses: &[IpAddr]) -> Result<(), Error> {
        let has = |pending: &PendingPod| {
            addresses
                .iter()
                .any(|ip| pending.pod.addresses.contains(ip))
        };
        let found: Vec<_> = (self.pending.iter())
            .filter(|(_, pending)| has(pending))
            .map(|(cookie, _)| *cookie)
            .collect();
        found
            .into_iter()
            .try_for_each(|cookie| self.drop_pending(cookie, addresses))
    }

    /// Drops a pending Pod, if there is one. `taken`: its addresses that another Pod already has.
    pub(super) fn drop_pending(&mut self, cookie: u64, taken: &[IpAddr]) -> Result<(), Error> {
        let Some(pending) = self.pending.get_mut(&cookie) else {
            return Ok(());
        };
        pending.kernel.mark_lost(|mut state| {
            (state.addresses).retain(|addr, _| !taken.contains(&IpAddr::from(*addr)));
            state
        });
        pending.kernel.remove(&mut self.datapath)?;
        for (namespace, netns_entry) in self.datapath.all_netns_entries()? {
            if netns_entry.pod.cookie == cookie {
                self.datapath.remove_netns_entry(namespace)?;
            }
        }
        self.pending.remove(&cookie);
        self.publish_pending();
        Ok(())
    }
}
