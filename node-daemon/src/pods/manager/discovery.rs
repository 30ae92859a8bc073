//! The knowledge of Pods that no runtime reported: the API server's list, and the results of the
//! latest survey.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use sluice_api::{Attachment, PodCounters, PodName, PodView};

use crate::pods::{ListedPod, evidence::Doubt, survey::Sight};

/// The Pods and namespaces that were found without a report.
#[derive(Default)]
pub(super) struct Discovery {
    /// The Pods of this node in the latest list of the API server.
    listed: Vec<ListedPod>,
    /// Running Pods that were not adopted.
    left: Vec<LeftPod>,
    /// The namespaces that were rejected.
    doubts: Doubts,
}

/// The numbers of namespaces that a survey rejected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Doubts {
    /// By reason.
    pub(super) by_reason: BTreeMap<Doubt, usize>,
    /// Those of unprivileged users.
    pub(super) foreign: usize,
}

/// A running Pod that no runtime reported and that was not adopted.
pub(super) struct LeftPod {
    pod: PodName,
    netns: PathBuf,
    container_id: String,
    addresses: Vec<IpAddr>,
    reason: String,
}

impl Discovery {
    /// Stores a list of this node's Pods, in place of the previous one.
    pub(super) fn set_listed(&mut self, listed: Vec<ListedPod>) {
        self.listed = listed;
    }

    pub(super) fn listed(&self) -> &[ListedPod] {
        &self.listed
    }

    /// The listed Pod of this name.
    pub(super) fn find(&self, name: &PodName) -> Option<&ListedPod> {
        self.listed.iter().find(|one| one.pod == *name)
    }

    /// The Pods that were not adopted, for the list of Pods.
    pub(super) fn left(&self) -> impl Iterator<Item = PodView> {
        self.left.iter().map(LeftPod::view)
    }

    /// Stores the results of a survey. `true` if other namespaces were rejected than before.
    pub(super) fn set_results(&mut self, left: Vec<LeftPod>, doubts: Doubts) -> bool {
        self.left = left;
        let before = std::mem::replace(&mut self.doubts, doubts);
        before != self.doubts
    }

    pub(super) fn doubts(&self) -> &Doubts {
        &self.doubts
    }
}

impl LeftPod {
    /// A Pod that the API server lists. Others have no name.
    pub(super) fn of(sight: &Sight, reason: String) -> Option<Self> {
        Some(Self {
            pod: sight.listed.clone()?,
            netns: sight.netns.path().to_owned(),
            container_id: found_id(sight),
            addresses: sight.addresses.iter().map(|one| one.ip).collect(),
            reason,
        })
    }

    fn view(&self) -> PodView {
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

/// The container ID of a Pod that no runtime reported.
pub(super) fn found_id(sight: &Sight) -> String {
    format!("netns-{}", sight.netns.id().cookie)
}
