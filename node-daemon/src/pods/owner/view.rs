//! What the owner tells those who ask.

use daemon_api::{Attachment, Feature, PodView, Status};
use nix::sys::utsname::uname;
use sluice_abi::{ABI_VERSION, Reason};

use super::{Known, Owner};
use crate::{
    bpf::Features,
    pods::{Acceleration, Error, Repairs, error::one_line},
};

/// What is measured.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    /// How often each reason decided.
    pub(crate) decisions: Vec<(Reason, u64)>,
    /// Attachments whose traffic is intercepted.
    pub(crate) meshed: usize,
    /// Attachments that were left alone.
    pub(crate) left_alone: usize,
    /// Meshed Pods of which only the addresses are known.
    pub(crate) awaited: usize,
    /// What was put right unasked.
    pub(crate) repairs: Repairs,
}

impl Owner {
    pub(in crate::pods) fn status(&self) -> Result<Status, Error> {
        let (meshed_pods, unmeshed_pods) = self.count();
        let problems = self.problems();
        let kernel = uname().map(|kernel| kernel.release().to_string_lossy().into_owned());
        let kernel = kernel.unwrap_or_default();
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            abi: ABI_VERSION,
            ready: problems.is_empty(),
            problems,
            mesh: self.rules.mesh.name.clone(),
            acceleration: self.rules.acceleration.name().to_owned(),
            features: features(&kernel, self.datapath.features()),
            kernel,
            programs: self.datapath.programs()?,
            meshed_pods,
            unmeshed_pods,
            awaited_pods: self.awaited.len(),
            nameless_pods: self.nameless.len(),
        })
    }

    /// Why an admit would fail.
    fn problems(&self) -> Vec<String> {
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

    pub(in crate::pods) fn list(&self) -> Result<Vec<PodView>, Error> {
        let view = |(attachment, known): (&Attachment, &Known)| {
            let cookie = self.cookie_of(attachment);
            let listeners = cookie.map_or(Ok(0), |cookie| self.datapath.listeners(cookie))?;
            Ok(PodView {
                attachment: attachment.clone(),
                pod: known.record.request.pod.clone(),
                netns: known.record.request.netns.clone(),
                cookie,
                listeners,
                addresses: known.record.addresses().collect(),
                meshed: known.standing.is_meshed(),
                because: known.standing.because(),
            })
        };
        self.attachments.iter().map(view).collect()
    }

    pub(in crate::pods) fn read(&self) -> Result<Reading, Error> {
        let (meshed, left_alone) = self.count();
        Ok(Reading {
            decisions: self.datapath.counters()?,
            meshed,
            left_alone,
            awaited: self.awaited.len(),
            repairs: self.repairs,
        })
    }

    /// Attachments that are meshed, and those that are not.
    fn count(&self) -> (usize, usize) {
        let meshed = |known: &&Known| known.standing.is_meshed();
        let meshed = self.attachments.values().filter(meshed).count();
        (meshed, self.attachments.len() - meshed)
    }
}

/// What a kernel lacks of what would be used, in a few words.
fn features(release: &str, found: Features) -> Vec<Feature> {
    let acceleration = Acceleration::layout(release);
    let feature = |name: &str, found, without: String| Feature {
        name: name.to_owned(),
        found,
        without,
    };
    let without =
        "getpeername of an MPTCP socket names a sidecar that is met at one address".to_owned();
    let ingress = "a Pod with excludeInterfaces is refused".to_owned();
    let splices = "with acceleration 'all', applications must not splice".to_owned();
    let mut all = vec![
        feature(
            "acceleration",
            acceleration.is_ok(),
            acceleration.err().unwrap_or_default(),
        ),
        feature("mptcp", found.mptcp, without),
        feature("excluded interfaces", found.ingress, ingress),
    ];
    let told = (found.splices).map(|told| feature("splicing applications", told, splices));
    all.extend(told);
    all
}
