//! Explaining what would become of a connection.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use daemon_api::{Attachment, Connection, Explanation, Question};
use sluice_abi::decide::Verdict;

use super::{Known, Owner, Standing, name};
use crate::pods::{Error, explain::Subject};

impl Owner {
    pub(in crate::pods) fn explain(&self, question: &Question) -> Result<Explanation, Error> {
        let nobody = || Error::Nobody(question.pod.clone());
        let (attachment, known) = self.sought(&question.pod).ok_or_else(nobody)?;
        let explained = |outcome: &str| Explanation {
            pod: known.record.request.pod.clone(),
            container_id: attachment.container_id.clone(),
            outcome: outcome.to_owned(),
            rule: String::new(),
            because: known.standing.because(),
            matched: None,
        };
        let Standing::Meshed { cookie, .. } = known.standing else {
            return Ok(explained("left alone, as everything of this Pod"));
        };
        let pod = self.pods.get(&cookie).ok_or_else(nobody)?;
        let subject = Subject {
            settings: &pod.settings,
            held: pod.kernel.held(),
            captures_dns: self.datapath.captures_dns(cookie)?,
        };
        if subject.passes_as_datagram(&question.connection) {
            return Ok(Explanation {
                because: "of datagrams only DNS queries are intercepted, while the proxy listens \
                          for them"
                    .to_owned(),
                ..explained("direct, past the proxy")
            });
        }
        let verdict = subject.verdict(&question.connection).ok_or_else(nobody)?;
        let outcome = match (verdict, &question.connection) {
            (Verdict::Direct(_), Connection::To { .. }) => "direct, past the proxy".to_owned(),
            (Verdict::Direct(_), Connection::From { .. }) => "to the application".to_owned(),
            (Verdict::ToProxy(port, _), _) => {
                let port = port.get();
                let netns = pod.reopen().ok_or(Error::Gone)?;
                if netns.listening()?.any_on(port) {
                    format!("to the proxy's port {port}")
                } else {
                    format!("refused: nobody listens on the proxy's port {port}")
                }
            }
        };
        let reason = verdict.reason();
        Ok(Explanation {
            rule: reason.label().to_owned(),
            because: reason.words().to_owned(),
            matched: subject.matched(reason, &question.connection),
            ..explained(&outcome)
        })
    }

    /// Lets the programs tell of their decisions for a while. The names of the Pods by their
    /// network namespaces' cookies: of all, or of the one that is meant.
    pub(in crate::pods) fn watch(
        &mut self,
        pod: Option<&str>,
        time: Duration,
    ) -> Result<BTreeMap<u64, String>, Error> {
        self.datapath.watch(time)?;
        let named = |cookie: u64, known: &Known| (cookie, name(&known.record.request.pod));
        if let Some(pod) = pod {
            let nobody = || Error::Nobody(pod.to_owned());
            let (attachment, known) = self.sought(pod).ok_or_else(nobody)?;
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

    /// The Pod that somebody means by its name, by an address or by its container.
    fn sought(&self, what: &str) -> Option<(&Attachment, &Known)> {
        let address: Option<IpAddr> = what.parse().ok();
        let has = |known: &Known| known.record.addresses().any(|one| Some(one) == address);
        let is_it = |(attachment, known): &(&Attachment, &Known)| {
            name(&known.record.request.pod) == what
                || has(known)
                || (!what.is_empty() && attachment.container_id.starts_with(what))
        };
        self.attachments.iter().find(is_it)
    }
}
