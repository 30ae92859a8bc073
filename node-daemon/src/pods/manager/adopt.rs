//! Adoption of Pods that ran before the daemon, without a report from a runtime.
//!
//! Adoption requires evidence ([`crate::pods::evidence`]), and the number of adopted Pods is
//! bounded. A Pod that a runtime reports has precedence: it takes its addresses from an adopted
//! one.

use std::{net::IpAddr, path::PathBuf};

use sluice_api::{AddRequest, Attachment, PodName};
use tracing::{debug, error, info, warn};

use super::{
    PodManager,
    discovery::{Doubts, LeftPod, found_id},
    name,
    namespaces::MeshedPod,
    registry::is_reported,
};
use crate::{
    netns::ProxyUser,
    pods::{
        Error, ListedPod, Repair,
        error::one_line,
        evidence::{Doubt, MAX_FOUND},
        policy::{self, PodPolicy, Verdict},
        survey::{Brief, ListedProxy, Sight, Survey},
    },
};

impl PodManager {
    /// Stores a list of this node's Pods, in place of the previous one.
    pub(in crate::pods) fn note_list(&mut self, listed: Vec<ListedPod>) {
        self.discovery.set_listed(listed);
    }

    /// Enrolls the listed Pods, or makes them pending.
    pub(in crate::pods) fn expect(&mut self, survey: Survey) {
        self.apply_listed_annotations(&survey);
        let left = self.adopt(survey);
        let meshed: Vec<_> = (self.discovery.listed().iter())
            .filter(|pod| !pod.addresses.iter().any(|ip| left.contains(ip)))
            .filter_map(|pod| Some((pod.clone(), self.view().policy_of(pod)?)))
            .collect();
        for (pod, policy) in meshed {
            let who = name(&pod.pod);
            if let Err(error) = self.pending.add(&mut self.datapath, pod, policy) {
                error!(
                    pod = who,
                    error = one_line(&error),
                    "pod netns not found; pod is NOT intercepted"
                );
            }
        }
        self.pending.publish(&mut self.datapath);
    }

    /// The input of a survey.
    pub(in crate::pods) fn brief(&self) -> Brief {
        let mesh = self.node_policy.mesh;
        let (registry, namespaces) = (&self.registry, &self.namespaces);
        let reported = registry.iter().filter(|(one, _)| is_reported(one));
        let reported = reported.map(|(_, known)| PathBuf::from(&known.record.request.netns));
        let found = namespaces.iter().filter(|(_, pod)| pod.is_found());
        let listed = |pod: &ListedPod| {
            let addresses = pod.addresses.clone().into_iter();
            let one = self.listed_proxy(pod);
            addresses.map(move |ip| (ip, one.clone()))
        };
        let lodging = |(cookie, pod): (u64, &MeshedPod)| {
            pod.lodging(registry.addresses(namespaces.attachments(cookie)))
        };
        Brief {
            cgroup: self.datapath.cgroup().into(),
            reported: reported.collect(),
            found: found.map(|(_, pod)| pod.id()).collect(),
            meshed: namespaces.iter().map(lodging).collect(),
            listed: self.discovery.listed().iter().flat_map(listed).collect(),
            ports: [mesh.outbound_port, mesh.inbound_port],
            proxy: proxy_user(&PodPolicy::of(mesh)),
        }
    }

    /// A listed Pod with the user and the ports of its proxy, if it is meshed, or else the mesh's.
    fn listed_proxy(&self, pod: &ListedPod) -> ListedProxy {
        let policy = match policy::decide(&self.node_policy, pod) {
            Ok(Verdict::Intercept(policy)) => *policy,
            _ => PodPolicy::of(self.node_policy.mesh),
        };
        ListedProxy {
            name: pod.pod.clone(),
            ports: [policy.ports.outbound, policy.ports.inbound],
            proxy: proxy_user(&policy),
        }
    }

    /// Adopts running Pods with a sidecar, without a restart.
    ///
    /// A Pod that is not listed is recognized by its listening proxy, and gets the mesh's defaults.
    /// A Pod whose own netfilter rules redirect its traffic is not adopted.
    ///
    /// Returns the addresses of the Pods that were found and not adopted.
    pub(in crate::pods) fn adopt(&mut self, survey: Survey) -> Vec<IpAddr> {
        let (mut left, mut addresses) = (Vec::new(), Vec::new());
        let mut doubts = Doubts {
            foreign: survey.foreign,
            ..Doubts::default()
        };
        let kubelet = survey.kubelet;
        for sight in survey.sights {
            let cookie = sight.netns.id().cookie;
            if self.namespaces.is_intercepted(cookie) {
                continue;
            }
            let doubt = sight.evidence.doubt(kubelet);
            if let Some(reason) = self.reason_to_leave(&sight, doubt) {
                left.extend(LeftPod::of(&sight, reason));
                addresses.extend(sight.addresses.into_iter().map(|one| one.ip));
            } else if let Some(doubt) = doubt {
                *doubts.by_reason.entry(doubt).or_insert(0) += 1;
            } else {
                self.adopt_one(sight);
            }
        }
        if self.discovery.set_results(left, doubts) {
            self.log_doubts();
        }
        if let Err(error) = self.pending.drop_for(&mut self.datapath, &addresses) {
            error!(
                error = one_line(&error),
                "failed to remove the entries of Pods that stay as they are"
            );
        }
        addresses
    }

    /// Why a running Pod stays as it is, if so: as a meshed Pod its connections would be refused, or
    /// redirected twice.
    fn reason_to_leave(&self, sight: &Sight, doubt: Option<Doubt>) -> Option<String> {
        let is_the_pod = doubt.is_none() || doubt == Some(Doubt::NoProxy);
        if let Some(name) = sight.listed.as_ref().filter(|_| is_the_pod) {
            let listed = self.discovery.find(name)?;
            match self.view().verdict(listed) {
                Ok(Verdict::Bypass(reason)) => return Some(reason.to_owned()),
                Err(error) => return Some(one_line(&error)),
                Ok(Verdict::Intercept(policy)) if doubt == Some(Doubt::NoProxy) => {
                    return Some(format!(
                        "it ran before Sluice, and user {} does not listen on its proxy's ports {} \
                         and {}",
                        policy.uid, policy.ports.outbound, policy.ports.inbound
                    ));
                }
                Ok(Verdict::Intercept(_)) => {}
            }
        }
        (doubt.is_none() && sight.redirected_by_rules).then(|| {
            "it ran before Sluice, and its own netfilter rules redirect its traffic".to_owned()
        })
    }

    fn adopt_one(&mut self, sight: Sight) {
        let path = sight.netns.path().to_owned();
        let netns = path.display();
        let Some(request) = self.request_for(&sight) else {
            return;
        };
        let found = self.namespaces.iter().filter(|(_, pod)| pod.is_found());
        if found.count() >= MAX_FOUND {
            if let Some(dropped) = self.logs.pass() {
                error!(
                    %netns, dropped, limit = MAX_FOUND,
                    "Pod that no runtime reported is not intercepted: the limit is reached. Restart the Pod"
                );
            }
            return;
        }
        match self.admit_in(request, Some(sight.netns)) {
            Ok(_) => {
                self.repairs.count(Repair::AdoptedRunningPod);
                info!(%netns, "running pod adopted");
            }
            // The Pod may end during the adoption.
            Err(_) if !path.exists() => {}
            Err(error) => {
                if let Some(dropped) = self.logs.pass() {
                    let error = one_line(&error);
                    error!(%netns, error, dropped, "failed to adopt a running pod; it is NOT intercepted");
                }
            }
        }
    }

    /// Logs one line for each reason to reject namespaces.
    fn log_doubts(&mut self) {
        let Doubts { by_reason, foreign } = self.discovery.doubts();
        if *foreign > 0 {
            debug!(
                count = foreign,
                "network namespaces of other users are ignored"
            );
        }
        for (doubt, count) in by_reason {
            if let Some(dropped) = self.logs.pass() {
                warn!(
                    count, dropped, reason = %doubt,
                    "network namespaces that no runtime reported are not intercepted: evidence is \
                     missing that they are Pods. Restart those that are"
                );
            }
        }
    }

    /// The ADD request of the plugin, as far as it can be reconstructed. `None` if the listed Pod
    /// is not meshed.
    fn request_for(&self, sight: &Sight) -> Option<AddRequest> {
        let (pod, annotations, manifest) = match &sight.listed {
            Some(name) => {
                let listed = self.discovery.find(name)?;
                self.view().policy_of(listed)?;
                let ListedPod {
                    annotations,
                    manifest,
                    ..
                } = listed.clone();
                (name.clone(), annotations, manifest)
            }
            None => (
                PodName::default(),
                policy::minimal_annotations(self.node_policy.mesh),
                None,
            ),
        };
        Some(AddRequest {
            attachment: Attachment {
                // No CNI network has this name: GC does not delete the Pod.
                network: String::new(),
                container_id: found_id(sight),
                ifname: "eth0".to_owned(),
            },
            netns: sight.netns.path().display().to_string(),
            addresses: sight.addresses.clone(),
            pod,
            annotations: Some(annotations),
            manifest,
        })
    }

    /// Applies the listed annotations to adopted Pods. Until the list arrives, they have the mesh's
    /// defaults.
    pub(super) fn apply_listed_annotations(&mut self, survey: &Survey) {
        let listed = |sight: &Sight| sight.listed.is_some();
        for sight in survey.sights.iter().filter(|sight| listed(sight)) {
            let cookie = sight.netns.id().cookie;
            let is_found = self.namespaces.get(cookie).is_some_and(MeshedPod::is_found);
            if is_found && sight.evidence.doubt(survey.kubelet).is_none() {
                self.correct_one(cookie, sight);
            }
        }
    }

    fn correct_one(&mut self, cookie: u64, sight: &Sight) {
        let listed = (sight.listed.as_ref()).and_then(|name| self.discovery.find(name));
        let (Some(known), Some(listed)) = (self.view().first_of(cookie), listed) else {
            return;
        };
        let before = &known.record.request;
        let merged = AddRequest {
            pod: listed.pod.clone(),
            annotations: Some(listed.annotations.clone()),
            manifest: listed.manifest.clone(),
            ..before.clone()
        };
        if merged == *before {
            return;
        }
        let pod = name(&merged.pod);
        let done = match self.view().verdict(&merged) {
            Ok(Verdict::Intercept(_)) => self.add(merged).map(drop),
            Ok(Verdict::Bypass(_)) => self.del(&merged.attachment).map(drop),
            Err(error) => Err(error),
        };
        if let Err(error) = done {
            error!(
                pod,
                error = one_line(&error),
                "failed to apply listed annotations; the running pod keeps the mesh defaults"
            );
        }
    }

    /// Checks that an address may be assigned to a Pod. A Pod that is gone loses the address, and
    /// so does an adopted Pod if a runtime reports it for another one.
    pub(super) fn release_address(
        &mut self,
        address: IpAddr,
        holder: u64,
        to_reported: bool,
    ) -> Result<(), Error> {
        let is_found = self.namespaces.get(holder).is_some_and(MeshedPod::is_found);
        let gives_way = is_found && to_reported;
        let is_taken = !gives_way && self.view().is_alive(holder);
        if is_taken || (!to_reported && !is_found) {
            return Err(Error::Taken {
                address,
                other_pod: self.view().name_of(holder),
            });
        }
        if gives_way {
            let pod = self.view().name_of(holder);
            warn!(pod, %address, "address of an adopted Pod moved to a Pod that the runtime reported");
        }
        self.remove_pod(holder)
    }
}

/// The identity of a proxy's sockets.
fn proxy_user(policy: &PodPolicy) -> ProxyUser {
    ProxyUser {
        uid: policy.uid,
        gid: policy.gid,
        mark: policy.mesh.mark,
        mark_mask: policy.mesh.mark_mask,
        validator: (policy.validator_uid != 0).then_some(policy.validator_uid),
    }
}
