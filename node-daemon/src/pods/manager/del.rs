//! DEL and GC: deletes attachments, and unenrolls a Pod with its last attachment.

use std::collections::BTreeSet;

use sluice_api::{Attachment, DelResponse, GcRequest};
use tracing::info;

use super::{PodManager, name};
use crate::pods::{
    Error,
    apply::Target,
    plan::{self, KernelState},
};

impl PodManager {
    /// Removes the record last: if the daemon dies before, its successor completes the DEL.
    pub(in crate::pods) fn del(&mut self, attachment: &Attachment) -> Result<DelResponse, Error> {
        let named = self.with_network(attachment);
        let attachment = named.as_ref().unwrap_or(attachment);
        if let Some(cookie) = self.cookie_of(attachment) {
            self.remove_attachment(cookie, attachment)?;
        }
        let Some(known) = self.attachments.get(attachment) else {
            return Ok(DelResponse::default());
        };
        self.store.remove(known.record_id)?;
        let pod = name(&known.record.request.pod);
        info!(container_id = attachment.container_id, %pod, "attachment deleted");
        self.attachments.remove(attachment);
        Ok(DelResponse {
            attachments: vec![attachment.clone()],
        })
    }

    /// The attachment of a DEL whose configuration does not name the network: interface names are
    /// unique within a container.
    fn with_network(&self, attachment: &Attachment) -> Option<Attachment> {
        if !attachment.network.is_empty() || self.attachments.contains_key(attachment) {
            return None;
        }
        let is_meant = |one: &&Attachment| {
            one.container_id == attachment.container_id && one.ifname == attachment.ifname
        };
        self.attachments.keys().find(is_meant).cloned()
    }

    /// Removes one attachment from a Pod. The last one unenrolls the Pod.
    fn remove_attachment(&mut self, cookie: u64, attachment: &Attachment) -> Result<(), Error> {
        let Some(mut pod) = self.pods.remove(&cookie) else {
            return Ok(());
        };
        let mut rest = pod.attachments.clone();
        rest.retain(|one| one != attachment);
        let addresses: Vec<_> = (rest.iter())
            .filter_map(|one| self.attachments.get(one))
            .flat_map(|known| known.record.addresses())
            .collect();
        let desired = if rest.is_empty() {
            KernelState::default()
        } else {
            let changes = pod.kernel.state().changes();
            plan::desired(cookie, &pod.policy, &addresses, changes)
        };
        let netns = pod.reopen();
        let mut target = Target {
            datapath: &mut self.datapath,
            netns: netns.as_ref(),
        };
        let done = pod.kernel.teardown(&mut target, desired);
        if done.is_ok() {
            pod.attachments = rest;
        }
        self.put_pod(cookie, pod);
        done.map(|applied| applied.log(&self.name_of(cookie)))
    }

    /// Deletes every attachment of a Pod.
    pub(super) fn remove_pod(&mut self, cookie: u64) -> Result<(), Error> {
        let all = self.pods.get(&cookie).map(|pod| pod.attachments.clone());
        for attachment in all.unwrap_or_default() {
            self.del(&attachment)?;
        }
        self.drop_pending(cookie, &[])?;
        let Some(mut kernel) = self.orphaned.remove(&cookie) else {
            return Ok(());
        };
        let done = kernel.remove(&mut self.datapath);
        if done.is_err() {
            self.orphaned.insert(cookie, kernel);
        }
        done
    }

    /// GC: deletes the attachments of a network that are not in the list of valid ones.
    pub(in crate::pods) fn gc(&mut self, request: &GcRequest) -> Result<DelResponse, Error> {
        let valid: BTreeSet<_> = request
            .valid
            .iter()
            .map(|one| (&one.container_id, &one.ifname))
            .collect();
        let gone: Vec<_> = self
            .attachments
            .keys()
            .filter(|one| one.network == request.network)
            .filter(|one| !valid.contains(&(&one.container_id, &one.ifname)))
            .cloned()
            .collect();
        let mut retired = DelResponse::default();
        let mut errors = Vec::new();
        for attachment in gone {
            match self.del(&attachment) {
                Ok(one) => retired.attachments.extend(one.attachments),
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() {
            return Ok(retired);
        }
        Err(Error::Teardown { errors })
    }
}
