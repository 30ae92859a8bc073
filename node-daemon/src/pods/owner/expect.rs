//! Pods of which a list tells, with their addresses and annotations but not with their network
//! namespaces. One whose namespace is found is taken in at once. The others are awaited: the kernel
//! compares every caller that it does not know with their addresses, and names the namespace of the
//! first that connects from one.

use std::net::IpAddr;

use sluice_abi::Process;
use tracing::{error, warn};

use super::{Owner, name};
use crate::pods::{
    Error, Expected,
    enrol::{Enrolment, Site},
    error::one_line,
    plan::{self, Held},
    policy::{Settings, Verdict},
    survey::Survey,
};

/// Cookies count up from one (`gen_cookie_next`, `linux/cookie.h`): none is ever as large.
const PROVISIONAL: u64 = 1 << 63;

/// A Pod whose network namespace is not known.
pub(super) struct Awaited {
    pod: Expected,
    kernel: Enrolment,
}

impl Owner {
    /// Notes what a list of this node's Pods tells of, in place of the list before.
    pub(in crate::pods) fn note_list(&mut self, listed: Vec<Expected>) {
        self.expected = listed;
    }

    /// Takes in the Pods of the list.
    pub(in crate::pods) fn expect(&mut self, survey: Survey) {
        self.correct(&survey);
        let left = self.adopt(survey);
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

    /// Removes what the kernel noted of namespaces in which an awaited Pod's address is, and that are
    /// not that Pod's. Those that are have been adopted before.
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
        let is_named = |(cookie, process): &(u64, Process)| {
            *cookie != process.pod.cookie && self.awaited.contains_key(&process.pod.cookie)
        };
        let named: Vec<u64> = (named.iter().filter(|one| is_named(one)))
            .map(|(cookie, _)| *cookie)
            .collect();
        let mut removed = 0;
        for cookie in named {
            match self.datapath.remove_process(cookie) {
                Ok(()) => removed += 1,
                Err(error) => error!(
                    netns_cookie = cookie,
                    error = one_line(&error),
                    "entry of a namespace that is not an awaited Pod's stays"
                ),
            }
        }
        if removed > 0
            && let Some(dropped) = self.stranger_log.pass()
        {
            warn!(
                removed,
                dropped,
                "network namespaces have the address of an awaited Pod and are not that Pod's"
            );
        }
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
