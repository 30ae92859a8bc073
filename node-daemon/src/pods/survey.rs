//! A survey of the node's namespaces: which of them have a sidecar without a report from a runtime,
//! and which reported ones are empty.
//!
//! It runs in a thread of its own, because its cost depends on unprivileged users, who may create
//! thousands of namespaces with any addresses and listeners. The Pod manager gets only the few that
//! may be Pods, each with its [`Evidence`]. An unprivileged user's namespace is opened and its
//! owner looked up; no thread enters it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::{Path, PathBuf},
};

use sluice_api::{PodAddress, PodName};

use tracing::debug;

use super::{
    error::one_line,
    evidence::{Evidence, MAX_ADDRESSES, MAX_FOUND},
};
use crate::{
    cgroup,
    netns::{self, Inhabited, Interface, Netns, Paths, ProxyUser, Visited},
};

/// The number of processes of a namespace whose cgroup is read.
const MEMBERS: usize = 16;
/// The maximum number of reported sights at one time: each holds a file descriptor.
const SIGHTS: usize = 2 * MAX_FOUND;

/// The manager's input to a survey.
#[derive(Clone, Debug)]
pub(crate) struct Brief {
    /// The cgroup whose processes are intercepted.
    pub(crate) cgroup: PathBuf,
    /// Paths of the namespaces that runtimes reported.
    pub(crate) reported: Vec<PathBuf>,
    /// Namespaces of adopted Pods.
    pub(crate) found: Vec<netns::Id>,
    /// Meshed Pods, with their reported addresses.
    pub(crate) meshed: Vec<Lodging>,
    /// The listed Pods, by address.
    pub(crate) listed: BTreeMap<IpAddr, ListedProxy>,
    /// The outbound and the inbound port of the proxy.
    pub(crate) ports: [u16; 2],
    /// The proxy's user.
    pub(crate) proxy: ProxyUser,
}

/// A listed Pod, and its proxy.
#[derive(Clone, Debug)]
pub(crate) struct ListedProxy {
    /// The Pod.
    pub(crate) name: PodName,
    /// The outbound and the inbound port of its proxy.
    pub(crate) ports: [u16; 2],
    /// The proxy's user, in the Pod's user namespace.
    pub(crate) proxy: ProxyUser,
}

/// The location of a meshed Pod.
#[derive(Clone, Debug)]
pub(crate) struct Lodging {
    /// Its netns.
    pub(crate) id: netns::Id,
    /// A path that leads there.
    pub(crate) path: PathBuf,
    /// Its addresses.
    pub(crate) addresses: Vec<IpAddr>,
}

/// The result of a survey.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// Namespaces that may be Pods.
    pub(crate) sights: Vec<Sight>,
    /// The number of namespaces that another user namespace owns and that are no Pods.
    pub(crate) foreign: usize,
    /// Whether the kubelet keeps Pods in cgroups on this node.
    pub(crate) kubelet: bool,
    /// Cookies of meshed Pods that have neither an address nor a process any more.
    pub(crate) abandoned: Vec<u64>,
}

/// A namespace that may be a Pod's.
#[derive(Debug)]
pub(crate) struct Sight {
    /// The netns, opened once.
    pub(crate) netns: Netns,
    /// Addresses of interfaces with a peer in the host's netns.
    pub(crate) addresses: Vec<PodAddress>,
    /// The listed Pod that has one of them.
    pub(crate) listed: Option<PodName>,
    /// Whether its own netfilter rules redirect its traffic.
    pub(crate) redirected_by_rules: bool,
    /// The evidence for it.
    pub(crate) evidence: Evidence,
}

impl Lodging {
    /// Whether it has one of its addresses, or a process.
    pub(crate) fn is_inhabited(&self, interfaces: &[Interface]) -> bool {
        let has = |ip: &IpAddr| interfaces.iter().any(|one| one.addresses.contains(ip));
        self.addresses.is_empty() || self.addresses.iter().any(has) || netns::is_inhabited(self.id)
    }

    /// Whether the netns at its path is its own and nothing of the Pod is there.
    fn is_abandoned(&self, (id, interfaces): &(netns::Id, Vec<Interface>)) -> bool {
        *id == self.id && !self.is_inhabited(interfaces)
    }
}

impl Survey {
    /// Surveys the namespaces of all processes, and the meshed Pods.
    pub(crate) fn of(brief: &Brief) -> Self {
        // No descriptor stays open: a deleted Pod's netns would stay with it.
        let keep = |there: Visited| (there.netns.id(), there.interfaces);
        let there = netns::visit_all(brief.meshed.iter().map(|pod| &*pod.path), keep);
        let abandoned = brief.meshed.iter().filter(|pod| {
            let there = there.get(&pod.path);
            there.is_some_and(|there| pod.is_abandoned(there))
        });
        Self {
            abandoned: abandoned.map(|pod| pod.id.cookie).collect(),
            ..Self::of_processes(brief)
        }
    }

    /// Surveys the namespaces of all processes.
    pub(crate) fn of_processes(brief: &Brief) -> Self {
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
        seen.unwrap_or_default()
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
        let opened = namespace.open()?;
        let of_hosts_users = opened.is_of_hosts_users().ok()?;
        let members: BTreeSet<_> = members.copied().filter_map(cgroup::pod_of).collect();
        if !of_hosts_users && members.is_empty() {
            self.foreign += 1;
            return None;
        }
        self.kubelet |= !members.is_empty();
        let seen = look_inside(brief, opened.identify().ok()?, of_hosts_users, members);
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
        let (ports, proxy) = listed.map_or((brief.ports, brief.proxy), |one| {
            (one.ports, of_host(one.proxy, &netns))
        });
        let of_proxy = |port: &u16| listening.any_of_proxy_on(*port, proxy);
        ports.iter().all(of_proxy)
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
    // Addresses that the list gives to another Pod do not belong to this one.
    addresses.retain(|one| {
        brief
            .listed
            .get(&one.ip)
            .is_none_or(|pod| listed.is_some_and(|listed| pod.name == listed.name))
    });
    let evidence = Evidence {
        of_hosts_users,
        pods,
        listed: listed.map(|pod| pod.name.uid.clone()),
        proxied,
        addresses: addresses.len(),
    };
    addresses.truncate(MAX_ADDRESSES);
    Ok(Some(Sight {
        redirected_by_rules: netns.rewrites_own_connections()?,
        listed: listed.map(|pod| pod.name.clone()),
        addresses,
        evidence,
        netns,
    }))
}

/// The proxy's user with the numbers of the initial user namespace, where they are known.
fn of_host(proxy: ProxyUser, netns: &Netns) -> ProxyUser {
    let Ok(users) = netns.users() else {
        return proxy;
    };
    ProxyUser {
        uid: users.user(proxy.uid).unwrap_or(u32::MAX),
        gid: users.group(proxy.gid).unwrap_or(u32::MAX),
        validator: proxy.validator.and_then(|uid| users.user(uid)),
        ..proxy
    }
}

/// The addresses of an interface at which other hosts can reach the Pod.
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
