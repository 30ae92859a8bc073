//! The evidence that a netns without a report from a runtime is a Pod. Pure.
//!
//! A process without privileges on the host cannot make any of it:
//!
//! | evidence | possible source |
//! |---|---|
//! | the initial user namespace owns the network namespace | `CAP_SYS_ADMIN` on the host |
//! | a process of it is in the kubelet's cgroup of a Pod | the kubelet, and the Pod's own processes |
//! | the list of the node's Pods has that uid with one of its addresses | the API server |
//! | an address is on an interface with a peer on the host | `CAP_NET_ADMIN` on the host |
//! | the proxy's user listens on the proxy's ports | the proxy's user, in that namespace |
//!
//! A Pod with a user namespace of its own has a netns that this user namespace owns, and so does
//! every netns that a process of a Pod creates. Only the list and the interface distinguish them.
//! An interface without a peer on the host, such as a physical one that was moved into a Pod, is no
//! evidence: such a Pod is enrolled when a runtime reports it.

use std::{collections::BTreeSet, fmt};

/// The maximum number of addresses of a Pod without a report.
pub(crate) const MAX_ADDRESSES: usize = 16;
/// The maximum number of adopted Pods at one time: it bounds their kernel state.
pub(crate) const MAX_FOUND: usize = 256;

/// The observations of a netns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Evidence {
    /// The initial user namespace owns it.
    pub(crate) of_hosts_users: bool,
    /// The uids of the Pods in whose cgroups its processes are.
    pub(crate) pods: BTreeSet<String>,
    /// The uid of the listed Pod that has one of its addresses; empty if the list names none.
    pub(crate) listed: Option<String>,
    /// The proxy's user listens on the proxy's ports.
    pub(crate) proxied: bool,
    /// The number of addresses on interfaces with a peer in the host's netns.
    pub(crate) addresses: usize,
}

/// Why a netns is not adopted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Doubt {
    /// It has a listed Pod's address, but none of that Pod's processes.
    NotThePod,
    /// Another user namespace owns it, and no listed Pod has its addresses.
    ForeignUsers,
    /// None of its processes is in a Pod's cgroup of the kubelet.
    NotOfKubelet,
    /// It has no address on an interface with a peer in the host's netns.
    NotLinked,
    /// It has more addresses than [`MAX_ADDRESSES`].
    TooManyAddresses,
    /// The proxy does not listen: without it, the Pod's connections would be refused.
    NoProxy,
}

impl Evidence {
    /// Why this evidence is not sufficient. `kubelet`: whether the kubelet keeps Pods in cgroups on
    /// this node.
    pub(crate) fn doubt(&self, kubelet: bool) -> Option<Doubt> {
        let uid = self.listed.as_deref().filter(|uid| !uid.is_empty());
        let is_named = uid.is_some_and(|uid| self.pods.contains(uid));
        let doubts = [
            (uid.is_some() && !is_named, Doubt::NotThePod),
            (!self.of_hosts_users && !is_named, Doubt::ForeignUsers),
            (kubelet && self.pods.is_empty(), Doubt::NotOfKubelet),
            (!self.proxied, Doubt::NoProxy),
            (self.addresses == 0, Doubt::NotLinked),
            (self.addresses > MAX_ADDRESSES, Doubt::TooManyAddresses),
        ];
        let found = doubts.into_iter().find(|(applies, _)| *applies);
        found.map(|(_, doubt)| doubt)
    }
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotThePod => "it claims an address of a listed Pod and has none of its processes",
            Self::ForeignUsers => {
                "another user namespace owns it and the API server does not list it"
            }
            Self::NotOfKubelet => "none of its processes is in a Pod's cgroup",
            Self::NotLinked => "none of its addresses is on an interface that leads to the host",
            Self::TooManyAddresses => "it has more than 16 addresses",
            Self::NoProxy => "its proxy does not listen",
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UID: &str = "8c26f6c5";

    fn evidence(of_hosts_users: bool, pod: Option<&str>, listed: Option<&str>) -> Evidence {
        Evidence {
            of_hosts_users,
            pods: pod.into_iter().map(str::to_owned).collect(),
            listed: listed.map(str::to_owned),
            proxied: true,
            addresses: 1,
        }
    }

    #[test]
    fn evidence_decides_row_by_row() {
        use Doubt::{ForeignUsers, NotOfKubelet, NotThePod};
        let uid = Some(UID);
        for (of_hosts_users, pod, listed, kubelet, expected) in [
            // Nodes without a kubelet: root created the namespace.
            (true, None, None, false, None),
            (true, None, Some(""), false, None),
            // A node with a kubelet.
            (true, None, None, true, Some(NotOfKubelet)),
            (true, None, Some(""), true, Some(NotOfKubelet)),
            (true, uid, None, true, None),
            (true, uid, uid, true, None),
            (true, Some("other"), uid, true, Some(NotThePod)),
            (true, None, uid, false, Some(NotThePod)),
            // A netns of a user, a netns that a Pod's process created, a Pod with its own user
            // namespace.
            (false, None, None, false, Some(ForeignUsers)),
            (false, None, Some(""), false, Some(ForeignUsers)),
            (false, uid, None, true, Some(ForeignUsers)),
            (false, uid, uid, true, None),
            (false, Some("other"), uid, true, Some(NotThePod)),
        ] {
            let seen = evidence(of_hosts_users, pod, listed);
            assert_eq!(seen.doubt(kubelet), expected, "{seen:?} {kubelet}");
        }
    }

    #[test]
    fn evidence_limits_addresses_and_needs_a_proxy() {
        let seen = evidence(true, Some(UID), Some(UID));
        for (addresses, expected) in [
            (0, Some(Doubt::NotLinked)),
            (MAX_ADDRESSES, None),
            (MAX_ADDRESSES + 1, Some(Doubt::TooManyAddresses)),
        ] {
            let seen = Evidence {
                addresses,
                ..seen.clone()
            };
            assert_eq!(seen.doubt(true), expected);
        }
        let unproxied = |listed| Evidence {
            proxied: false,
            ..evidence(true, Some(UID), listed)
        };
        assert_eq!(unproxied(Some(UID)).doubt(true), Some(Doubt::NoProxy));
        assert_eq!(unproxied(None).doubt(true), Some(Doubt::NoProxy));
    }

    proptest! {
        #[test]
        fn foreign_users_need_the_list_the_cgroup_and_a_link(
            in_pod: bool, listed: bool, proxied: bool, kubelet: bool, addresses in 0_usize..20,
        ) {
            let seen = Evidence {
                proxied,
                addresses,
                ..evidence(false, in_pod.then_some(UID), listed.then_some(UID))
            };
            if seen.doubt(kubelet).is_none() {
                prop_assert!(in_pod && listed && (1..=MAX_ADDRESSES).contains(&addresses));
            }
        }
    }
}
