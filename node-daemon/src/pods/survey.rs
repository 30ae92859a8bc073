//! A look at the node's network namespaces: which of them carry a sidecar though no runtime reported
//! them, and which reported ones are empty.
//!
//! It runs in a thread of its own, because the work depends on what strangers made: any user may own
//! thousands of network namespaces, with any addresses and listeners. The owner of the Pods gets the
//! few that may be Pods, each with the [`Evidence`] for it. A stranger's namespace is opened, its owner
//! is looked up, and that is all: no thread enters it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::{Path, PathBuf},
};

use daemon_api::{PodAddress, PodName};

use tracing::debug;

use super::{
    error::one_line,
    evidence::{Evidence, MAX_ADDRESSES, MAX_FOUND},
};
use crate::{
    cgroup,
    netns::{self, Inhabited, Interface, Netns, Paths, ProxyUser},
};

/// Processes of a namespace whose cgroup is read.
const MEMBERS: usize = 16;
/// Namespaces that are handed to the owner at one time: each keeps a file open.
const SIGHTS: usize = 2 * MAX_FOUND;

/// What the owner knows, and wants to know.
#[derive(Clone, Debug)]
pub(crate) struct Brief {
    /// The cgroup whose processes are served.
    pub(crate) cgroup: PathBuf,
    /// Paths of the namespaces that runtimes reported.
    pub(crate) reported: Vec<PathBuf>,
    /// Namespaces that were found before.
    pub(crate) found: Vec<netns::Id>,
    /// Meshed Pods, with the addresses that were reported.
    pub(crate) meshed: Vec<Lodging>,
    /// The listed Pods, by address.
    pub(crate) listed: BTreeMap<IpAddr, PodName>,
    /// Ports on which a proxy listens, for connections from the Pod and to it.
    pub(crate) ports: [u16; 2],
    /// Who listens there.
    pub(crate) proxy: ProxyUser,
}

/// Where a meshed Pod is.
#[derive(Clone, Debug)]
pub(crate) struct Lodging {
    /// Its network namespace.
    pub(crate) id: netns::Id,
    /// A path that leads there.
    pub(crate) path: PathBuf,
    /// Its addresses.
    pub(crate) addresses: Vec<IpAddr>,
}

/// What was seen.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// Namespaces that may be Pods'.
    pub(crate) sights: Vec<Sight>,
    /// Namespaces that another user namespace owns, and that are no Pod's.
    pub(crate) strangers: usize,
    /// Whether the kubelet keeps Pods in cgroups on this node.
    pub(crate) kubelet: bool,
    /// Cookies of meshed Pods that have neither an address nor a process any more.
    pub(crate) abandoned: Vec<u64>,
}

/// A namespace that may be a Pod's.
#[derive(Debug)]
pub(crate) struct Sight {
    /// The namespace, opened once.
    pub(crate) netns: Netns,
    /// Addresses of interfaces that lead to the host.
    pub(crate) addresses: Vec<PodAddress>,
    /// The Pod of the list that has one of them.
    pub(crate) listed: Option<PodName>,
    /// Whether its own rules divert its traffic.
    pub(crate) diverted: bool,
    /// Why it is believed, or not.
    pub(crate) evidence: Evidence,
}

impl Lodging {
    /// Whether it has one of its addresses, or a process. A path that leads elsewhere proves nothing.
    pub(crate) fn is_inhabited(&self, netns: &Netns) -> bool {
        let Ok(interfaces) = netns.interfaces() else {
            return true;
        };
        let has = |ip: &IpAddr| interfaces.iter().any(|one| one.addresses.contains(ip));
        self.addresses.is_empty() || self.addresses.iter().any(has) || netns::is_inhabited(self.id)
    }

    fn is_abandoned(&self) -> bool {
        let there = Netns::open(&self.path).ok();
        there.is_some_and(|netns| netns.id() == self.id && !self.is_inhabited(&netns))
    }
}

impl Survey {
    /// Looks at the namespaces of all processes, and at the meshed Pods.
    pub(crate) fn of(brief: &Brief) -> Self {
        let seen = netns::among_hosts_cgroups(|| {
            let mut survey = Self::default();
            let reported = Paths::of(brief.reported.iter().map(Path::new));
            for namespace in netns::inhabited(&cgroup::processes(&brief.cgroup)) {
                if survey.sights.len() < SIGHTS {
                    let sight = survey.inspect_netns(brief, &reported, &namespace);
                    survey.sights.extend(sight);
                }
            }
            survey
        });
        let mut survey = seen.unwrap_or_default();
        let abandoned = brief.meshed.iter().filter(|pod| pod.is_abandoned());
        survey.abandoned = abandoned.map(|pod| pod.id.cookie).collect();
        survey
    }

    fn inspect_netns(
        &mut self,
        brief: &Brief,
        reported: &Paths,
        namespace: &Inhabited,
    ) -> Option<Sight> {
        let members = namespace.processes.iter().take(MEMBERS);
        if namespace.is_among(reported) {
            let mut members = members.copied();
            self.kubelet |= members.any(|pid| cgroup::pod_of(pid).is_some());
            return None;
        }
        let door = namespace.open()?;
        let of_hosts_users = door.is_of_hosts_users().ok()?;
        let members: BTreeSet<_> = members.copied().filter_map(cgroup::pod_of).collect();
        if !of_hosts_users && members.is_empty() {
            self.strangers += 1;
            return None;
        }
        self.kubelet |= !members.is_empty();
        let seen = look_inside(brief, door.worker().ok()?, of_hosts_users, members);
        // A namespace that ends meanwhile, or that cannot be read, is no Pod.
        seen.inspect_err(|error| debug!(error = one_line(error), "network namespace is ignored"))
            .ok()
            .flatten()
    }
}

fn look_inside(
    brief: &Brief,
    netns: Netns,
    of_hosts_users: bool,
    pods: BTreeSet<String>,
) -> Result<Option<Sight>, netns::Error> {
    let interfaces = netns.interfaces()?;
    let mut addresses: Vec<_> = interfaces.iter().flat_map(reachable).collect();
    let listed = addresses.iter().find_map(|one| brief.listed.get(&one.ip));
    let proxied = {
        let listening = netns.sockets()?;
        let of_proxy = |port: &u16| listening.any_of_proxy_on(*port, brief.proxy);
        brief.ports.iter().all(of_proxy)
    };
    if listed.is_none() && !proxied && !brief.found.contains(&netns.id()) {
        return Ok(None);
    }
    let uplinks = netns.uplinks()?;
    let is_linked = |one: &PodAddress| {
        let named = interfaces.iter().find(|link| link.name == one.interface);
        named.is_some_and(|link| uplinks.contains(&link.index))
    };
    addresses.retain(is_linked);
    // What the list gives to another Pod is not this one's.
    addresses.retain(|one| {
        brief
            .listed
            .get(&one.ip)
            .is_none_or(|pod| Some(pod) == listed)
    });
    let evidence = Evidence {
        of_hosts_users,
        pods,
        listed: listed.map(|pod| pod.uid.clone()),
        proxied,
        addresses: addresses.len(),
    };
    addresses.truncate(MAX_ADDRESSES);
    Ok(Some(Sight {
        diverted: netns.rewrites_own_connections()?,
        listed: listed.cloned(),
        addresses,
        evidence,
        netns,
    }))
}

/// The addresses of an interface at which others can reach the Pod.
fn reachable(interface: &Interface) -> impl Iterator<Item = PodAddress> {
    let local = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local(),
    };
    let others = (interface.addresses.iter()).filter(move |ip| !local(ip));
    let others = others.filter(|_| interface.name != "lo");
    others.map(|ip| PodAddress {
        ip: *ip,
        interface: interface.name.clone(),
    })
}
