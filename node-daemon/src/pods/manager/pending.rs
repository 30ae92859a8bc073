//! Pending Pods: listed Pods with known addresses and annotations, but without a known netns. A Pod
//! whose netns is found is enrolled at once. For the others, the kernel programs compare every
//! unknown caller with their addresses, and report the netns of the first connection from one of
//! these.

use std::{collections::BTreeMap, net::IpAddr};

use sluice_abi::NetnsEntry;
use tracing::{error, warn};

use super::name;
use crate::{
    bpf::Datapath,
    pods::{
        Error, ListedPod,
        apply::{AppliedState, Target},
        error::one_line,
        plan::{self, KernelState},
        policy::PodPolicy,
        store::Changes,
    },
};

/// Netns cookies count up from one (`gen_cookie_next`, `linux/cookie.h`): none reaches this value.
const PROVISIONAL: u64 = 1 << 63;

/// The pending Pods, by a provisional cookie.
#[derive(Default)]
pub(super) struct PendingPods(BTreeMap<u64, PendingPod>);

/// A Pod whose netns is not known.
struct PendingPod {
    pod: ListedPod,
    kernel: AppliedState,
}

impl PendingPods {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a cookie stands for an unknown netns.
    pub(super) fn contains(&self, cookie: u64) -> bool {
        self.0.contains_key(&cookie)
    }

    /// Writes all entries that need no netns, under a cookie that no netns has. A Pod whose address
    /// is in use is left out.
    pub(super) fn add(
        &mut self,
        datapath: &mut Datapath,
        pod: ListedPod,
        policy: PodPolicy,
    ) -> Result<(), Error> {
        for address in &pod.addresses {
            if datapath.address((*address).into())?.is_some() {
                return Ok(());
            }
        }
        let cookie = self.0.keys().next_back();
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
            datapath,
            netns: None,
        };
        kernel.apply(&mut target, desired)?.log(&name(&pod.pod));
        warn!(
            pod = name(&pod.pod),
            "pod netns not found; pod is pending until its first connection"
        );
        self.0.insert(cookie, PendingPod { pod, kernel });
        Ok(())
    }

    /// Writes the pending Pods to the kernel.
    pub(super) fn publish(&self, datapath: &mut Datapath) {
        let pending: Vec<_> = self.0.keys().copied().collect();
        if let Err(error) = datapath.set_pending_pods(&pending) {
            error!(
                error = one_line(&error),
                "failed to update the pending_pods map"
            );
        }
    }

    /// Removes the entries of namespaces that have a pending Pod's address and are not that Pod's.
    /// The Pod's own namespace is already adopted by then. Returns their number.
    pub(super) fn remove_claims(&self, datapath: &mut Datapath) -> Result<usize, Error> {
        let is_claim = |(cookie, netns_entry): &(u64, NetnsEntry)| {
            *cookie != netns_entry.pod.cookie && self.contains(netns_entry.pod.cookie)
        };
        let claims = datapath.all_netns_entries()?.into_iter().filter(is_claim);
        let mut removed = 0;
        for (cookie, _) in claims {
            match datapath.remove_netns_entry(cookie) {
                Ok(()) => removed += 1,
                Err(error) => error!(
                    netns_cookie = cookie,
                    error = one_line(&error),
                    "failed to remove the entry of a network namespace that has a pending Pod's address"
                ),
            }
        }
        Ok(removed)
    }

    /// Drops the pending Pods with one of these addresses: a known Pod has them now.
    pub(super) fn drop_for(
        &mut self,
        datapath: &mut Datapath,
        addresses: &[IpAddr],
    ) -> Result<(), Error> {
        let has = |pending: &PendingPod| {
            addresses
                .iter()
                .any(|ip| pending.pod.addresses.contains(ip))
        };
        let found: Vec<_> = (self.0.iter())
            .filter(|(_, pending)| has(pending))
            .map(|(cookie, _)| *cookie)
            .collect();
        found
            .into_iter()
            .try_for_each(|cookie| self.drop_one(datapath, cookie, addresses))
    }

    /// Drops a pending Pod, if there is one. `taken`: its addresses that another Pod already has.
    pub(super) fn drop_one(
        &mut self,
        datapath: &mut Datapath,
        cookie: u64,
        taken: &[IpAddr],
    ) -> Result<(), Error> {
        let Some(pending) = self.0.get_mut(&cookie) else {
            return Ok(());
        };
        pending.kernel.mark_lost(|mut state| {
            (state.addresses).retain(|addr, _| !taken.contains(&IpAddr::from(*addr)));
            state
        });
        pending.kernel.remove(datapath)?;
        for (namespace, netns_entry) in datapath.all_netns_entries()? {
            if netns_entry.pod.cookie == cookie {
                datapath.remove_netns_entry(namespace)?;
            }
        }
        self.0.remove(&cookie);
        self.publish(datapath);
        Ok(())
    }
}
