//! What the owner tells those who ask.

use daemon_api::{Attachment, PodView, Status};
use sluice_abi::{ABI_VERSION, Reason};

use super::{Known, Owner};
use crate::pods::Error;

/// What is measured.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    /// How often each reason decided.
    pub(crate) decisions: Vec<(Reason, u64)>,
    /// Attachments whose traffic is intercepted.
    pub(crate) meshed: usize,
    /// Attachments that were left alone.
    pub(crate) left_alone: usize,
}

impl Owner {
    pub(in crate::pods) fn status(&self) -> Status {
        let (meshed_pods, unmeshed_pods) = self.count();
        let problems = self.problems();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            abi: ABI_VERSION,
            ready: problems.is_empty(),
            problems,
            programs: self.datapath.programs(),
            meshed_pods,
            unmeshed_pods,
        }
    }

    /// Why an admit would fail.
    fn problems(&self) -> Vec<String> {
        let hooks = match self.datapath.is_attached() {
            Ok(true) => None,
            Ok(false) => Some("hooks of the cgroup are missing".to_owned()),
            Err(error) => Some(error.to_string()),
        };
        let records = self.store.try_writing().err();
        let records = records.map(|error| Error::from(error).in_one_line());
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
        })
    }

    /// Attachments that are meshed, and those that are not.
    fn count(&self) -> (usize, usize) {
        let meshed = |known: &&Known| known.standing.is_meshed();
        let meshed = self.attachments.values().filter(meshed).count();
        (meshed, self.attachments.len() - meshed)
    }
}
