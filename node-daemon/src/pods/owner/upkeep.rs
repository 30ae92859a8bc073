//! What the owner does unasked: finds Pods that nobody reported, mends what was taken from it, and
//! lets go of Pods whose end nobody reported.

use std::{net::IpAddr, path::Path};

use daemon_api::{Admit, Attachment, PodAddress, PodName};
use tracing::{debug, error, info, warn};

use super::{Owner, name};
use crate::{
    cgroup,
    netns::{self, Interface, Netns},
    pods::{Error, Repair, enrol::Site, error::one_line, plan::Held, policy},
};

/// What a network namespace that nobody reported is.
enum Seen {
    /// A Pod with a sidecar: the request that the plugin would have made.
    Sidecar(Box<Admit>),
    /// One whose own rules divert its traffic, with its addresses.
    Diverted(Vec<PodAddress>),
    /// None of our business, or a Pod that is meshed already.
    Nothing,
}

impl Owner {
    /// One round of everything.
    pub(in crate::pods) fn keep_up(&mut self) {
        self.mend();
        self.bury();
        self.follow_routes();
        self.mend_routes();
        self.forget_destinations();
        self.find();
        self.learn();
    }

    /// Removes what Pods that are gone had asked for. Not when they go: all of it must be looked at.
    pub(super) fn forget_destinations(&mut self) {
        match self.datapath.forget_destinations() {
            Ok(0) => {}
            Ok(count) => debug!(count, "destinations of Pods that are gone are removed"),
            Err(error) => warn!(
                error = one_line(&error),
                "destinations of Pods that are gone are left"
            ),
        }
    }

    /// Lets go of what was to be let go while no daemon could hear of it.
    pub(in crate::pods) fn bury(&mut self) {
        for tombstone in self.tombstones.all() {
            let done = if let Some(attachment) = &tombstone.attachment {
                self.retire(attachment).map(|retired| {
                    if !retired.attachments.is_empty() {
                        self.repairs.count(Repair::EndedUnheard);
                    }
                })
            } else {
                warn!(
                    ?tombstone,
                    "what the plugin left cannot be understood: removed"
                );
                Ok(())
            };
            let done = done.map_err(|error| one_line(&error));
            let done = done.and_then(|()| tombstone.remove().map_err(|error| error.to_string()));
            if let Err(error) = done {
                error!(?tombstone, error, "what the plugin left stays");
            }
        }
    }

    /// Takes in Pods that carry a sidecar and were there before the daemon, in place.
    ///
    /// Those of which no list tells are known by a proxy that listens, and get the mesh's defaults.
    /// A Pod whose own rules divert its traffic needs nothing.
    ///
    /// Returns the addresses of those that were found and are left as they are.
    pub(in crate::pods) fn find(&mut self) -> Vec<IpAddr> {
        let processes = cgroup::processes(self.datapath.cgroup());
        let mut left = Vec::new();
        for path in netns::existing(&processes, &self.known_paths()) {
            let taken_in = self.look_at(&path).and_then(|found| match found {
                Seen::Sidecar(request) => self.admit(*request).map(|_| true),
                Seen::Diverted(addresses) => {
                    left.extend(addresses.into_iter().map(|one| one.ip));
                    Ok(false)
                }
                Seen::Nothing => Ok(false),
            });
            match taken_in {
                Ok(true) => {
                    self.repairs.count(Repair::FoundRunning);
                    info!(netns = %path.display(), "found running, and taken in");
                }
                Ok(false) => {}
                // It may end while it is looked at.
                Err(_) if !path.exists() => {}
                Err(error) => {
                    error!(netns = %path.display(), error = one_line(&error), "found running, but it stays unmeshed");
                }
            }
        }
        left
    }

    /// A namespace of which only the identity is known.
    pub(super) fn search(&self, is_it: impl Fn(netns::Id) -> bool) -> Option<Netns> {
        let processes = cgroup::processes(self.datapath.cgroup());
        let paths = netns::existing(&processes, &[]);
        let mut opened = paths.iter().filter_map(|path| Netns::open(path).ok());
        opened.find(|netns| is_it(netns.id()))
    }

    fn known_paths(&self) -> Vec<&Path> {
        let reported = self.attachments.values();
        let reported = reported.map(|known| Path::new(&known.record.request.netns));
        reported
            .chain(self.pods.values().map(|pod| &*pod.path))
            .collect()
    }

    /// What is at `path`.
    fn look_at(&self, path: &Path) -> Result<Seen, Error> {
        let netns = Netns::open(path)?;
        let cookie = netns.id().cookie;
        if self.pods.contains_key(&cookie) || self.nameless.contains_key(&cookie) {
            return Ok(Seen::Nothing);
        }
        let interfaces = netns.interfaces()?;
        let mut request = Self::report(&netns, &interfaces);
        match self.expected_at(&request.addresses) {
            Some(pod) if !self.is_home(&netns, pod) => {
                return Err(Error::Stranger(name(&pod.pod)));
            }
            Some(pod) if self.settings_of(pod).is_none() => return Ok(Seen::Nothing),
            Some(pod) => {
                request.pod = pod.pod.clone();
                request.annotations = Some(pod.annotations.clone());
                request.manifest.clone_from(&pod.manifest);
            }
            None if netns.listens_on(&[self.rules.mesh.outbound, self.rules.mesh.inbound])? => {
                request.annotations = Some(policy::injected(self.rules.mesh));
            }
            None => return Ok(Seen::Nothing),
        }
        if netns.rewrites_own_connections()? {
            debug!(netns = %path.display(), "its own rules divert its traffic");
            return Ok(Seen::Diverted(request.addresses));
        }
        Ok(Seen::Sidecar(request.into()))
    }

    /// What the plugin would have reported of a namespace, without what only the runtime knows.
    pub(super) fn report(netns: &Netns, interfaces: &[Interface]) -> Admit {
        Admit {
            attachment: Attachment {
                // No network of CNI has this name: its GC leaves the Pod alone.
                network: String::new(),
                container_id: format!("netns-{}", netns.id().cookie),
                ifname: "eth0".to_owned(),
            },
            netns: netns.path().display().to_string(),
            addresses: interfaces.iter().flat_map(reachable).collect(),
            pod: PodName::default(),
            annotations: None,
            manifest: None,
        }
    }

    /// Puts hooks back that somebody removed, and lets go of namespaces that are gone.
    fn mend(&mut self) {
        match self.datapath.mend() {
            Ok(false) => {}
            Ok(true) => {
                self.repairs.count(Repair::Hooks);
                warn!("hooks of the cgroup were removed: they are put back");
            }
            Err(error) => {
                error!(
                    error = one_line(&error),
                    "hooks of the cgroup were removed, and cannot be put back"
                );
            }
        }
        let all: Vec<u64> = self
            .pods
            .keys()
            .chain(self.nameless.keys())
            .copied()
            .collect();
        for cookie in all {
            if self.datapath.is_steered(cookie) {
                continue;
            }
            let pod = self.name_of(cookie);
            let (repair, done) = if self.is_alive(cookie) {
                warn!(pod, "the inbound hook of a Pod was removed: it is put back");
                (Repair::InboundHook, self.put_back(cookie))
            } else {
                info!(pod, "a network namespace is gone: its Pod is let go");
                (Repair::Ended, self.let_go(cookie))
            };
            match done {
                Ok(()) => self.repairs.count(repair),
                Err(error) => error!(pod, error = one_line(&error), "not mended"),
            }
        }
    }

    fn put_back(&mut self, cookie: u64) -> Result<(), Error> {
        let Some(pod) = self.pods.get_mut(&cookie) else {
            return Ok(());
        };
        let netns = pod.reopen().ok_or(Error::Gone)?;
        let wanted = pod.kernel.held().clone();
        let mut site = Site {
            datapath: &mut self.datapath,
            netns: Some(&netns),
        };
        pod.kernel.forget(|held| Held {
            steered: false,
            ..held
        });
        pod.kernel.take_in(&mut site, wanted)
    }
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
