//! The manager's answers to requests that change nothing: each reads the registry, the namespaces and
//! the kernel's maps.

mod audit;
mod check;
mod explain;
mod foreign;
mod ipv6_listeners;
mod own_addrs;
mod pods;

use std::net::IpAddr;

pub(super) use foreign::{REMEDY, protocol};
use sluice_abi::Addr;
use sluice_api::AddRequest;
use tracing::error;

use super::{
    name,
    namespaces::Namespaces,
    registry::{AttachmentState, Registry},
};
use crate::{
    bpf::Datapath,
    pods::{
        Error, ListedPod, NodePolicy,
        error::one_line,
        features,
        policy::{self, PodPolicy, Subject, Verdict},
        rule_set,
    },
};

/// Read access to the state of the Pods.
#[derive(Clone, Copy)]
pub(in crate::pods) struct View<'a> {
    pub(super) datapath: &'a Datapath,
    pub(super) node_policy: &'a NodePolicy,
    pub(super) registry: &'a Registry,
    pub(super) namespaces: &'a Namespaces,
}

impl<'a> View<'a> {
    /// The first attachment of a Pod.
    pub(super) fn first_of(&self, cookie: u64) -> Option<&'a AttachmentState> {
        let first = self.namespaces.get(cookie)?.first()?;
        self.registry.get(first)
    }
}

impl View<'_> {
    /// The decision on a Pod of this node.
    pub(super) fn verdict<'a>(&self, pod: impl Into<Subject<'a>>) -> Result<Verdict, Error> {
        let mut verdict = policy::decide(self.node_policy, pod)?;
        if let Verdict::Intercept(policy) = &mut verdict {
            rule_set::check(policy)?;
            let wanted = self.node_policy.acceleration.of_pod(policy.acceleration);
            let limited = wanted.limited(features::allow_all(self.datapath.features()));
            policy.acceleration = Some(limited);
        }
        Ok(verdict)
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

    /// The meshed Pod that has an address: the kernel's own map is the index.
    pub(super) fn pod_at(&self, addr: Addr) -> Result<Option<u64>, Error> {
        let found = self.datapath.address(addr)?;
        Ok(found.map(|pod| pod.cookie))
    }

    pub(super) fn is_alive(&self, cookie: u64) -> bool {
        match self.namespaces.get(cookie) {
            Some(pod) => pod.is_alive(self.addresses_of(cookie)),
            None => self.namespaces.is_orphaned(cookie) && self.datapath.has_sk_lookup(cookie),
        }
    }

    /// The addresses of all attachments of a Pod.
    pub(super) fn addresses_of(&self, cookie: u64) -> Vec<IpAddr> {
        let attachments = self.namespaces.attachments(cookie);
        self.registry.addresses(attachments)
    }

    /// A Pod's name for people.
    pub(super) fn name_of(&self, cookie: u64) -> String {
        self.first_of(cookie).map_or_else(
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
