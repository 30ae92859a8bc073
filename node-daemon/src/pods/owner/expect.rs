//! Pods of which a list tells, with their addresses and annotations but not with their network
//! namespaces. One whose namespace is found is taken in at once. The others are awaited: the kernel
//! compares every caller that it does not know with their addresses, and names the namespace of the
//! first that connects from one.

use std::{net::IpAddr, path::Path};

use daemon_api::{Admit, PodAddress};
use tracing::{error, info, warn};

use super::{Owner, name};
use crate::{
    cgroup,
    netns::{self, Netns},
    pods::{
        Error, Expected, Repair,
        enrol::{Enrolment, Site},
        error::one_line,
        plan::{self, Held},
        policy::{Settings, Verdict},
    },
};

/// Cookies count up from one (`gen_cookie_next`, `linux/cookie.h`): none is ever as large.
const PROVISIONAL: u64 = 1 << 63;

/// A Pod whose network namespace is not known.
pub(super) struct Awaited {
    pod: Expected,
    kernel: Enrolment,
}

impl Owner {
    /// Takes in what a list of this node's Pods tells of, in place of the list before.
    pub(in crate::pods) fn expect(&mut self, listed: Vec<Expected>) {
        self.expected = listed;
        self.correct();
        let left = self.find();
        let meshed: Vec<_> = (self.expected.iter())
            .filter(|pod| !pod.addresses.iter().any(|ip| left.contains(ip)))
            .filter_map(|pod| Some((pod.clone(), self.settings_of(pod)?)))
            .collect();
        for (pod, settings) in meshed {
            let who = name(&pod.pod);
            if let Err(error) = self.await_namespace(pod, &settings) {
                error!(
                    pod = who,
                    error = one_line(&error),
                    "its network namespace is not found, and it stays unmeshed"
                );
            }
        }
        self.announce();
    }

    /// Brings Pods that were found running to what the list tells of them. Until it came they had
    /// the mesh's defaults.
    fn correct(&mut self) {
        let found = (self.attachments.values()).map(|known| &known.record.request);
        let found = found.filter(|request| request.attachment.network.is_empty());
        let told: Vec<_> = (found.filter_map(|request| self.as_told(request))).collect();
        for request in told {
            let pod = name(&request.pod);
            let done = match self.verdict(&request) {
                Ok(Verdict::Mesh(_)) => self.admit(request).map(drop),
                Ok(Verdict::LeaveAlone(_)) => self.retire(&request.attachment).map(drop),
                Err(error) => Err(error),
            };
            if let Err(error) = done {
                error!(
                    pod,
                    error = one_line(&error),
                    "found running, and stays with the mesh's defaults"
                );
            }
        }
    }

    /// The report of a Pod that was found running, with what the list adds to it, if it does.
    fn as_told(&self, request: &Admit) -> Option<Admit> {
        let listed = self.expected_at(&request.addresses)?;
        let told = Admit {
            pod: listed.pod.clone(),
            annotations: Some(listed.annotations.clone()),
            manifest: listed.manifest.clone(),
            ..request.clone()
        };
        let netns = Netns::open(Path::new(&request.netns)).ok()?;
        (told != *request && self.is_home(&netns, listed)).then_some(told)
    }

    /// The Pod of the list that has one of these addresses.
    pub(super) fn expected_at(&self, addresses: &[PodAddress]) -> Option<&Expected> {
        let has = |pod: &&Expected| addresses.iter().any(|one| pod.addresses.contains(&one.ip));
        self.expected.iter().find(has)
    }

    /// Whether a network namespace is a listed Pod's, and not somebody's who gave himself its
    /// address: the kubelet knows who is in it.
    pub(super) fn is_home(&self, netns: &Netns, pod: &Expected) -> bool {
        let uid = &pod.pod.uid;
        let processes = cgroup::processes(self.datapath.cgroup());
        uid.is_empty()
            || netns::members(&processes, netns.id()).any(|one| cgroup::is_of_pod(one, uid))
    }

    /// How the list's Pod is meshed, if it is.
    pub(super) fn settings_of(&self, pod: &Expected) -> Option<Settings> {
        match self.verdict(pod) {
            Ok(Verdict::Mesh(settings)) => Some(*settings),
            Ok(Verdict::LeaveAlone(_)) => None,
            Err(error) => {
                error!(
                    pod = name(&pod.pod),
                    error = one_line(&error),
                    "it runs already, and stays as it is"
                );
                None
            }
        }
    }

    /// Writes everything but what needs a network namespace, under a cookie that no namespace has.
    fn await_namespace(&mut self, pod: Expected, settings: &Settings) -> Result<(), Error> {
        for address in &pod.addresses {
            if self.owner_of((*address).into())?.is_some() {
                return Ok(());
            }
        }
        let cookie = self.awaited.keys().next_back();
        let cookie = cookie.map_or(PROVISIONAL, |last| last + 1);
        let wanted = plan::wanted(cookie, settings, &pod.addresses, false);
        let routes = wanted.routes.clone();
        let wanted = Held {
            steered: false,
            ..wanted.without(&routes)
        };
        let mut kernel = Enrolment::of(cookie, Held::default());
        let mut site = Site {
            datapath: &mut self.datapath,
            netns: None,
        };
        kernel.take_in(&mut site, wanted)?;
        warn!(
            pod = name(&pod.pod),
            "its network namespace is not found: awaited"
        );
        self.awaited.insert(cookie, Awaited { pod, kernel });
        Ok(())
    }

    /// Tells the kernel who is awaited.
    fn announce(&mut self) {
        let awaited: Vec<_> = self.awaited.keys().copied().collect();
        if let Err(error) = self.datapath.set_awaited(&awaited) {
            error!(
                error = one_line(&error),
                "the kernel does not know whom to await"
            );
        }
    }

    /// Takes in every Pod whose network namespace the kernel has named.
    pub(in crate::pods) fn learn(&mut self) {
        if self.awaited.is_empty() {
            return;
        }
        let named = match self.datapath.all_processes() {
            Ok(all) => all,
            Err(error) => {
                return error!(
                    error = one_line(&error),
                    "what the kernel learned cannot be read"
                );
            }
        };
        for (cookie, process) in named {
            let Some(awaited) = self.awaited.get(&process.pod.cookie) else {
                continue;
            };
            if cookie == process.pod.cookie {
                continue;
            }
            let pod = awaited.pod.clone();
            let who = name(&pod.pod);
            match self.upgrade(cookie, pod) {
                Ok(()) => {
                    self.repairs.count(Repair::NamedByKernel);
                    info!(cookie, pod = who, "named by the kernel, and taken in");
                }
                Err(error) => {
                    error!(
                        cookie,
                        pod = who,
                        error = one_line(&error),
                        "named by the kernel, but only half meshed"
                    );
                }
            }
        }
    }

    fn upgrade(&mut self, cookie: u64, pod: Expected) -> Result<(), Error> {
        let netns = self.search(|id| id.cookie == cookie).ok_or(Error::Gone)?;
        if !self.is_home(&netns, &pod) {
            self.datapath.remove_process(cookie)?;
            return Err(Error::Stranger(name(&pod.pod)));
        }
        let mut request = Self::report(&netns, &netns.interfaces()?);
        request
            .addresses
            .retain(|one| pod.addresses.contains(&one.ip));
        request.pod = pod.pod;
        request.annotations = Some(pod.annotations);
        request.manifest = pod.manifest;
        self.admit(request).map(drop)
    }

    /// Whether a cookie stands for a network namespace that is not known.
    pub(super) fn is_awaited(&self, cookie: u64) -> bool {
        self.awaited.contains_key(&cookie)
    }

    /// Awaits no longer who has one of these addresses: they are a known Pod's now.
    pub(super) fn settle(&mut self, addresses: &[IpAddr]) -> Result<(), Error> {
        let has = |awaited: &Awaited| {
            addresses
                .iter()
                .any(|ip| awaited.pod.addresses.contains(ip))
        };
        let found: Vec<_> = (self.awaited.iter())
            .filter(|(_, awaited)| has(awaited))
            .map(|(cookie, _)| *cookie)
            .collect();
        found
            .into_iter()
            .try_for_each(|cookie| self.part(cookie, addresses))
    }

    /// Awaits a Pod no longer, if it does. `taken`: its addresses that are another's already.
    pub(super) fn part(&mut self, cookie: u64, taken: &[IpAddr]) -> Result<(), Error> {
        let Some(awaited) = self.awaited.get_mut(&cookie) else {
            return Ok(());
        };
        awaited.kernel.forget(|mut held| {
            (held.addresses).retain(|addr, _| !taken.contains(&IpAddr::from(*addr)));
            held
        });
        let mut site = Site {
            datapath: &mut self.datapath,
            netns: None,
        };
        awaited.kernel.let_go(&mut site, Held::default())?;
        for (namespace, process) in self.datapath.all_processes()? {
            if process.pod.cookie == cookie {
                self.datapath.remove_process(namespace)?;
            }
        }
        self.awaited.remove(&cookie);
        self.announce();
        Ok(())
    }
}
