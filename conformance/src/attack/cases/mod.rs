//! Every attempt, with the reasons for those that pass.

mod daemon;
mod inbound;
mod out;
mod root;

use crate::{
    attack::{Case, net::Goal},
    suite::ask::{Server, Target},
};

const WORLD: Goal = Goal::At(Target::Outside(Server::One));
const PEER: Goal = Goal::At(Target::Peer);
const NODE: Goal = Goal::At(Target::Node);
const POD: Goal = Goal::At(Target::Pod);

const RAW: &str = "no socket hook sees a packet of a raw socket: drop CAP_NET_RAW";
const SIDECAR: &str = "the sidecar's own connections are direct, under rules as well";
const TCP_ONLY: &str =
    "a sidecar takes TCP and DNS alone, under rules as well: use a NetworkPolicy";

/// In the order of the table.
pub(crate) fn all() -> impl Iterator<Item = &'static Case> {
    [out::CASES, root::CASES, inbound::CASES, daemon::CASES]
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
