//! The list of Pods, with the counters of each.

use std::collections::BTreeSet;

use sluice_abi::{AliasUsage, PodCounter, PodFlags};
use sluice_api::{AddRequest, Attachment, BeforeProxyView, PodCounters, PodName, PodView};

use super::{AttachmentState, View};
use crate::pods::{Error, Workload, Workloads};

impl View<'_> {
    /// The registered attachments.
    pub(in crate::pods::manager) fn attachments(&self) -> Result<Vec<PodView>, Error> {
        let listening = self.datapath.all_listeners()?;
        let foreign = self.foreign_uses()?;
        let view = |(attachment, known): (&Attachment, &AttachmentState)| {
            let cookie = known.status.cookie();
            let listeners = cookie.and_then(|cookie| listening.get(&cookie));
            let AliasUsage { held, fallbacks } = self.alias_usage(cookie)?;
            Ok(PodView {
                attachment: attachment.clone(),
                pod: known.record.request.pod.clone(),
                netns: known.record.request.netns.clone(),
                cookie,
                listeners: listeners.copied().unwrap_or_default(),
                aliases: held,
                alias_fallbacks: fallbacks,
                age_seconds: self.registry.age(known).as_secs(),
                counters: cookie.map_or(Ok(PodCounters::default()), |one| self.counters(one))?,
                addresses: known.record.addresses().collect(),
                meshed: known.status.is_meshed(),
                reason: known.status.reason(),
                families: cookie.map(|cookie| self.families(cookie).to_owned()),
                before_proxy: self.before_proxy(cookie)?,
                foreign_uses: foreign.get(&cookie.unwrap_or(0)).copied().unwrap_or(0),
            })
        };
        self.registry.iter().map(view).collect()
    }

    fn counters(&self, cookie: u64) -> Result<PodCounters, Error> {
        let counts = self.datapath.pod_counters(cookie)?;
        Ok(PodCounters {
            outbound_to_proxy: counts.get(PodCounter::OutboundToProxy),
            outbound_direct: counts.get(PodCounter::OutboundDirect),
            inbound_to_proxy: counts.get(PodCounter::InboundToProxy),
            inbound_direct: counts.get(PodCounter::InboundDirect),
            refused: counts.get(PodCounter::Refused),
        })
    }

    /// The decisions about each intercepted Pod. The attachments of one netns are one Pod.
    pub(in crate::pods::manager) fn counters_by_name(
        &self,
    ) -> Result<Vec<(PodName, PodCounters)>, Error> {
        let named = |cookie| {
            let known = self.first_of(cookie)?;
            let counts = self.counters(cookie);
            Some(counts.map(|counts| (known.record.request.pod.clone(), counts)))
        };
        self.namespaces
            .cookies()
            .into_iter()
            .filter_map(named)
            .collect()
    }

    /// The intercepted Pods with a uid, by which ztunnel knows them.
    pub(in crate::pods) fn workloads(&self) -> Workloads {
        let workload = |known: &AttachmentState| {
            let pod = self.namespaces.get(known.status.cookie()?)?;
            let AddRequest {
                pod:
                    PodName {
                        namespace,
                        name,
                        uid,
                    },
                manifest,
                ..
            } = known.record.request.clone();
            let service_account = manifest.map(|manifest| manifest.service_account);
            let workload = Workload {
                name,
                namespace,
                service_account: service_account.unwrap_or_default(),
                netns: pod.id(),
                path: pod.path().to_owned(),
            };
            (!uid.is_empty()).then_some((uid, workload))
        };
        let all = self.registry.iter().map(|(_, known)| known);
        all.filter_map(workload).collect()
    }

    /// The Pods whose proxy does not listen, by netns cookie.
    pub(in crate::pods) fn without_listener(&self) -> Result<BTreeSet<u64>, Error> {
        let listening = self.datapath.all_listeners()?;
        let all = self.namespaces.cookies().into_iter();
        let silent = all.filter(|cookie| !listening.contains_key(cookie));
        Ok(silent.collect())
    }

    /// The redirected families of a meshed Pod.
    fn families(&self, cookie: u64) -> &'static str {
        let entry = (self.namespaces.get(cookie)).and_then(|pod| pod.state().netns_entry);
        match entry {
            Some(entry) if entry.pod.flags.has(PodFlags::IPV4_ONLY) => "ipv4",
            _ => "both",
        }
    }

    fn before_proxy(&self, cookie: Option<u64>) -> Result<Option<BeforeProxyView>, Error> {
        let state = cookie.map(|cookie| self.datapath.before_proxy(cookie));
        let state = state.transpose()?.flatten();
        Ok(state.map(|state| BeforeProxyView {
            open: state.open != 0,
            connections: state.count,
        }))
    }

    fn alias_usage(&self, cookie: Option<u64>) -> Result<AliasUsage, Error> {
        let usage = cookie.map(|cookie| self.datapath.alias_usage(cookie));
        Ok(usage.transpose()?.unwrap_or_default())
    }

    /// Pods with alias fallbacks. The attachments of one netns are one Pod.
    pub(in crate::pods::manager) fn alias_fallbacks(&self) -> Result<Vec<(PodName, u64)>, Error> {
        let mut found = Vec::new();
        for cookie in self.namespaces.cookies() {
            let count = self.datapath.alias_usage(cookie)?.fallbacks;
            let known = self.first_of(cookie);
            if let Some(known) = known.filter(|_| count > 0) {
                found.push((known.record.request.pod.clone(), count));
            }
        }
        Ok(found)
    }
}
