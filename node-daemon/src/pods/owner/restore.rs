//! A daemon begins where the one before it ended: what the records tell, the network namespaces
//! that exist and what the kernel holds become one state again.

use std::{collections::BTreeMap, net::IpAddr, path::Path};

use tracing::{error, info, warn};

use super::{Enrolled, Owner, Standing, inside::seen_inside};
use crate::{
    cgroup,
    netns::{self, Netns},
    pods::{
        Error, Inheritance, Repair,
        enrol::{Enrolment, Site},
        error::one_line,
        meetings,
        plan::{self, Fate, Held},
        policy::{Settings, Verdict},
        store::{Record, Slot},
    },
};

/// What a record means now.
enum Meaning {
    Meshed(Netns, Box<Settings>),
    LeftAlone(&'static str),
    /// The Pod is gone.
    Gone,
}

/// A Pod that exists, put together from its records.
struct Found {
    netns: Netns,
    settings: Settings,
    members: Vec<(Slot, Record)>,
}

impl Owner {
    /// Takes over from the daemon before: finishes what it began, and removes what is left of
    /// Pods that are gone. A Pod that cannot be brought to its state keeps the one it has.
    ///
    /// # Errors
    ///
    /// If the kernel's tables cannot be read.
    pub(in crate::pods) fn restore(inheritance: Inheritance) -> Result<Self, Error> {
        let Inheritance {
            datapath,
            store,
            records,
            tombstones,
            rules,
        } = inheritance;
        let mut owner = Self::new(datapath, store, tombstones, rules);
        for _ in 0..owner.store.damaged() {
            owner.repairs.count(Repair::DamagedRecord);
        }
        let mut held = owner.held()?;
        let mut found = BTreeMap::new();
        let mut complete = true;
        for (slot, record) in records {
            complete &= owner.sort(slot, record, &mut found);
        }
        let wanted = (found.iter()).map(|(cookie, pod)| (*cookie, pod.wanted(*cookie)));
        let alive = |cookie| owner.datapath.is_steered(cookie);
        for (cookie, fate) in plan::reconcile(wanted.collect(), held.keys().copied(), alive) {
            let held = held.remove(&cookie).unwrap_or_default();
            let kernel = Enrolment::of(cookie, held);
            let done = match (fate, found.remove(&cookie)) {
                (Fate::Bring(wanted), Some(pod)) => owner.bring(kernel, *wanted, pod),
                (Fate::Keep, _) => {
                    warn!(
                        cookie,
                        "no record tells of this network namespace: it stays meshed"
                    );
                    owner.nameless.insert(cookie, kernel);
                    Ok(())
                }
                _ => owner.drop_rest(kernel),
            };
            if let Err(error) = done {
                let pod = owner.name_of(cookie);
                error!(
                    pod,
                    error = one_line(&error),
                    "a Pod could not be taken over completely"
                );
                complete = false;
            }
        }
        owner.finish(complete);
        owner.forget_destinations();
        Ok(owner)
    }

    /// Older generations serve their Pods until this one does.
    fn finish(&self, complete: bool) {
        let (pods, nameless) = (self.pods.len(), self.nameless.len());
        info!(
            pods,
            nameless,
            adopted = self.datapath.is_adopted(),
            "taken over"
        );
        if !complete {
            return;
        }
        match self.datapath.remove_others() {
            Ok(others) => {
                for path in others {
                    info!(path = %path.display(), "removed what an earlier daemon left");
                }
            }
            Err(error) => warn!(
                error = one_line(&error),
                "not everything that an earlier daemon left was removed"
            ),
        }
    }

    /// What the kernel holds, by network namespace.
    fn held(&self) -> Result<BTreeMap<u64, Held>, Error> {
        let mut all: BTreeMap<u64, Held> = BTreeMap::new();
        for (cookie, process) in self.datapath.all_processes()? {
            let held = all.entry(cookie).or_default();
            held.routes = meetings::told(&process);
            held.process = Some(process);
        }
        for (addr, pod) in self.datapath.all_addresses()? {
            all.entry(pod.cookie)
                .or_default()
                .addresses
                .insert(addr, pod);
        }
        for entry in self.datapath.all_lists()? {
            all.entry(entry.cookie()).or_default().lists.insert(entry);
        }
        for cookie in self.datapath.steered()? {
            // A hook in a namespace that is gone is a pin to be removed, not a hook.
            all.entry(cookie).or_default().steered = true;
        }
        Ok(all)
    }

    /// Finds out what a record means now. `false` if that cannot be told.
    fn sort(&mut self, slot: Slot, record: Record, found: &mut BTreeMap<u64, Found>) -> bool {
        match self.meaning(&record) {
            Ok(Meaning::Meshed(netns, settings)) => {
                let pod = found.entry(netns.id().cookie).or_insert_with(|| Found {
                    netns,
                    settings: *settings,
                    members: Vec::new(),
                });
                pod.members.push((slot, record));
                true
            }
            Ok(Meaning::LeftAlone(because)) => {
                self.know(slot, record, Standing::LeftAlone { because });
                true
            }
            Ok(Meaning::Gone) => {
                let done = self.store.remove(slot);
                done.inspect_err(|error| {
                    warn!(error = one_line(error), "a record could not be removed");
                })
                .is_ok()
            }
            Err(error) => {
                let container = record.request.attachment.container_id;
                error!(
                    container,
                    error = one_line(&error),
                    "a Pod's record cannot be followed: the Pod stays as it is"
                );
                false
            }
        }
    }

    fn meaning(&self, record: &Record) -> Result<Meaning, Error> {
        let path = Path::new(&record.request.netns);
        match (self.verdict(&record.request)?, record.netns) {
            (Verdict::Mesh(settings), Some(id)) => {
                let there = Netns::open(path).ok().filter(|netns| netns.id() == id);
                let processes = || cgroup::processes(self.datapath.cgroup());
                let netns = there.or_else(|| netns::find(&processes(), id));
                let Some(netns) = netns else {
                    return Ok(Meaning::Gone);
                };
                let interfaces = netns.interfaces()?;
                let features = self.datapath.features();
                let settings = seen_inside(*settings, &netns, &interfaces, features)?;
                Ok(Meaning::Meshed(netns, settings.into()))
            }
            (Verdict::LeaveAlone(because), None) if path.exists() => {
                Ok(Meaning::LeftAlone(because))
            }
            (Verdict::LeaveAlone(_) | Verdict::Mesh(_), None) if !path.exists() => {
                Ok(Meaning::Gone)
            }
            // The configuration changed in between.
            (Verdict::Mesh(_), None) | (Verdict::LeaveAlone(_), _) => Err(Error::Changed),
        }
    }

    /// Brings a Pod's kernel state to what it should be.
    fn bring(&mut self, mut kernel: Enrolment, wanted: Held, pod: Found) -> Result<(), Error> {
        let Found {
            netns,
            settings,
            members,
        } = pod;
        let mut site = Site {
            datapath: &mut self.datapath,
            netns: Some(&netns),
        };
        let done = kernel.take_in(&mut site, wanted);
        let id = netns.id();
        let standing = Standing::Meshed {
            cookie: id.cookie,
            mesh: &settings.mesh.name,
        };
        let mut attachments = Vec::new();
        for (slot, record) in members {
            attachments.push(record.request.attachment.clone());
            self.know(slot, record, standing);
        }
        let enrolled = Enrolled {
            id,
            path: netns.path().into(),
            settings,
            attachments,
            kernel,
        };
        self.pods.insert(id.cookie, enrolled);
        done
    }

    /// Removes what the kernel holds of a Pod that is gone.
    fn drop_rest(&mut self, mut kernel: Enrolment) -> Result<(), Error> {
        let mut site = Site {
            datapath: &mut self.datapath,
            netns: None,
        };
        kernel.let_go(&mut site, Held::default())
    }
}

impl Found {
    fn wanted(&self, cookie: u64) -> Held {
        let records = || self.members.iter().map(|(_, record)| record);
        let addresses: Vec<IpAddr> = records().flat_map(Record::addresses).collect();
        let passthrough = records().any(|record| record.passthrough);
        plan::wanted(cookie, &self.settings, &addresses, passthrough)
    }
}
