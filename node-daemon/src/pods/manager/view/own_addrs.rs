//! Pods with more addresses than their share of `own_addrs`.

use std::collections::BTreeSet;

use sluice_abi::maps::OWN_ADDRS_PER_POD;

use super::View;
use crate::pods::own_addrs::OwnAddrs;

impl View<'_> {
    /// Such Pods, by netns cookie.
    pub(in crate::pods::manager) fn with_cut_addresses(&self) -> BTreeSet<u64> {
        let all = self.namespaces.iter().filter(|(cookie, pod)| {
            let main =
                (pod.state().netns_entry).map_or_else(Default::default, |one| [one.v4, one.v6]);
            let reported = self.addresses_of(*cookie);
            OwnAddrs::of(&reported, pod.policy().own_addresses(), main).is_cut
        });
        all.map(|(cookie, _)| cookie).collect()
    }

    /// The problem that the status shows.
    pub(in crate::pods::manager) fn cut_addresses_problem(&self) -> Option<String> {
        let found = self.with_cut_addresses();
        let problem = |first: &u64| {
            let more = match found.len() - 1 {
                0 => String::new(),
                more => format!(", and so have {more} more Pods"),
            };
            format!(
                "the Pod {} has more addresses than its share of {OWN_ADDRS_PER_POD}{more}: its calls to \
                 itself at the others are treated as calls to another host",
                self.name_of(*first)
            )
        };
        found.first().map(problem)
    }
}
