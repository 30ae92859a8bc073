//! DEL and GC: deletes attachments, and unenrolls a Pod with its last attachment.

use sluice_api::{Attachment, DelResponse, GcRequest};
use tracing::info;

use super::{PodManager, departed::DepartedPod, name};
use crate::pods::Error;

impl PodManager {
    /// Removes the record last: if the daemon dies before, its successor completes the DEL.
    pub(in crate::pods) fn del(&mut self, attachment: &Attachment) -> Result<DelResponse, Error> {
        let named = self.registry.with_network(attachment).cloned();
        let attachment = named.as_ref().unwrap_or(attachment);
        if let Some(cookie) = self.registry.cookie_of(attachment) {
            self.remove_attachment(cookie, attachment)?;
        }
        let Some(known) = self.registry.remove(attachment)? else {
            return Ok(DelResponse::default());
        };
        let pod = name(&known.record.request.pod);
        info!(container_id = attachment.container_id, %pod, "attachment deleted");
        Ok(DelResponse {
            attachments: vec![attachment.clone()],
        })
    }

    /// Removes one attachment from a Pod. The last one unenrolls the Pod.
    fn remove_attachment(&mut self, cookie: u64, attachment: &Attachment) -> Result<(), Error> {
        let mut rest = self.namespaces.attachments(cookie).to_vec();
        rest.retain(|one| one != attachment);
        let addresses = self.registry.addresses(&rest);
        if rest.is_empty()
            && let Some(pod) = self.namespaces.get(cookie)
        {
            self.departed.push(DepartedPod {
                pod: self.view().name_of(cookie),
                id: pod.id(),
                path: pod.path().into(),
            });
        }
        let done = (self.namespaces).shrink(&mut self.datapath, cookie, rest, &addresses);
        done.map(|applied| applied.log(&self.view().name_of(cookie)))
    }

    /// Deletes every attachment of a Pod.
    pub(super) fn remove_pod(&mut self, cookie: u64) -> Result<(), Error> {
        for attachment in self.namespaces.attachments(cookie).to_vec() {
            self.del(&attachment)?;
        }
        self.pending.drop_one(&mut self.datapath, cookie, &[])?;
        (self.namespaces).release_orphan(&mut self.datapath, cookie)
    }

    /// GC: deletes the attachments of a network that are not in the list of valid ones.
    pub(in crate::pods) fn gc(&mut self, request: &GcRequest) -> Result<DelResponse, Error> {
        let mut retired = DelResponse::default();
        let mut errors = Vec::new();
        for attachment in self.registry.invalid(request) {
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
