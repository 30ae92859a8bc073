//! The registered attachments. Each has a record on disk, which is written before the kernel state of
//! its Pod and removed after it: if the daemon dies between the two, its successor completes the
//! request.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use sluice_api::{AddRequest, Attachment, GcRequest};
use tracing::warn;

use super::name;
use crate::{
    netns,
    pods::{
        Error,
        error::one_line,
        store::{self, Changes, Record, RecordId, Store},
    },
};

/// The attachments of this node and their records.
pub(super) struct Registry {
    store: Store,
    attachments: BTreeMap<Attachment, AttachmentState>,
}

/// The state of a registered attachment.
pub(super) struct AttachmentState {
    record_id: RecordId,
    pub(super) record: Record,
    pub(super) status: MeshStatus,
}

/// Whether an attachment's traffic is intercepted.
#[derive(Clone, Copy)]
pub(super) enum MeshStatus {
    Meshed { cookie: u64, mesh: &'static str },
    Bypassed { reason: &'static str },
}

impl Registry {
    /// An empty registry.
    pub(super) fn new(store: Store) -> Self {
        Self {
            store,
            attachments: BTreeMap::new(),
        }
    }

    pub(super) fn get(&self, attachment: &Attachment) -> Option<&AttachmentState> {
        self.attachments.get(attachment)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Attachment, &AttachmentState)> {
        self.attachments.iter()
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.attachments.is_empty()
    }

    /// The numbers of intercepted attachments, and of others.
    pub(super) fn count(&self) -> (usize, usize) {
        let meshed = |known: &&AttachmentState| known.status.is_meshed();
        let meshed = self.attachments.values().filter(meshed).count();
        (meshed, self.attachments.len() - meshed)
    }

    /// The netns cookie of an intercepted attachment.
    pub(super) fn cookie_of(&self, attachment: &Attachment) -> Option<u64> {
        self.get(attachment)?.status.cookie()
    }

    /// The records of some attachments.
    pub(super) fn records<'a>(
        &'a self,
        attachments: &'a [Attachment],
    ) -> impl Iterator<Item = &'a Record> {
        let known = attachments.iter().filter_map(|one| self.get(one));
        known.map(|known| &known.record)
    }

    /// The addresses of some attachments.
    pub(super) fn addresses(&self, attachments: &[Attachment]) -> Vec<IpAddr> {
        let records = self.records(attachments);
        records.flat_map(Record::addresses).collect()
    }

    /// The attachment with this Pod name, address or container.
    pub(super) fn find(&self, what: &str) -> Option<(&Attachment, &AttachmentState)> {
        let address: Option<IpAddr> = what.parse().ok();
        let has =
            |known: &AttachmentState| known.record.addresses().any(|one| Some(one) == address);
        let is_it = |(attachment, known): &(&Attachment, &AttachmentState)| {
            name(&known.record.request.pod) == what
                || has(known)
                || (!what.is_empty() && attachment.container_id.starts_with(what))
        };
        self.attachments.iter().find(is_it)
    }

    /// The attachment of a DEL whose configuration does not name the network: interface names are
    /// unique within a container.
    pub(super) fn with_network(&self, attachment: &Attachment) -> Option<&Attachment> {
        if !attachment.network.is_empty() || self.attachments.contains_key(attachment) {
            return None;
        }
        let is_meant = |one: &&Attachment| {
            one.container_id == attachment.container_id && one.ifname == attachment.ifname
        };
        self.attachments.keys().find(is_meant)
    }

    /// The attachments of a network that a GC request does not list.
    pub(super) fn invalid(&self, request: &GcRequest) -> Vec<Attachment> {
        let valid: BTreeSet<_> = (request.valid.iter())
            .map(|one| (&one.container_id, &one.ifname))
            .collect();
        let of_network = |one: &&Attachment| one.network == request.network;
        let is_invalid = |one: &&Attachment| !valid.contains(&(&one.container_id, &one.ifname));
        let all = self.attachments.keys().filter(of_network);
        all.filter(is_invalid).cloned().collect()
    }

    /// The time since an attachment was registered for the first time.
    pub(super) fn age(&self, known: &AttachmentState) -> Duration {
        self.store.age(known.record_id)
    }

    /// The record of a request.
    pub(super) fn record(
        &self,
        request: AddRequest,
        netns: Option<netns::Id>,
        changes: Changes,
    ) -> Record {
        self.store.record(request, netns, changes)
    }

    /// Writes the record of an attachment, and registers it if `enroll` succeeds. Otherwise the
    /// record from before is restored.
    pub(super) fn register<T>(
        &mut self,
        record: Record,
        status: MeshStatus,
        enroll: impl FnOnce() -> Result<T, Error>,
    ) -> Result<T, Error> {
        let before = self.get(&record.request.attachment);
        let before = before.map(|known| (known.record_id, known.record.clone()));
        let record_id = match before {
            Some((record_id, _)) => record_id,
            None => self.store.new_record_id(),
        };
        let written = self.store.put(record_id, &record).map_err(Error::from);
        let done = written.and_then(|()| enroll());
        if done.is_ok() {
            self.insert(record_id, record, status);
        } else {
            self.roll_back(record_id, before.map(|(_, record)| record));
        }
        done
    }

    fn roll_back(&self, record_id: RecordId, before: Option<Record>) {
        let done = match before {
            Some(record) => self.store.put(record_id, &record),
            None => self.store.remove(record_id),
        };
        if let Err(error) = done {
            warn!(error = one_line(&error), "failed to roll back a record");
        }
    }

    /// Registers an attachment whose record exists.
    pub(super) fn insert(&mut self, record_id: RecordId, record: Record, status: MeshStatus) {
        let attachment = record.request.attachment.clone();
        let known = AttachmentState {
            record_id,
            record,
            status,
        };
        self.attachments.insert(attachment, known);
    }

    /// Removes an attachment after its kernel state.
    pub(super) fn remove(
        &mut self,
        attachment: &Attachment,
    ) -> Result<Option<AttachmentState>, Error> {
        if let Some(known) = self.attachments.get(attachment) {
            self.store.remove(known.record_id)?;
        }
        Ok(self.attachments.remove(attachment))
    }

    /// Removes a record without an attachment.
    pub(super) fn discard(&self, record_id: RecordId) -> Result<(), store::Error> {
        self.store.remove(record_id)
    }

    /// The number of records that could not be read.
    pub(super) fn damaged(&self) -> usize {
        self.store.damaged()
    }

    /// Checks that records can be written.
    pub(super) fn try_writing(&self) -> Result<(), store::Error> {
        self.store.try_writing()
    }

    /// The store and its records, to end the data path.
    pub(super) fn into_parts(self) -> (Store, Vec<(RecordId, Record)>) {
        let records = self.attachments.into_values();
        let records = records.map(|known| (known.record_id, known.record));
        (self.store, records.collect())
    }
}

impl MeshStatus {
    pub(super) fn is_meshed(self) -> bool {
        self.cookie().is_some()
    }

    pub(super) fn cookie(self) -> Option<u64> {
        match self {
            Self::Meshed { cookie, .. } => Some(cookie),
            Self::Bypassed { .. } => None,
        }
    }

    pub(super) fn reason(self) -> String {
        match self {
            Self::Meshed { mesh, .. } => format!("sidecar of {mesh} found"),
            Self::Bypassed { reason } => reason.to_owned(),
        }
    }
}

/// Whether a runtime reported an attachment.
pub(super) fn is_reported(attachment: &Attachment) -> bool {
    !attachment.network.is_empty()
}
