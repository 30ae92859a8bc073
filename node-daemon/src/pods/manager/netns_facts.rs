//! Reads the facts about a Pod's netns that its settings depend on: users, addresses and routes.

use crate::{
    bpf::Features,
    netns::{Interface, Netns},
    pods::{
        Error,
        bypass::{self, Bypass},
        own_addrs,
        policy::{NetnsFacts, PodPolicy, ResolvedPolicy, RouteFacts},
        rerouting, rule_set,
        settings::OwnerGroups,
        source_addr,
    },
};

/// The settings with host users, with the addresses that routes prefer, and with the networks behind
/// excluded interfaces.
pub(super) fn resolve_in_netns(
    policy: PodPolicy,
    netns: &Netns,
    interfaces: &[Interface],
    features: Features,
) -> Result<ResolvedPolicy, Error> {
    let users = netns.users()?;
    let groups = match &policy.owner_groups {
        OwnerGroups::All => None,
        OwnerGroups::Only(groups) | OwnerGroups::Except(groups) => Some(groups),
    };
    let groups = groups.into_iter().flatten();
    let groups = groups.filter_map(|gid| Some((*gid, users.group(*gid)?)));
    let groups = groups.collect();
    let (uid, gid) = (users.user(policy.uid), users.group(policy.gid));
    let validator_uid = match policy.validator_uid {
        0 => None,
        uid => users.user(uid),
    };
    if !policy.excluded_interfaces.is_empty() && !features.ingress {
        return Err(bypass::Error::Kernel.into());
    }
    let facts = NetnsFacts {
        uid,
        gid,
        validator_uid,
        groups,
        keeps_source: features.ingress,
        links: rerouting::links(&policy, netns, features)?,
        routes: routes_of(&policy, netns, interfaces)?,
    };
    let policy = policy.resolve(facts)?;
    rule_set::check_resolved(&policy)?;
    Ok(policy)
}

/// The facts that may change. Pods with one address and no excluded interfaces, nearly all, need no
/// routes.
pub(super) fn routes_of<S>(
    policy: &PodPolicy<S>,
    netns: &Netns,
    interfaces: &[Interface],
) -> Result<RouteFacts, Error> {
    let sources = if source_addr::is_ambiguous(interfaces) {
        netns.sources()?
    } else {
        Vec::new()
    };
    rule_set::check_routes(sources.len())?;
    let bypass = if policy.excluded_interfaces.is_empty() {
        Bypass::default()
    } else {
        let routes = netns.routes()?;
        rule_set::check_routes(routes.main.len())?;
        Bypass::from_interfaces(&policy.excluded_interfaces, interfaces, &routes)?
    };
    Ok(RouteFacts {
        bypass,
        sources,
        own_addresses: own_addrs::of_netns(interfaces),
    })
}
