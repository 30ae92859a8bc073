//! The two states of a Pod's settings: parsed, and resolved against the Pod's netns. Only resolved
//! settings become kernel state.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{Error, OwnerGroups, PodPolicy};
use crate::{
    netns::{SourceRoute, VirtualLink},
    pods::{bypass::Bypass, mesh::Mesh},
};

/// The state of settings that come from annotations alone. Users and groups are those of the Pod's
/// user namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parsed;

/// The state of settings that apply to a netns. Users and groups are those of the initial user
/// namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resolved {
    source_mark: u32,
    links: Vec<VirtualLink>,
    routes: RouteFacts,
}

/// The settings of a Pod with a known netns.
pub(crate) type ResolvedPolicy = PodPolicy<Resolved>;

/// The facts about a netns that settings depend on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NetnsFacts {
    /// The proxy's user in the initial user namespace, unless it has no mapping there.
    pub(crate) uid: Option<u32>,
    /// The proxy's group, likewise.
    pub(crate) gid: Option<u32>,
    /// The user that validates the redirection, likewise.
    pub(crate) validator_uid: Option<u32>,
    /// The groups of the settings' list with a mapping, by the group inside the Pod.
    pub(crate) groups: BTreeMap<u32, u32>,
    /// Whether the kernel detects connections that keep their source.
    pub(crate) keeps_source: bool,
    /// The virtual interfaces that the Pod has, of those that its settings name.
    pub(crate) links: Vec<VirtualLink>,
    /// The facts that may change later.
    pub(crate) routes: RouteFacts,
}

/// The facts that follow from the interfaces and routes of a netns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RouteFacts {
    /// The traffic of the excluded interfaces that the Pod has.
    pub(crate) bypass: Bypass,
    /// The preferred source address of each network, if the Pod has several addresses.
    pub(crate) sources: Vec<SourceRoute>,
    /// The addresses of the netns, reported or not, up to a limit.
    pub(crate) own_addresses: BTreeSet<IpAddr>,
}

impl PodPolicy {
    /// The settings in a netns. A group or a validator without a mapping is none.
    ///
    /// # Errors
    ///
    /// If the proxy's user has no mapping in the initial user namespace.
    pub(crate) fn resolve(self, facts: NetnsFacts) -> Result<ResolvedPolicy, Error> {
        let mapped = |all: &BTreeSet<u32>| {
            let mapped = all.iter().filter_map(|gid| facts.groups.get(gid));
            mapped.copied().collect()
        };
        let owner_groups = match &self.owner_groups {
            OwnerGroups::All => OwnerGroups::All,
            OwnerGroups::Only(all) => OwnerGroups::Only(mapped(all)),
            OwnerGroups::Except(all) => OwnerGroups::Except(mapped(all)),
        };
        // Without the interface, the inbound hook cannot detect the Pod's own connections.
        let source_mark = if facts.keeps_source {
            self.mesh_source_mark()
        } else {
            0
        };
        let state = Resolved {
            links: facts.links,
            ..Resolved::new(self.mesh, source_mark, facts.routes)
        };
        Ok(ResolvedPolicy {
            uid: facts.uid.ok_or(Error::NoUser { uid: self.uid })?,
            gid: facts.gid.unwrap_or(u32::MAX),
            validator_uid: facts.validator_uid.unwrap_or_default(),
            owner_groups,
            ..self.in_state(state)
        })
    }

    /// The settings of a Pod whose netns is not known: its users are those of the node, and it has
    /// none of the excluded interfaces.
    pub(crate) fn provisional(self) -> ResolvedPolicy {
        let state = Resolved::new(self.mesh, 0, RouteFacts::default());
        self.in_state(state)
    }

    fn in_state(self, state: Resolved) -> ResolvedPolicy {
        let Self {
            mesh,
            uid,
            gid,
            validator_uid,
            user_from,
            ports,
            inbound,
            excluded_outbound,
            included_outbound,
            networks,
            excluded_networks,
            excluded_sources,
            families,
            owner_groups,
            bypass_before_proxy,
            excluded_interfaces,
            virtual_interfaces,
            tproxy,
            acceleration,
            state: Parsed,
        } = self;
        PodPolicy {
            mesh,
            uid,
            gid,
            validator_uid,
            user_from,
            ports,
            inbound,
            excluded_outbound,
            included_outbound,
            networks,
            excluded_networks,
            excluded_sources,
            families,
            owner_groups,
            bypass_before_proxy,
            excluded_interfaces,
            virtual_interfaces,
            tproxy,
            acceleration,
            state,
        }
    }
}

impl Resolved {
    fn new(mesh: &Mesh, source_mark: u32, mut routes: RouteFacts) -> Self {
        let networks = &mut routes.bypass.networks;
        networks.splice(0..0, mesh.bypass_cidrs.iter().copied());
        Self {
            source_mark,
            links: Vec::new(),
            routes,
        }
    }
}

impl ResolvedPolicy {
    /// The settings after a change of interfaces or routes.
    pub(crate) fn with_routes(&self, routes: RouteFacts) -> Self {
        Self {
            state: Resolved {
                links: self.state.links.clone(),
                ..Resolved::new(self.mesh, self.state.source_mark, routes)
            },
            ..self.clone()
        }
    }

    /// The settings after a change of virtual interfaces.
    pub(crate) fn with_links(&self, links: Vec<VirtualLink>) -> Self {
        Self {
            state: Resolved {
                links,
                ..self.state.clone()
            },
            ..self.clone()
        }
    }

    /// The traffic that no rule applies to.
    pub(crate) fn bypass(&self) -> &Bypass {
        &self.state.routes.bypass
    }

    /// The virtual interfaces that the Pod has.
    pub(crate) fn virtual_links(&self) -> &[VirtualLink] {
        &self.state.links
    }

    /// The preferred source address of each network, if the Pod has several addresses.
    pub(crate) fn sources(&self) -> &[SourceRoute] {
        &self.state.routes.sources
    }

    /// The addresses of the netns, reported or not, up to a limit.
    pub(crate) fn own_addresses(&self) -> &BTreeSet<IpAddr> {
        &self.state.routes.own_addresses
    }

    /// The mark of the proxy's connections to the Pod from its clients' addresses; zero if the
    /// kernel does not support such connections.
    pub(crate) fn source_mark(&self) -> u32 {
        self.state.source_mark
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> PodPolicy {
        PodPolicy {
            owner_groups: OwnerGroups::Only([5, 6].into()),
            tproxy: true,
            ..PodPolicy::of(Mesh::preset("istio"))
        }
    }

    fn facts() -> NetnsFacts {
        NetnsFacts {
            uid: Some(101_337),
            gid: None,
            groups: [(5, 100_005)].into(),
            keeps_source: true,
            ..NetnsFacts::default()
        }
    }

    #[test]
    fn resolved_policy_has_host_users() {
        let resolved = policy().resolve(facts()).unwrap();
        assert_eq!((resolved.uid, resolved.gid), (101_337, u32::MAX));
        assert_eq!(resolved.owner_groups, OwnerGroups::Only([100_005].into()));
        assert_eq!(resolved.source_mark(), 1337);
    }

    #[test]
    fn proxy_without_host_user_is_refused() {
        let facts = NetnsFacts {
            uid: None,
            ..facts()
        };
        assert_eq!(policy().resolve(facts), Err(Error::NoUser { uid: 1337 }));
    }

    #[test]
    fn source_mark_needs_kernel_support() {
        let facts = NetnsFacts {
            keeps_source: false,
            ..facts()
        };
        assert_eq!(policy().resolve(facts).unwrap().source_mark(), 0);
        assert_eq!(policy().provisional().source_mark(), 0);
    }

    #[test]
    fn routes_replace_earlier_ones_and_keep_the_bypass_of_the_mesh() {
        let ambient = Mesh::preset("ambient");
        let resolved = PodPolicy::of(ambient).provisional();
        assert_eq!(resolved.bypass().networks, ambient.bypass_cidrs);
        let source = SourceRoute {
            dst: "10.9.0.0/16".parse().unwrap(),
            prefsrc: [10, 9, 0, 1].into(),
        };
        let routes = RouteFacts {
            sources: vec![source],
            own_addresses: [[10, 9, 0, 1].into()].into(),
            ..RouteFacts::default()
        };
        let changed = resolved.with_routes(routes);
        assert_ne!(changed, resolved);
        assert_eq!(changed.with_routes(RouteFacts::default()), resolved);
    }
}
