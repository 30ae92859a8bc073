//! Processes that are not the proxy and use the proxy's ports: a sidecar under a user that the
//! settings do not state, or an intruder. Each is named in the status and the log, with both users
//! and the remedy.

use std::collections::BTreeMap;

use sluice_abi::{Event, ForeignKey, ForeignUse};
use sluice_api::{Attachment, PodName};
use tracing::{error, warn};

use super::{PodManager, name};
use crate::pods::{Error, error::one_line};

/// The maximum number of denied ports in the status.
const SHOWN: usize = 8;
/// `IPPROTO_UDP`.
const UDP: u16 = 17;
/// The remedy if the process is the sidecar.
const REMEDY: &str = "if it is the sidecar, set proxy-user = \"pod-spec\" or the annotation \
                      sluice.io/proxy-uid; otherwise the process must use another port";

impl PodManager {
    /// Logs the denials since the last call, and looks up the users of listeners.
    pub(in crate::pods) fn report_foreign(&mut self) {
        let found = match self.datapath.foreign_binds() {
            Ok(found) => found,
            Err(error) => {
                return error!(
                    error = one_line(&error),
                    "failed to read the foreign_binds map"
                );
            }
        };
        let now: BTreeMap<_, _> = (found.iter())
            .map(|(key, found)| ((key.cookie, key.port.get(), key.protocol), found.uid))
            .collect();
        let before = std::mem::replace(&mut self.foreign_reported, now);
        for (key, found) in found {
            let id = (key.cookie, key.port.get(), key.protocol);
            if before.get(&id) != Some(&found.uid) {
                self.report_one(key, found);
            }
        }
    }

    fn report_one(&mut self, key: ForeignKey, found: ForeignUse) {
        if found.uid == Event::NO_UID {
            self.find_foreign_listener(key.cookie);
        }
        let Some(dropped) = self.stranger_log.pass() else {
            return;
        };
        let (uid, proxy_uid) = self.users(key.cookie, found.uid);
        warn!(
            pod = self.name_of(key.cookie),
            port = key.port.get(),
            protocol = protocol(key),
            uid,
            proxy_uid,
            dropped,
            "port of the proxy was refused to a process that is not the proxy: {REMEDY}"
        );
    }

    /// The user of the process, and of the proxy.
    fn users(&self, cookie: u64, uid: u32) -> (String, String) {
        let listener = self.datapath.foreign_listener(cookie).ok().flatten();
        let uid = match uid {
            Event::NO_UID => listener.map_or_else(|| "unknown".to_owned(), |uid| uid.to_string()),
            uid => uid.to_string(),
        };
        let proxy = self.pods.get(&cookie).map(|pod| pod.policy.uid);
        let proxy = proxy.filter(|uid| *uid != u32::MAX);
        (
            uid,
            proxy.map_or_else(|| "none".to_owned(), |uid| uid.to_string()),
        )
    }

    /// Stores the user of a foreign listener on a Pod's outbound port, whose own connections would
    /// return to it.
    fn find_foreign_listener(&mut self, cookie: u64) {
        let Some(pod) = self.pods.get(&cookie) else {
            return;
        };
        let Some(netns) = pod.reopen() else {
            return;
        };
        if let Err(error) = pod.kernel.find_foreign_listener(&mut self.datapath, &netns) {
            let pod = self.name_of(cookie);
            error!(
                pod,
                error = one_line(&error),
                "failed to read the Pod's listeners"
            );
        }
    }

    /// The denied ports, for the status.
    pub(super) fn foreign_binds(&self) -> Result<Vec<String>, Error> {
        let found = self.datapath.foreign_binds()?;
        let more = found.len().saturating_sub(SHOWN);
        let shown = found.iter().take(SHOWN);
        let mut lines: Vec<_> = shown
            .map(|(key, found)| self.foreign_bind(*key, *found))
            .collect();
        lines.extend((more > 0).then(|| format!("{more} more ports of proxies were refused")));
        Ok(lines)
    }

    fn foreign_bind(&self, key: ForeignKey, found: ForeignUse) -> String {
        let pod = (self.attachment_in(key.cookie)).map_or_else(
            || format!("of network namespace {}", key.cookie),
            |(pod, _)| name(pod),
        );
        let (uid, proxy_uid) = self.users(key.cookie, found.uid);
        let user = match found.uid {
            Event::NO_UID => format!("a socket of user {uid}, bound before its Pod was known"),
            uid => format!("user {uid}"),
        };
        format!(
            "Pod {pod}: the proxy's port {} ({}) was refused {} times to {user}; the proxy's user is \
             {proxy_uid}: {REMEDY}",
            key.port.get(),
            protocol(key),
            found.count
        )
    }

    /// The foreign listeners on proxies' ports, in one sentence.
    pub(super) fn foreign_listeners(&self) -> Option<String> {
        let count = |cookie: &u64| self.pods[cookie].kernel.foreign_listeners();
        let mut found = self.pods.keys().filter(|cookie| count(cookie) > 0);
        let first = found.next()?;
        let more = match found.count() {
            0 => String::new(),
            more => format!(", and in {more} more Pods"),
        };
        let (uid, proxy_uid) = self.users(*first, Event::NO_UID);
        Some(format!(
            "{} sockets on the proxy's ports belong to another user than the proxy, in the Pod {}{more}: \
             they get no inbound traffic, and connections of user {uid} are refused; the proxy's user \
             is {proxy_uid}: {REMEDY}",
            count(first),
            self.name_of(*first)
        ))
    }

    /// The number of denials, by netns cookie.
    pub(super) fn foreign_uses(&self) -> Result<BTreeMap<u64, u64>, Error> {
        let mut all = BTreeMap::new();
        for (key, found) in self.datapath.foreign_binds()? {
            *all.entry(key.cookie).or_default() += found.count;
        }
        Ok(all)
    }

    /// The same, by the names of the Pods.
    pub(super) fn foreign_uses_by_name(&self) -> Result<Vec<(PodName, u64)>, Error> {
        let all = self.foreign_uses()?.into_iter();
        Ok(all
            .filter_map(|(cookie, count)| Some((self.attachment_in(cookie)?.0.clone(), count)))
            .collect())
    }

    /// The Pod in a netns, and its first attachment.
    pub(super) fn attachment_in(&self, cookie: u64) -> Option<(&PodName, &Attachment)> {
        let first = self.pods.get(&cookie)?.attachments.first()?;
        let known = self.attachments.get(first)?;
        Some((&known.record.request.pod, first))
    }
}

fn protocol(key: ForeignKey) -> &'static str {
    if key.protocol == UDP { "UDP" } else { "TCP" }
}
