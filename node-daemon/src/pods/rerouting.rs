//! The virtual interfaces of a Pod, behind which other hosts are. Their connections go to the proxy.

use super::{
    Error,
    policy::{PodPolicy, ResolvedPolicy},
};
use crate::{
    bpf::{Datapath, Features},
    netns::{Families, Netns, Rerouting, VirtualLink},
};
use std::net::IpAddr;

/// The virtual interfaces that the Pod has.
///
/// # Errors
///
/// [`Error::Rerouting`] if the kernel does not report the interface of a connection.
pub(super) fn links<S>(
    policy: &PodPolicy<S>,
    netns: &Netns,
    features: Features,
) -> Result<Vec<VirtualLink>, Error> {
    if policy.virtual_interfaces.is_empty() {
        return Ok(Vec::new());
    }
    if !features.ingress {
        return Err(Error::Rerouting);
    }
    let mut links = netns.virtual_links()?;
    links.retain(|link| policy.virtual_interfaces.contains(&link.name));
    Ok(links)
}

/// The desired rules and programs.
pub(super) fn desired(policy: &ResolvedPolicy, addresses: &[IpAddr]) -> Option<Rerouting> {
    (!policy.virtual_interfaces.is_empty()).then(|| Rerouting {
        names: policy.virtual_interfaces.to_vec(),
        families: Families {
            v4: true,
            v6: !policy.bypasses_ipv6(addresses),
        },
        links: policy.virtual_links().to_vec(),
    })
}

/// Installs or removes the rules and the programs.
///
/// # Errors
///
/// If the kernel refuses a part: it has no `clsact`, or no routing rules.
pub(super) fn apply(
    datapath: &Datapath,
    cookie: u64,
    netns: Option<&Netns>,
    (from, to): (Option<&Rerouting>, Option<&Rerouting>),
) -> Result<(), Error> {
    match (netns, to) {
        (Some(netns), Some(to)) => {
            let load = |link: &VirtualLink| datapath.load_reroute(cookie, link.header);
            let programs = to.links.iter().map(load).collect::<Result<_, _>>()?;
            let before = from.into_iter().flat_map(|from| &from.links);
            let gone = before.filter(|link| !to.links.contains(link)).cloned();
            let gone: Vec<_> = gone.collect();
            Ok(netns.install_rerouting(to, programs, &gone)?)
        }
        (Some(netns), None) => Ok(netns.remove_rerouting()?),
        // They went with the namespace.
        (None, None) => Ok(()),
        (None, Some(_)) => Err(Error::Gone),
    }
}
