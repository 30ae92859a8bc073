//! Every attempt, with the reasons for those that pass.

mod dns;
mod inbound;
mod process;
mod protocols;
mod requests;
mod root;
mod sources;
mod ways;

use crate::{
    attack::{Case, net::Goal},
    suite::conn_spec::Target,
};

const PEER: Goal = Goal::At(Target::Peer);
const NODE: Goal = Goal::At(Target::Node);
const POD: Goal = Goal::At(Target::Pod);

const RAW: &str = "no socket hook sees a packet of a raw socket: drop CAP_NET_RAW";
const SIDECAR: &str = "the sidecar's own connections are direct, under rules as well";
const TCP_ONLY: &str =
    "a sidecar takes TCP and DNS alone, under rules as well: use a NetworkPolicy";

/// In the order of the table.
pub(crate) fn all() -> impl Iterator<Item = &'static Case> {
    [
        ways::CASES,
        sources::CASES,
        protocols::CASES,
        dns::CASES,
        root::CASES,
        inbound::CASES,
        process::CASES,
        requests::CASES,
    ]
    .into_iter()
    .flatten()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn attempts_have_unique_names() {
        let names: BTreeSet<_> = all().map(|case| case.name).collect();
        assert_eq!(names.len(), all().count());
        assert!(names.len() >= 80, "{}", names.len());
    }
}
