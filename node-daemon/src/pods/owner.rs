//! The registry of attachments and the state of their Pods, in one hand.

mod check;
mod expect;
mod explain;
mod found;
#[cfg(fuzzing)]
pub(crate) mod fuzz;
mod inside;
mod restore;
mod retire;
mod upkeep;
mod view;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
};

use daemon_api::{Admit, Admitted, Attachment, PodName};
use sluice_abi::Addr;
use tracing::{info, warn};

use expect::Awaited;
pub(crate) use view::Reading;

use super::{
    Error, Expected, Repairs, Rules, Tombstones, addresses,
    enrol::{Enrolment, PASSTHROUGH, Site},
    error::one_line,
    evidence::Doubt,
    lists,
    plan::{self, Held},
    policy::{self, Settings, Subject, Verdict},
    store::{Record, Slot, Store},
    survey::Lodging,
};
use crate::{
    bpf::{Datapath, Pins},
    limit::LogLimit,
    netns::{self, Netns},
};
use found::is_reported;
use inside::seen_inside;

/// Owns the kernel side and knows every attachment.
pub(crate) struct Owner {
    datapath: Datapath,
    rules: Rules,
    store: Store,
    tombstones: Tombstones,
    repairs: Repairs,
    attachments: BTreeMap<Attachment, Known>,
    /// By the cookie of the network namespace. Several attachments may share one.
    pods: BTreeMap<u64, Enrolled>,
    /// Network namespaces that the kernel serves and of which no record tells: they stay as they
    /// are, because their Pods would run open otherwise.
    nameless: BTreeMap<u64, Enrolment>,
    /// The Pods of this node, as a list told of them.
    expected: Vec<Expected>,
    /// Those whose network namespace is not known, by a cookie that stands for it.
    awaited: BTreeMap<u64, Awaited>,
    /// How many namespaces were not believed to be Pods in the last survey, and how many strangers'
    /// there were.
    doubts: (BTreeMap<Doubt, usize>, usize),
    /// Of lines that strangers cause.
    stranger_log: LogLimit,
}

/// An attachment that was looked at.
struct Known {
    slot: Slot,
    record: Record,
    standing: Standing,
}

#[derive(Clone, Copy)]
enum Standing {
    Meshed { cookie: u64, mesh: &'static str },
    LeftAlone { because: &'static str },
}

/// A network namespace whose traffic is intercepted.
struct Enrolled {
    id: netns::Id,
    path: PathBuf,
    settings: Settings,
    /// In the order in which they came: the first one's addresses are the Pod's main ones, unless
    /// routes prefer others.
    attachments: Vec<Attachment>,
    kernel: Enrolment,
}

impl Owner {
    /// Knows nothing yet: see [`Owner::restore`].
    fn new(datapath: Datapath, store: Store, tombstones: Tombstones, rules: Rules) -> Self {
        Self {
            datapath,
            rules,
            store,
            tombstones,
            repairs: Repairs::default(),
            attachments: BTreeMap::new(),
            pods: BTreeMap::new(),
            nameless: BTreeMap::new(),
            expected: Vec::new(),
            awaited: BTreeMap::new(),
            doubts: Default::default(),
            stranger_log: LogLimit::default(),
        }
    }

    pub(super) fn admit(&mut self, request: Admit) -> Result<Admitted, Error> {
        self.admit_in(request, None)
    }

    /// In a network namespace that is open already, if it is: its path may lead elsewhere by now.
    fn admit_in(&mut self, request: Admit, netns: Option<Netns>) -> Result<Admitted, Error> {
        let container = request.attachment.container_id.clone();
        let pod = name(&request.pod);
        let standing = match self.verdict(&request)? {
            Verdict::Mesh(settings) => {
                let visit = || Netns::visit(Path::new(&request.netns));
                let netns = netns.map_or_else(visit, Ok)?;
                self.mesh(request, *settings, &netns)?
            }
            Verdict::LeaveAlone(because) => self.leave_alone(request, because)?,
        };
        let answer = Admitted {
            meshed: standing.is_meshed(),
            because: standing.because(),
        };
        let (meshed, because) = (answer.meshed, &answer.because);
        info!(container, %pod, meshed, because, "admitted");
        Ok(answer)
    }

    /// What is to be done with a Pod on this node.
    fn verdict<'a>(&self, pod: impl Into<Subject<'a>>) -> Result<Verdict, Error> {
        let mut verdict = policy::decide(&self.rules, pod)?;
        if let Verdict::Mesh(settings) = &mut verdict {
            lists::check(settings)?;
            settings.acceleration = Some(self.rules.acceleration.of_pod(settings.acceleration));
        }
        Ok(verdict)
    }

    /// The addresses are not checked: nothing is done with them. Only a Pod that had them
    /// before and is gone must not be taken for this one.
    fn leave_alone(&mut self, request: Admit, because: &'static str) -> Result<Standing, Error> {
        self.retire(&request.attachment)?;
        for address in &request.addresses {
            if let Some(cookie) = self.owner_of(address.ip.to_canonical().into())?
                && !self.is_alive(cookie)
            {
                self.let_go(cookie)?;
            }
        }
        let slot = self.store.new_slot();
        let record = self.store.record(request, None, false);
        self.store.put(slot, &record)?;
        let standing = Standing::LeftAlone { because };
        self.know(slot, record, standing);
        Ok(standing)
    }

    fn mesh(
        &mut self,
        mut request: Admit,
        settings: Settings,
        netns: &Netns,
    ) -> Result<Standing, Error> {
        lists::check_addresses(request.addresses.len())?;
        let interfaces = netns.interfaces()?;
        let settings = seen_inside(settings, netns, &interfaces, self.datapath.features())?;
        let id = netns.id();
        let ifname = &request.attachment.ifname;
        if request.addresses.is_empty() {
            request.addresses = addresses::of_interface(&interfaces, ifname);
        }
        let addresses = addresses::verify(&request.addresses, &interfaces)?;
        // A second interface may be without: the Pod is reached at the first one's.
        if addresses.is_empty() && !self.pods.contains_key(&id.cookie) {
            let interface = ifname.clone();
            return Err(addresses::Error::Nowhere { interface }.into());
        }
        self.is_free(netns, &request.attachment)?;
        self.claim(&addresses, id.cookie, is_reported(&request.attachment))?;
        if self
            .cookie_of(&request.attachment)
            .is_some_and(|old| old != id.cookie)
        {
            self.retire(&request.attachment)?;
        }
        let there = (interfaces.iter()).any(|one| one.addresses.contains(&PASSTHROUGH));
        let ours = |pod: &Enrolled| pod.kernel.held().passthrough;
        let passthrough = !there || self.pods.get(&id.cookie).is_some_and(ours);
        let standing = Standing::Meshed {
            cookie: id.cookie,
            mesh: &settings.mesh.name,
        };
        let record = self.store.record(request, Some(id), passthrough);
        self.enrol(netns, settings, record, standing)?;
        self.settle(&addresses)?;
        Ok(standing)
    }

    /// Makes sure that a network namespace is not another Pod's. All attachments of a Pod have its
    /// sandbox's container id; what was found running has none yet.
    fn is_free(&self, netns: &Netns, attachment: &Attachment) -> Result<(), Error> {
        let cookie = netns.id().cookie;
        let members = self.pods.get(&cookie).map(|pod| &*pod.attachments);
        let foreign = |one: &Attachment| {
            one.container_id != attachment.container_id && !one.network.is_empty()
        };
        if members.unwrap_or_default().iter().any(foreign) {
            return Err(Error::Occupied {
                netns: netns.path().into(),
                owner: self.name_of(cookie),
            });
        }
        Ok(())
    }

    /// Makes sure that no other Pod has these addresses: see [`Owner::release_address`].
    fn claim(&mut self, addresses: &[IpAddr], cookie: u64, reported: bool) -> Result<(), Error> {
        for address in addresses {
            let other = self.owner_of((*address).into())?;
            let another = |one: &u64| *one != cookie && !self.is_awaited(*one);
            if let Some(other) = other.filter(another) {
                self.release_address(*address, other, reported)?;
            }
        }
        Ok(())
    }

    /// The record is written first: if the daemon dies on the way, the next one finishes.
    fn enrol(
        &mut self,
        netns: &Netns,
        settings: Settings,
        record: Record,
        standing: Standing,
    ) -> Result<(), Error> {
        let attachment = record.request.attachment.clone();
        let mut pod = self.take_pod(netns, &settings);
        let mut members = pod.attachments.clone();
        if !members.contains(&attachment) {
            members.push(attachment.clone());
        }
        let mut all = Vec::new();
        for member in &members {
            let known = self.attachments.get(member).map(|known| &known.record);
            let record = if *member == attachment {
                Some(&record)
            } else {
                known
            };
            all.extend(record.into_iter().flat_map(Record::addresses));
        }
        if let Err(error) = lists::check_addresses(all.len()) {
            self.put_pod(netns.id().cookie, pod);
            return Err(error.into());
        }
        let wanted = plan::wanted(netns.id().cookie, &settings, &all, record.passthrough);

        let before = self.attachments.get(&attachment);
        let before = before.map(|known| (known.slot, known.record.clone()));
        let slot = match before {
            Some((slot, _)) => slot,
            None => self.store.new_slot(),
        };
        let mut site = Site {
            datapath: &mut self.datapath,
            netns: Some(netns),
        };
        let done = (self.store.put(slot, &record).map_err(Error::from))
            .and_then(|()| pod.kernel.take_in(&mut site, wanted));
        if done.is_ok() {
            netns.path().clone_into(&mut pod.path);
            pod.settings = settings;
            pod.attachments = members;
            self.know(slot, record, standing);
        } else {
            self.unwrite(slot, before.map(|(_, record)| record));
        }
        self.put_pod(netns.id().cookie, pod);
        done
    }

    /// Brings the store back to where it was before an enrolment that failed.
    fn unwrite(&self, slot: Slot, before: Option<Record>) {
        let done = match before {
            Some(record) => self.store.put(slot, &record),
            None => self.store.remove(slot),
        };
        if let Err(error) = done {
            warn!(error = one_line(&error), "a record could not be taken back");
        }
    }

    /// Takes a Pod out to change it, or begins a new one.
    fn take_pod(&mut self, netns: &Netns, settings: &Settings) -> Enrolled {
        let id = netns.id();
        self.pods.remove(&id.cookie).unwrap_or_else(|| Enrolled {
            id,
            path: netns.path().into(),
            settings: settings.clone(),
            attachments: Vec::new(),
            kernel: (self.nameless.remove(&id.cookie))
                .unwrap_or_else(|| Enrolment::of(id.cookie, Held::default())),
        })
    }

    /// Puts a Pod back, unless nothing is left of it.
    fn put_pod(&mut self, cookie: u64, pod: Enrolled) {
        if !pod.attachments.is_empty() {
            self.pods.insert(cookie, pod);
        } else if *pod.kernel.held() != Held::default() {
            self.nameless.insert(cookie, pod.kernel);
        }
    }

    fn know(&mut self, slot: Slot, record: Record, standing: Standing) {
        let attachment = record.request.attachment.clone();
        let known = Known {
            slot,
            record,
            standing,
        };
        self.attachments.insert(attachment, known);
    }

    /// Gives everything away that is needed to end the data path.
    pub(super) fn into_parts(self) -> (Pins, Store, Vec<(Slot, Record)>) {
        let Self {
            datapath,
            store,
            attachments,
            ..
        } = self;
        let records = attachments.into_values();
        let records = records.map(|known| (known.slot, known.record)).collect();
        (datapath.into_pins(), store, records)
    }

    fn cookie_of(&self, attachment: &Attachment) -> Option<u64> {
        match self.attachments.get(attachment)?.standing {
            Standing::Meshed { cookie, .. } => Some(cookie),
            Standing::LeftAlone { .. } => None,
        }
    }

    /// The meshed Pod that has an address: the kernel's own table is the index.
    fn owner_of(&self, addr: Addr) -> Result<Option<u64>, Error> {
        let found = self.datapath.address(addr)?;
        Ok(found.map(|pod| pod.cookie))
    }

    fn is_alive(&self, cookie: u64) -> bool {
        match self.pods.get(&cookie) {
            Some(pod) => pod.is_alive(self.addresses_of(cookie)),
            None => self.nameless.contains_key(&cookie) && self.datapath.is_steered(cookie),
        }
    }

    fn name_of(&self, cookie: u64) -> String {
        let first = (self.pods.get(&cookie)).and_then(|pod| pod.attachments.first());
        let known = first.and_then(|one| self.attachments.get(one));
        known.map_or_else(
            || format!("in the network namespace with cookie {cookie}"),
            |Known { record, .. }| {
                let Admit {
                    pod, attachment, ..
                } = &record.request;
                format!("{} (container {})", name(pod), attachment.container_id)
            },
        )
    }
}

impl Enrolled {
    /// The network namespace, if the path still leads to it.
    fn reopen(&self) -> Option<Netns> {
        let found = Netns::open(&self.path).ok()?;
        (found.id() == self.id).then_some(found)
    }

    /// Whether its namespace is there and has one of the Pod's addresses, or a process. A mount of a
    /// namespace may outlive the Pod.
    fn is_alive(&self, addresses: Vec<IpAddr>) -> bool {
        let Self { id, path, .. } = self;
        let lodging = Lodging {
            id: *id,
            path: path.clone(),
            addresses,
        };
        self.reopen()
            .is_some_and(|netns| lodging.is_inhabited(&netns))
    }
}

impl Standing {
    fn is_meshed(self) -> bool {
        matches!(self, Self::Meshed { .. })
    }

    fn because(self) -> String {
        match self {
            Self::Meshed { mesh, .. } => format!("it carries the sidecar of {mesh}"),
            Self::LeftAlone { because } => because.to_owned(),
        }
    }
}

fn name(pod: &PodName) -> String {
    format!("{}/{}", pod.namespace, pod.name)
}

#[cfg(test)]
mod tests;
