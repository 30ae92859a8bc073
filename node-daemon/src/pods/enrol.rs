//! Carries the steps of a plan out: all of them, or none.

use std::{
    cell::Cell,
    net::{IpAddr, Ipv6Addr},
    os::fd::AsFd as _,
};

use fail::fail_point;
use tracing::{debug, warn};

use super::{
    Error,
    error::one_line,
    plan::{self, Held, Step},
};
use crate::{
    bpf::{self, Datapath, Features},
    netns::{Netns, ProxyUser, Source},
};

/// Where Istio's proxy connects from when it hands a request to its application over IPv6.
pub(crate) const PASSTHROUGH: IpAddr = IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6));

/// The kernel's state of one network namespace, as an owned value.
pub(crate) struct Enrolment {
    cookie: u64,
    held: Held,
    foreign_listeners: Cell<usize>,
}

/// What steps work on.
pub(crate) struct Site<'a> {
    /// The kernel side.
    pub(crate) datapath: &'a mut Datapath,
    /// The Pod's network namespace, unless it is gone.
    pub(crate) netns: Option<&'a Netns>,
}

impl Enrolment {
    /// What the kernel holds already.
    pub(crate) fn of(cookie: u64, held: Held) -> Self {
        Self {
            cookie,
            held,
            foreign_listeners: Cell::new(0),
        }
    }

    /// How many sockets listened on the proxy's ports that another user had made, when the
    /// listeners were fetched.
    pub(crate) fn foreign_listeners(&self) -> usize {
        self.foreign_listeners.get()
    }

    /// What the kernel holds.
    pub(crate) fn held(&self) -> &Held {
        &self.held
    }

    /// Notes that the kernel lost something.
    pub(crate) fn forget(&mut self, lost: impl FnOnce(Held) -> Held) {
        self.held = lost(std::mem::take(&mut self.held));
    }

    /// Changes the kernel's state. If a step fails, those before it are taken back; without routes
    /// that the namespace refuses the Pod does.
    pub(crate) fn take_in(&mut self, site: &mut Site<'_>, wanted: Held) -> Result<(), Error> {
        match self.take_all(site, &wanted) {
            Ok(()) => {
                self.held = wanted;
                Ok(())
            }
            Err(Error::Unrouted { refused }) => self.take_in(site, wanted.without(&refused)),
            Err(error) => Err(error),
        }
    }

    fn take_all(&self, site: &mut Site<'_>, wanted: &Held) -> Result<(), Error> {
        let mut done = Vec::new();
        for step in plan::steps(&self.held, wanted) {
            if let Err(error) = self.take(site, &step) {
                self.roll_back(site, done);
                return Err(error);
            }
            done.push(step);
        }
        Ok(())
    }

    /// Changes the kernel's state as far as possible. After an error everything may be tried
    /// again: each step can be repeated.
    pub(crate) fn let_go(&mut self, site: &mut Site<'_>, wanted: Held) -> Result<(), Error> {
        let errors: Vec<_> = plan::steps(&self.held, &wanted)
            .iter()
            .filter_map(|step| self.take(site, step).err())
            .collect();
        if errors.is_empty() {
            self.held = wanted;
            return Ok(());
        }
        let unrouted = errors.iter().find_map(|error| match error {
            Error::Unrouted { refused } => Some(refused),
            _ => None,
        });
        if let Some(refused) = unrouted {
            return self.let_go(site, wanted.without(refused));
        }
        Err(Error::LetGo { errors })
    }

    fn roll_back(&self, site: &mut Site<'_>, done: Vec<Step>) {
        for undo in done.into_iter().rev().filter_map(Step::undo) {
            if let Err(error) = self.take(site, &undo) {
                warn!(
                    ?undo,
                    error = one_line(&error),
                    "a step could not be taken back"
                );
            }
        }
    }

    fn take(&self, site: &mut Site<'_>, step: &Step) -> Result<(), Error> {
        fail_point!("crash", |_| crate::crash::now());
        let Site { datapath, netns } = site;
        match step {
            Step::List(entry) => datapath.list(entry)?,
            Step::Unlist(entry) => datapath.unlist(entry)?,
            Step::Address { addr, to, .. } => match to {
                Some(pod) => datapath.set_address(*addr, pod)?,
                None => datapath.remove_address(*addr)?,
            },
            Step::Process { to, .. } => match to {
                Some(process) => datapath.set_process(self.cookie, process)?,
                None => datapath.remove_process(self.cookie)?,
            },
            Step::Routes { from, to } => {
                let features = datapath.features();
                match netns {
                    Some(netns) => lay(netns, features, from, to)?,
                    // If the namespace is gone, so are they.
                    None if to.is_empty() => {}
                    None => return Err(Error::Gone),
                }
            }
            Step::Steer => datapath.steer(self.cookie, netns.ok_or(Error::Gone)?.as_fd())?,
            Step::Release => datapath.release(self.cookie)?,
            Step::AddPassthrough => {
                netns.ok_or(Error::Gone)?.add_to_loopback(PASSTHROUGH)?;
            }
            // If the namespace is gone, so is the address.
            Step::RemovePassthrough => {
                if let Some(netns) = netns {
                    netns.remove_from_loopback(PASSTHROUGH)?;
                }
            }
            Step::FetchListeners => self.fetch_listeners(datapath, netns.ok_or(Error::Gone)?)?,
        }
        Ok(())
    }

    fn fetch_listeners(&self, datapath: &mut Datapath, netns: &Netns) -> Result<(), Error> {
        let Some(process) = datapath.process(self.cookie)? else {
            return Ok(());
        };
        let proxy = ProxyUser::of(&process.pod);
        let listening = netns.listening()?;
        let dns = netns.fetch(&listening, process.pod.dns_port.get(), proxy)?;
        let outbound = netns.fetch(&listening, process.pod.outbound_port.get(), proxy)?;
        let inbound = netns.fetch(&listening, process.pod.inbound_port.get(), proxy)?;
        self.foreign_listeners
            .set(dns.foreign + outbound.foreign + inbound.foreign);
        if !dns.listeners.is_empty() {
            datapath.capture_dns(self.cookie)?;
        }
        for listener in inbound.listeners {
            let socket = listener.socket.as_fd();
            match datapath.add_listener(self.cookie, listener.family, socket) {
                Ok(()) => debug!(cookie = self.cookie, "found a listening proxy"),
                // Those that have a place serve the whole SO_REUSEPORT group.
                Err(bpf::Error::NoPlace { .. }) => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// Puts routes in the place of others. What leads to an address of IPv6 leads everybody there, so the
/// inbound hook must see who comes by another interface than `lo`.
fn lay(netns: &Netns, features: Features, from: &[Source], to: &[Source]) -> Result<(), Error> {
    let stays = |network| to.iter().any(|route| route.to == network);
    let gone = from.iter().map(|route| route.to);
    let gone = gone.filter(|network| !stays(*network)).collect();
    let is_safe = |route: &Source| route.from.is_ipv4() || features.ingress;
    let (new, mut refused): (Vec<_>, Vec<_>) = to.iter().partition(|route| is_safe(route));
    refused.extend(netns.lay(gone, new)?);
    if refused.is_empty() {
        return Ok(());
    }
    debug!(
        ?refused,
        "routes are refused: connections are bound instead"
    );
    Err(Error::Unrouted { refused })
}
