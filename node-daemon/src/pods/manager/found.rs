//! Adoption of Pods that ran before the daemon, without a report from a runtime.
//!
//! Adoption requires evidence ([`crate::pods::evidence`]), and the number of adopted Pods is
//! bounded. A Pod that a runtime reports has precedence: it takes its addresses from an adopted
//! one.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use sluice_api::{AddRequest, Attachment, PodCounters, PodName, PodView};
use tracing::{debug, error, info, warn};

use super::{MeshedPod, PodManager, name};
use crate::{
    netns::ProxyUser,
    pods::{
        Error, ListedPod, Repair,
        error::one_line,
        evidence::{Doubt, MAX_FOUND},
        policy::{self, PodPolicy, Verdict},
        survey::{Brief, ListedProxy, Lodging, Sight, Survey},
    },
};

impl PodManager {
    /// The input of a survey.
    pub(in crate::pods) fn brief(&self) -> Brief {
        let mesh = self.node_policy.mesh;
        let reported = self.attachments.values().map(|known| &known.record.request);
        let reported = reported.filter(|request| is_reported(&request.attachment));
        let found = self.pods.values().filter(|pod| pod.is_found());
        let listed = |pod: &ListedPod| {
            let addresses = pod.addresses.clone().into_iter();
            let one = self.listed_proxy(pod);
            addresses.map(move |ip| (ip, one.clone()))
        };
        let lodging = |(cookie, pod): (&u64, &MeshedPod)| Lodging {
            id: pod.id,
            path: pod.path.clone(),
            addresses: self.addresses_of(*cookie),
        };
        Brief {
            cgroup: self.datapath.cgroup().into(),
            reported: reported.map(|one| PathBuf::from(&one.netns)).collect(),
            found: found.map(|pod| pod.id).collect(),
            meshed: self.pods.iter().map(lodging).collect(),
            listed: self.listed.iter().flat_map(listed).collect(),
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
        let (mut left, mut doubts) = (Vec::new(), BTreeMap::new());
        self.left.clear();
        let kubelet = survey.kubelet;
        for sight in survey.sights {
            let cookie = sight.netns.id().cookie;
            if self.pods.contains_key(&cookie) || self.orphaned.contains_key(&cookie) {
                continue;
            }
            let doubt = sight.evidence.doubt(kubelet);
            if let Some(reason) = self.reason_to_leave(&sight, doubt) {
                self.left.extend(LeftPod::of(&sight, reason));
                left.extend(sight.addresses.into_iter().map(|one| one.ip));
            } else if let Some(doubt) = doubt {
                *doubts.entry(doubt).or_insert(0) += 1;
            } else {
                self.adopt_one(sight);
            }
        }
        self.note_doubts(&doubts, survey.strangers);
        if let Err(error) = self.drop_pending_for(&left) {
            error!(
                error = one_line(&error),
                "failed to remove the entries of Pods that stay as they are"
            );
        }
        left
    }

    /// Why a running Pod stays as it is, if so: as a meshed Pod its connections would be refused, or
    /// redirected twice.
    fn reason_to_leave(&self, sight: &Sight, doubt: Option<Doubt>) -> Option<String> {
        let is_the_pod = doubt.is_none() || doubt == Some(Doubt::NoProxy);
        if let Some(name) = sight.listed.as_ref().filter(|_| is_the_pod) {
            let listed = self.listed.iter().find(|one| one.pod == *name)?;
            match self.verdict(listed) {
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
        (doubt.is_none() && sight.diverted).then(|| {
            "it ran before Sluice, and its own netfilter rules redirect its traffic".to_owned()
        })
    }

    fn adopt_one(&mut self, sight: Sight) {
        let path = sight.netns.path().to_owned();
        let netns = path.display();
        let Some(request) = self.request_for(&sight) else {
            return;
        };
        if self.pods.values().filter(|pod| pod.is_found()).count() >= MAX_FOUND {
            if let Some(dropped) = self.stranger_log.pass() {
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
                if let Some(dropped) = self.stranger_log.pass() {
                    let error = one_line(&error);
                    error!(%netns, error, dropped, "failed to adopt a running pod; it is NOT intercepted");
                }
            }
        }
    }

    /// Logs one line for all rejected namespaces when their numbers change.
    fn note_doubts(&mut self, doubts: &BTreeMap<Doubt, usize>, strangers: usize) {
        let now = (doubts.clone(), strangers);
        if std::mem::replace(&mut self.doubts, now) == self.doubts {
            return;
        }
        if strangers > 0 {
            debug!(strangers, "network namespaces of other users are ignored");
        }
        for (doubt, count) in doubts {
            if let Some(dropped) = self.stranger_log.pass() {
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
                let listed = self.listed.iter().find(|one| one.pod == *name)?;
                self.policy_of(listed)?;
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
            let is_found = self.pods.get(&cookie).is_some_and(MeshedPod::is_found);
            if is_found && sight.evidence.doubt(survey.kubelet).is_none() {
                self.correct_one(cookie, sight);
            }
        }
    }

    fn correct_one(&mut self, cookie: u64, sight: &Sight) {
        let attachment = self
            .pods
            .get(&cookie)
            .and_then(|pod| pod.attachments.first());
        let known = attachment.and_then(|one| self.attachments.get(one));
        let listed = (sight.listed.as_ref())
            .and_then(|name| self.listed.iter().find(|one| one.pod == *name));
        let (Some(known), Some(listed)) = (known, listed) else {
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
        let done = match self.verdict(&merged) {
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
        let is_found = self.pods.get(&holder).is_some_and(MeshedPod::is_found);
        let gives_way = is_found && to_reported;
        let is_taken = !gives_way && self.is_alive(holder);
        if is_taken || (!to_reported && !is_found) {
            return Err(Error::Taken {
                address,
                other_pod: self.name_of(holder),
            });
        }
        if gives_way {
            let pod = self.name_of(holder);
            warn!(pod, %address, "address of an adopted Pod moved to a Pod that the runtime reported");
        }
        self.remove_pod(holder)
    }
}

/// A running Pod that no runtime reported and that was not adopted.
pub(super) struct LeftPod {
    pod: PodName,
    netns: PathBuf,
    container_id: String,
    addresses: Vec<IpAddr>,
    reason: String,
}

impl LeftPod {
    /// A Pod that the API server lists. Others have no name.
    fn of(sight: &Sight, reason: String) -> Option<Self> {
        Some(Self {
            pod: sight.listed.clone()?,
            netns: sight.netns.path().to_owned(),
            container_id: found_id(sight),
            addresses: sight.addresses.iter().map(|one| one.ip).collect(),
            reason,
        })
    }

    /// For the list of Pods.
    pub(super) fn view(&self) -> PodView {
        PodView {
            attachment: Attachment {
                network: String::new(),
                container_id: self.container_id.clone(),
                ifname: "eth0".to_owned(),
            },
            pod: self.pod.clone(),
            netns: self.netns.display().to_string(),
            addresses: self.addresses.clone(),
            cookie: None,
            listeners: 0,
            aliases: 0,
            alias_fallbacks: 0,
            age_seconds: 0,
            counters: PodCounters::default(),
            meshed: false,
            reason: self.reason.clone(),
            families: None,
            before_proxy: None,
            foreign_uses: 0,
        }
    }
}

fn found_id(sight: &Sight) -> String {
    format!("netns-{}", sight.netns.id().cookie)
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

impl MeshedPod {
    /// Whether the Pod was adopted, without a report from a runtime.
    pub(super) fn is_found(&self) -> bool {
        !self.attachments.iter().any(is_reported)
    }
}

/// Whether a runtime reported an attachment.
pub(super) fn is_reported(attachment: &Attachment) -> bool {
    !attachment.network.is_empty()
}
