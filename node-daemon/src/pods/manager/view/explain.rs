//! The explain request, and the names of the Pods for monitors.

use std::collections::BTreeMap;

use sluice_abi::decide::Verdict;
use sluice_api::{Connection, ExplainRequest, ExplainResponse};

use super::{View, name};
use crate::pods::{Error, explain::Subject};

impl View<'_> {
    pub(in crate::pods) fn explain(
        &self,
        question: &ExplainRequest,
    ) -> Result<ExplainResponse, Error> {
        let unknown = || Error::NoSuchPod(question.pod.clone());
        let (attachment, known) = self.registry.find(&question.pod).ok_or_else(unknown)?;
        let explained = |outcome: &str| ExplainResponse {
            pod: known.record.request.pod.clone(),
            container_id: attachment.container_id.clone(),
            outcome: outcome.to_owned(),
            rule: String::new(),
            reason: known.status.reason(),
            matched: None,
        };
        let Some(cookie) = known.status.cookie() else {
            return Ok(explained("not intercepted, like all traffic of this Pod"));
        };
        let pod = self.namespaces.get(cookie).ok_or_else(unknown)?;
        let subject = Subject {
            policy: pod.policy(),
            state: pod.state(),
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
            (Verdict::Refused(_), _) => "refused: the call fails with EINVAL".to_owned(),
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

    /// The names of the meshed Pods by netns cookie: of all Pods, or of the requested one.
    pub(in crate::pods) fn names(&self, pod: Option<&str>) -> Result<BTreeMap<u64, String>, Error> {
        let unknown = |pod: &str| Error::NoSuchPod(pod.to_owned());
        let one = pod.map(|pod| self.registry.find(pod).ok_or_else(|| unknown(pod)));
        let one = one.transpose()?;
        let all = self.registry.iter().filter(|_| one.is_none());
        let meshed = one.into_iter().chain(all).filter_map(|(_, known)| {
            let cookie = known.status.cookie()?;
            Some((cookie, name(&known.record.request.pod)))
        });
        Ok(meshed.collect())
    }
}
