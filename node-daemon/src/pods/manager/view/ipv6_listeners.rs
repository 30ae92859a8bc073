//! Pods whose IPv6 traffic bypasses a proxy that listens on IPv6: the configured families are probably
//! not those of the mesh.

use std::collections::BTreeSet;

use sluice_abi::PodFlags;

use super::View;
use crate::pods::Error;

impl View<'_> {
    /// The Pods with an IPv6 address that bypasses a proxy with an IPv6 listener, by netns cookie.
    pub(in crate::pods::manager) fn ipv6_unserved(&self) -> Result<BTreeSet<u64>, Error> {
        let mut found = self.datapath.with_ipv6_listener()?;
        found.retain(|cookie| {
            let entry = (self.namespaces.get(*cookie)).and_then(|pod| pod.state().netns_entry);
            entry.is_some_and(|entry| {
                entry.pod.flags.has(PodFlags::IPV4_ONLY) && !entry.v6.is_unspecified()
            })
        });
        Ok(found)
    }

    /// The problem that the status shows.
    pub(in crate::pods::manager) fn ipv6_problem(&self) -> Result<Option<String>, Error> {
        let found = self.ipv6_unserved()?;
        let problem = |first: &u64| {
            let more = match found.len() - 1 {
                0 => String::new(),
                more => format!(", and so do {more} more Pods"),
            };
            format!(
                "the proxy of the Pod {} listens on IPv6, but IPv6 bypasses it{more}: if the mesh has dual \
                 stack, set families = \"both\", or sluice.io/families: both on the Pod",
                self.name_of(*first)
            )
        };
        Ok(found.first().map(problem))
    }
}
