//! The explain and monitor requests: decisions on connections, and events.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use sluice_abi::decide::Verdict;
use sluice_api::{Attachment, Connection, ExplainRequest, ExplainResponse};

use super::{AttachmentState, MeshStatus, PodManager, name};
use crate::pods::{Error, explain::Subject};

impl PodManager {
    pub(in crate::pods) fn explain(
        &self,
        question: &ExplainRequest,
    ) -> Result<ExplainResponse, Error> {
        let unknown = || Error::NoSuchPod(question.pod.clone());
        let (attachment, known) = self.find_pod(&question.pod).ok_or_else(unknown)?;
        let explained = |outcome: &str| ExplainResponse {
            pod: known.record.request.pod.clone(),
            container_id: attachment.container_id.clone(),
            outcome: outcome.to_owned(),
            rule: String::new(),
            reason: known.status.reason(),
            matched: None,
        };
        let MeshStatus::Meshed { cookie, .. } = known.status else {
            return Ok(explained("not intercepted, like all traffic of this Pod"));
        };
        let pod = self.pods.get(&cookie).ok_or_else(unknown)?;
        let subject = Subject {
            policy: &pod.policy,
            state: pod.kernel.state(),
            captures_dns: self.datapath.captures_dns(cookie)?,
            before_proxy: self.is_before_proxy(cookie)?,
        };
        if subject.passes_as_datagram(&question.connection) {
            return Ok(ExplainResponse {
                reason: "of datagrams only DNS queries are intercepted, while the proxy listens \
                          for them"
                    .to_owned(),
                ..explained("direct, past the proxy")
            });
        }
        let verdict = subject.verdict(&question.connection).ok_or_else(unknown)?;
        let outcome = match (verdict, &question.connection) {
            (Verdict::Direct(_), Connection::Outbound { .. }) => {
                "direct, past the proxy".to_owned()
            }
            (Verdict::Direct(_), Connection::Inbound { .. }) => "to the application".to_owned(),
            (Verdict::ToProxy(port, _), _) => {
                let port = port.get();
                let netns = pod.reopen().ok_or(Error::Gone)?;
                if netns.sockets()?.any_on(port) {
                    format!("to the proxy's port {port}")
                } else {
                    format!("refused: the proxy does not listen on port {port}")
                }
            }
        };
        let reason = verdict.reason();
        Ok(ExplainResponse {
            rule: reason.label().to_owned(),
            reason: reason.words().to_owned(),
            matched: subject.matched(reason, &question.connection),
            ..explained(&outcome)
        })
    }

    /// Whether connections of a Pod bypass the proxy, because it does not listen yet.
    pub(super) fn is_before_proxy(&self, cookie: u64) -> Result<bool, Error> {
        let state = self.datapath.before_proxy(cookie)?;
        Ok(state.is_some_and(|state| state.open != 0))
    }

    /// Enables the events of the programs for a while. Returns the names of the Pods by netns
    /// cookie: of all Pods, or of the requested one.
    pub(in crate::pods) fn enable_events(
        &mut self,
        pod: Option<&str>,
        time: Duration,
    ) -> Result<BTreeMap<u64, String>, Error> {
        self.datapath.enable_events(time)?;
        let named =
            |cookie: u64, known: &AttachmentState| (cookie, name(&known.record.request.pod));
        if let Some(pod) = pod {
            let unknown = || Error::NoSuchPod(pod.to_owned());
            let (attachment, known) = self.find_pod(pod).ok_or_else(unknown)?;
            let cookie = self.cookie_of(attachment);
            return Ok(cookie
                .map(|cookie| named(cookie, known))
                .into_iter()
                .collect());
        }
        let all = self.attachments.iter();
        let meshed = all.filter_map(|(one, known)| Some(named(self.cookie_of(one)?, known)));
        Ok(meshed.collect())
    }

    /// The Pod with this name, address or container.
    pub(super) fn find_pod(&self, what: &str) -> Option<(&Attachment, &AttachmentState)> {
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
}
