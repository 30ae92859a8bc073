//! The manager's answers to status, list and metrics requests.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use nix::sys::utsname::uname;
use sluice_abi::{ABI_VERSION, AliasUsage, PodCounter, PodFlags, Reason};
use sluice_api::{
    AddRequest, Attachment, BeforeProxyView, Feature, ForeignProgramView, PodCounters, PodName,
    PodView, Status,
};

use super::{AttachmentState, PodManager};
use crate::{
    bpf::{Features, ForeignProgram, RunTime},
    pods::{Acceleration, Error, Repairs, Workload, Workloads, error::one_line, silent},
};

/// The values of the metrics.
#[derive(Clone, Debug)]
pub(crate) struct MetricsSnapshot {
    /// The number of decisions and events by reason.
    pub(crate) reasons: Vec<(Reason, u64)>,
    /// The number of intercepted attachments.
    pub(crate) meshed: usize,
    /// The number of attachments that are not intercepted.
    pub(crate) bypassed: usize,
    /// The number of pending Pods.
    pub(crate) pending: usize,
    /// The number of meshed Pods whose proxy does not listen.
    pub(crate) without_listener: usize,
    /// Connections without an alias address, because the Pod's share of alias addresses is used up.
    /// Only Pods with such connections.
    pub(crate) alias_fallbacks: Vec<(PodName, u64)>,
    /// Denials of a proxy's port to other users. Only Pods with denials.
    pub(crate) foreign_uses: Vec<(PodName, u64)>,
    /// The repairs.
    pub(crate) repairs: Repairs,
    /// Programs of other owners at Sluice's hooks.
    pub(crate) foreign_programs: Vec<ForeignProgram>,
}

impl PodManager {
    pub(in crate::pods) fn status(&mut self) -> Result<Status, Error> {
        let (meshed_pods, unmeshed_pods) = self.count();
        let silent = self.without_listener()?;
        let pods_without_listener = silent.len();
        let silent = self.silent_proxies.update(silent, Instant::now());
        let faults = self.faults();
        let foreign = self.foreign_binds()?;
        let programs = self.datapath.foreign_programs()?;
        let kernel = uname().map(|kernel| kernel.release().to_string_lossy().into_owned());
        let kernel = kernel.unwrap_or_default();
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            abi: ABI_VERSION,
            ready: faults.is_empty(),
            // The actions of a Pod's processes never make the node unready.
            problems: (faults.into_iter())
                .chain(foreign)
                .chain(self.foreign_listeners())
                .chain(self.silent(&silent))
                .chain(programs.iter().filter_map(runs_first))
                .collect(),
            mesh: self.node_policy.mesh.name.clone(),
            acceleration: self.node_policy.acceleration.name().to_owned(),
            families: self.node_policy.mesh.node.families.name().to_owned(),
            features: features(&kernel, self.datapath.features()),
            kernel,
            ztunnel: None,
            programs: self.datapath.programs()?,
            foreign_programs: programs.into_iter().map(foreign_program).collect(),
            adds_with_annotations: 0,
            adds_without_annotations: 0,
            meshed_pods,
            unmeshed_pods,
            pending_pods: self.pending.len(),
            pods_without_listener,
            orphaned_netns: self.orphaned.len(),
        })
    }

    /// The intercepted Pods with a uid, by which ztunnel knows them.
    pub(in crate::pods) fn workloads(&self) -> Workloads {
        let workload = |known: &AttachmentState| {
            let pod = self
                .pods
                .get(&self.cookie_of(&known.record.request.attachment)?)?;
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
                netns: pod.id,
                path: pod.path.clone(),
            };
            (!uid.is_empty()).then_some((uid, workload))
        };
        self.attachments.values().filter_map(workload).collect()
    }

    /// The reasons why an ADD would fail.
    fn faults(&self) -> Vec<String> {
        let hooks = match self.datapath.missing() {
            Ok(none) if none.is_empty() => None,
            Ok(names) => Some(format!(
                "hooks of the cgroup are missing: {}",
                names.join(", ")
            )),
            Err(error) => Some(error.to_string()),
        };
        let records = self.store.try_writing().err();
        let records = records.map(|error| one_line(&error));
        hooks.into_iter().chain(records).collect()
    }

    /// The Pods whose proxy does not listen, by netns cookie.
    pub(in crate::pods) fn without_listener(&self) -> Result<BTreeSet<u64>, Error> {
        let listening = self.datapath.all_listeners()?;
        let silent = self
            .pods
            .keys()
            .filter(|cookie| !listening.contains_key(cookie));
        Ok(silent.copied().collect())
    }

    /// The Pods without a listener for longer than the grace time, in one sentence.
    fn silent(&self, silent: &[(u64, Duration)]) -> Option<String> {
        let (first, age) = silent.first()?;
        Some(silent::problem(
            &self.name_of(*first),
            *age,
            silent.len() - 1,
        ))
    }

    pub(in crate::pods) fn list(&self) -> Result<Vec<PodView>, Error> {
        let listening = self.datapath.all_listeners()?;
        let foreign = self.foreign_uses()?;
        let view = |(attachment, known): (&Attachment, &AttachmentState)| {
            let cookie = self.cookie_of(attachment);
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
                age_seconds: self.store.age(known.record_id).as_secs(),
                counters: cookie.map_or(Ok(PodCounters::default()), |one| self.counters(one))?,
                addresses: known.record.addresses().collect(),
                meshed: known.status.is_meshed(),
                reason: known.status.reason(),
                families: cookie.map(|cookie| self.families(cookie).to_owned()),
                before_proxy: self.before_proxy(cookie)?,
                foreign_uses: foreign.get(&cookie.unwrap_or(0)).copied().unwrap_or(0),
            })
        };
        let known = self.attachments.iter().map(view);
        known
            .chain(self.left.iter().map(|left| Ok(left.view())))
            .collect()
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

    /// The runs of the programs.
    pub(in crate::pods) fn run_times(&self) -> Result<Vec<RunTime>, Error> {
        Ok(self.datapath.run_times()?)
    }

    pub(in crate::pods) fn read(&self) -> Result<MetricsSnapshot, Error> {
        let (meshed, bypassed) = self.count();
        Ok(MetricsSnapshot {
            reasons: self.datapath.counters()?,
            meshed,
            bypassed,
            pending: self.pending.len(),
            without_listener: self.without_listener()?.len(),
            alias_fallbacks: self.alias_fallbacks()?,
            foreign_uses: self.foreign_uses_by_name()?,
            repairs: self.repairs,
            foreign_programs: self.datapath.foreign_programs()?,
        })
    }

    /// The redirected families of a meshed Pod.
    fn families(&self, cookie: u64) -> &'static str {
        let entry = (self.pods.get(&cookie)).and_then(|pod| pod.kernel.state().netns_entry);
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
    fn alias_fallbacks(&self) -> Result<Vec<(PodName, u64)>, Error> {
        let mut found = Vec::new();
        for (cookie, pod) in &self.pods {
            let count = self.datapath.alias_usage(*cookie)?.fallbacks;
            let first = pod.attachments.first();
            let known = first.and_then(|one| self.attachments.get(one));
            if let Some(known) = known.filter(|_| count > 0) {
                found.push((known.record.request.pod.clone(), count));
            }
        }
        Ok(found)
    }

    /// The number of intercepted attachments, and of others.
    fn count(&self) -> (usize, usize) {
        let meshed = |known: &&AttachmentState| known.status.is_meshed();
        let meshed = self.attachments.values().filter(meshed).count();
        (meshed, self.attachments.len() - meshed)
    }
}

/// A foreign program that runs before Sluice's.
fn runs_first(program: &ForeignProgram) -> Option<String> {
    let ForeignProgram {
        hook,
        id,
        name,
        cgroup,
        ..
    } = program;
    program.runs_first.then(|| {
        format!(
            "program '{name}' (id {id}) runs before '{hook}' in {}: the proxy may receive addresses that it wrote",
            cgroup.display()
        )
    })
}

fn foreign_program(program: ForeignProgram) -> ForeignProgramView {
    ForeignProgramView {
        hook: program.hook.to_owned(),
        id: program.id,
        name: program.name,
        uid: program.uid,
        cgroup: program.cgroup.display().to_string(),
        runs_first: program.runs_first,
    }
}

/// The kernel's missing features, in a few words.
fn features(release: &str, found: Features) -> Vec<Feature> {
    let acceleration = Acceleration::kernel_offsets(release);
    let feature = |name: &str, found, impact_if_missing: String| Feature {
        name: name.to_owned(),
        found,
        impact_if_missing,
    };
    let impact_if_missing =
        "getpeername of an MPTCP socket returns the proxy address when no alias is used".to_owned();
    let ingress = "a Pod with excludeInterfaces is refused".to_owned();
    let splice = "with acceleration 'all', applications must not splice".to_owned();
    let mut all = vec![
        feature(
            "acceleration",
            acceleration.is_ok(),
            acceleration.err().unwrap_or_default(),
        ),
        feature("mptcp", found.mptcp, impact_if_missing),
        feature("excluded interfaces", found.ingress, ingress),
    ];
    let found = (found.splice).map(|found| feature("splice detection", found, splice));
    all.extend(found);
    all
}
