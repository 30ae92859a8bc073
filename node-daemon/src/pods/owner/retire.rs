//! Letting go of attachments, and with the last one of their Pod.

use std::collections::BTreeSet;

use daemon_api::{Attachment, Collect, Retired};
use tracing::info;

use super::{Owner, name};
use crate::pods::{
    Error,
    enrol::Site,
    plan::{self, Held},
};

impl Owner {
    /// The record goes last: if the daemon dies on the way, the next one knows what is left.
    pub(in crate::pods) fn retire(&mut self, attachment: &Attachment) -> Result<Retired, Error> {
        let named = self.with_network(attachment);
        let attachment = named.as_ref().unwrap_or(attachment);
        if let Some(cookie) = self.cookie_of(attachment) {
            self.shrink(cookie, attachment)?;
        }
        let Some(known) = self.attachments.get(attachment) else {
            return Ok(Retired::default());
        };
        self.store.remove(known.slot)?;
        let pod = name(&known.record.request.pod);
        info!(container = attachment.container_id, %pod, "retired");
        self.attachments.remove(attachment);
        Ok(Retired {
            attachments: vec![attachment.clone()],
        })
    }

    /// The attachment that a DEL means whose configuration does not name the network: a container
    /// has one interface of a name.
    fn with_network(&self, attachment: &Attachment) -> Option<Attachment> {
        if !attachment.network.is_empty() || self.attachments.contains_key(attachment) {
            return None;
        }
        let is_meant = |one: &&Attachment| {
            one.container_id == attachment.container_id && one.ifname == attachment.ifname
        };
        self.attachments.keys().find(is_meant).cloned()
    }

    /// Takes one attachment out of a Pod. With the last one the Pod goes.
    fn shrink(&mut self, cookie: u64, attachment: &Attachment) -> Result<(), Error> {
        let Some(mut pod) = self.pods.remove(&cookie) else {
            return Ok(());
        };
        let mut rest = pod.attachments.clone();
        rest.retain(|one| one != attachment);
        let addresses: Vec<_> = (rest.iter())
            .filter_map(|one| self.attachments.get(one))
            .flat_map(|known| known.record.addresses())
            .collect();
        let wanted = if rest.is_empty() {
            Held::default()
        } else {
            let passthrough = pod.kernel.held().passthrough;
            plan::wanted(cookie, &pod.settings, &addresses, passthrough)
        };
        let netns = pod.reopen();
        let mut site = Site {
            datapath: &mut self.datapath,
            netns: netns.as_ref(),
        };
        let done = pod.kernel.let_go(&mut site, wanted);
        if done.is_ok() {
            pod.attachments = rest;
        }
        self.put_pod(cookie, pod);
        done
    }

    /// Retires every attachment of a Pod.
    pub(super) fn let_go(&mut self, cookie: u64) -> Result<(), Error> {
        let all = self.pods.get(&cookie).map(|pod| pod.attachments.clone());
        for attachment in all.unwrap_or_default() {
            self.retire(&attachment)?;
        }
        self.part(cookie, &[])?;
        let Some(mut kernel) = self.nameless.remove(&cookie) else {
            return Ok(());
        };
        let mut site = Site {
            datapath: &mut self.datapath,
            netns: None,
        };
        let done = kernel.let_go(&mut site, Held::default());
        if done.is_err() {
            self.nameless.insert(cookie, kernel);
        }
        done
    }

    /// Retires what is left of a network beside the attachments that are valid (CNI's GC).
    pub(in crate::pods) fn collect(&mut self, request: &Collect) -> Result<Retired, Error> {
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
        let mut retired = Retired::default();
        let mut errors = Vec::new();
        for attachment in gone {
            match self.retire(&attachment) {
                Ok(one) => retired.attachments.extend(one.attachments),
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() {
            return Ok(retired);
        }
        Err(Error::LetGo { errors })
    }
}
