//! Processes that are not the proxy and use the proxy's ports: a sidecar under a user that the
//! settings do not state, or an intruder. Each is named in the status, with both users and the remedy.

use std::collections::BTreeMap;

use sluice_abi::{Event, ForeignKey, ForeignUse};
use sluice_api::PodName;

use super::{View, name};
use crate::pods::Error;

/// The maximum number of denied ports in the status.
const SHOWN: usize = 8;
/// `IPPROTO_UDP`.
const UDP: u16 = 17;
/// The remedy if the process is the sidecar.
pub(in crate::pods::manager) const REMEDY: &str = "if it is the sidecar, set proxy-user = \"pod-spec\" or the annotation \
                      sluice.io/proxy-uid; otherwise the process must use another port";

impl View<'_> {
    /// The user of the process, and of the proxy.
    pub(in crate::pods::manager) fn users(&self, cookie: u64, uid: u32) -> (String, String) {
        let listener = self.datapath.foreign_listener(cookie).ok().flatten();
        let uid = match uid {
            Event::NO_UID => listener.map_or_else(|| "unknown".to_owned(), |uid| uid.to_string()),
            uid => uid.to_string(),
        };
        let proxy = self.namespaces.get(cookie).map(|pod| pod.policy().uid);
        let proxy = proxy.filter(|uid| *uid != u32::MAX);
        (
            uid,
            proxy.map_or_else(|| "none".to_owned(), |uid| uid.to_string()),
        )
    }

    /// The denied ports, for the status.
    pub(in crate::pods::manager) fn foreign_binds(&self) -> Result<Vec<String>, Error> {
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
        let pod = self.first_of(key.cookie).map_or_else(
            || format!("of network namespace {}", key.cookie),
            |known| name(&known.record.request.pod),
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
    pub(in crate::pods::manager) fn foreign_listeners(&self) -> Option<String> {
        let all = self.namespaces.iter();
        let counts = all.map(|(cookie, pod)| (cookie, pod.foreign_listeners()));
        let mut found = counts.filter(|(_, count)| *count > 0);
        let (first, count) = found.next()?;
        let more = match found.count() {
            0 => String::new(),
            more => format!(", and in {more} more Pods"),
        };
        let (uid, proxy_uid) = self.users(first, Event::NO_UID);
        Some(format!(
            "{count} sockets on the proxy's ports belong to another user than the proxy, in the Pod {}{more}: \
             they get no inbound traffic, and connections of user {uid} are refused; the proxy's user \
             is {proxy_uid}: {REMEDY}",
            self.name_of(first)
        ))
    }

    /// The number of denials, by netns cookie.
    pub(in crate::pods::manager) fn foreign_uses(&self) -> Result<BTreeMap<u64, u64>, Error> {
        let mut all = BTreeMap::new();
        for (key, found) in self.datapath.foreign_binds()? {
            *all.entry(key.cookie).or_default() += found.count;
        }
        Ok(all)
    }

    /// The same, by the names of the Pods.
    pub(in crate::pods::manager) fn foreign_uses_by_name(
        &self,
    ) -> Result<Vec<(PodName, u64)>, Error> {
        let all = self.foreign_uses()?.into_iter();
        Ok(all
            .filter_map(|(cookie, count)| {
                let known = self.first_of(cookie)?;
                Some((known.record.request.pod.clone(), count))
            })
            .collect())
    }
}

pub(in crate::pods::manager) fn protocol(key: ForeignKey) -> &'static str {
    if key.protocol == UDP { "UDP" } else { "TCP" }
}
