//! The registry of attachments and the state of their Pods, in one hand.

mod view;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::{Path, PathBuf},
};

use daemon_api::{Admit, Admitted, Attachment, Collect, PodName, Retired};
use sluice_abi::Addr;
use tracing::{error, info};

pub(crate) use view::Reading;

use super::{
    Error, addresses,
    enrol::{Enrolment, Site},
    plan::{self, Held},
    policy::{self, Settings, Verdict},
};
use crate::{
    bpf::Datapath,
    netns::{self, Netns},
};

/// Owns the kernel side and knows every attachment.
pub(crate) struct Owner {
    datapath: Datapath,
    attachments: BTreeMap<Attachment, Known>,
    /// By the cookie of the network namespace. Several attachments may share one.
    pods: BTreeMap<u64, Enrolled>,
}

/// An attachment that was looked at.
struct Known {
    pod: PodName,
    netns: String,
    addresses: Vec<IpAddr>,
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
    /// In the order in which they came: the first one's addresses are the Pod's main ones.
    attachments: Vec<Attachment>,
    kernel: Enrolment,
}

impl Owner {
    pub(super) fn new(datapath: Datapath) -> Self {
        Self {
            datapath,
            attachments: BTreeMap::new(),
            pods: BTreeMap::new(),
        }
    }

    pub(super) fn admit(&mut self, request: Admit) -> Result<Admitted, Error> {
        let standing = match policy::decide(request.annotations.as_ref())? {
            Verdict::Mesh(settings) => self.mesh(&request, settings)?,
            Verdict::LeaveAlone(because) => self.leave_alone(&request, because)?,
        };
        let answer = Admitted {
            meshed: standing.is_meshed(),
            because: standing.because(),
        };
        info!(container = request.attachment.container_id, pod = %name(&request.pod),
            meshed = answer.meshed, because = answer.because, "admitted");
        let Admit {
            attachment,
            netns,
            addresses,
            pod,
            annotations: _,
        } = request;
        let addresses = addresses.iter().map(|one| one.ip.to_canonical()).collect();
        let known = Known {
            pod,
            netns,
            addresses,
            standing,
        };
        self.attachments.insert(attachment, known);
        Ok(answer)
    }

    /// The addresses are not checked: nothing is done with them. Only a Pod that had them
    /// before and is gone must not be taken for this one.
    fn leave_alone(&mut self, request: &Admit, because: &'static str) -> Result<Standing, Error> {
        self.retire(&request.attachment)?;
        for address in &request.addresses {
            if let Some(cookie) = self.owner_of(address.ip.to_canonical().into())
                && !self.pods.get(&cookie).is_some_and(Enrolled::is_alive)
            {
                self.let_go(cookie)?;
            }
        }
        Ok(Standing::LeftAlone { because })
    }

    fn mesh(&mut self, request: &Admit, settings: Settings) -> Result<Standing, Error> {
        let netns = Netns::open(Path::new(&request.netns))?;
        let addresses = addresses::verify(&request.addresses, &netns.interfaces()?)?;
        let cookie = netns.id().cookie;
        self.claim(&addresses, cookie)?;
        if self
            .cookie_of(&request.attachment)
            .is_some_and(|old| old != cookie)
        {
            self.retire(&request.attachment)?;
        }
        let mesh = settings.mesh.name;
        self.enrol(&request.attachment, &netns, settings, &addresses)?;
        Ok(Standing::Meshed { cookie, mesh })
    }

    /// Makes sure that no other Pod has these addresses. One that is gone loses them.
    fn claim(&mut self, addresses: &[IpAddr], cookie: u64) -> Result<(), Error> {
        for address in addresses {
            let Some(other) = self
                .owner_of((*address).into())
                .filter(|one| *one != cookie)
            else {
                continue;
            };
            if self.pods.get(&other).is_some_and(Enrolled::is_alive) {
                return Err(Error::Taken {
                    address: *address,
                    owner: self.name_of(other),
                });
            }
            self.let_go(other)?;
        }
        Ok(())
    }

    fn enrol(
        &mut self,
        attachment: &Attachment,
        netns: &Netns,
        settings: Settings,
        addresses: &[IpAddr],
    ) -> Result<(), Error> {
        let id = netns.id();
        let mut enrolled = self.pods.remove(&id.cookie).unwrap_or_else(|| Enrolled {
            id,
            path: netns.path().into(),
            settings: settings.clone(),
            attachments: Vec::new(),
            kernel: Enrolment::new(id.cookie),
        });
        let mut members = enrolled.attachments.clone();
        if !members.contains(attachment) {
            members.push(attachment.clone());
        }
        let all: Vec<_> = members
            .iter()
            .flat_map(|one| {
                if one == attachment {
                    addresses
                } else {
                    self.addresses_of(one)
                }
            })
            .copied()
            .collect();
        let wanted = plan::wanted(id.cookie, &settings, &all);
        let mut site = Site {
            datapath: &mut self.datapath,
            netns: Some(netns),
        };
        let done = enrolled.kernel.take_in(&mut site, wanted);
        if done.is_ok() {
            netns.path().clone_into(&mut enrolled.path);
            enrolled.settings = settings;
            enrolled.attachments = members;
        }
        if !enrolled.attachments.is_empty() {
            self.pods.insert(id.cookie, enrolled);
        }
        done
    }

    pub(super) fn retire(&mut self, attachment: &Attachment) -> Result<Retired, Error> {
        if let Some(cookie) = self.cookie_of(attachment) {
            self.shrink(cookie, attachment)?;
        }
        let known = self.attachments.remove(attachment);
        if let Some(Known { pod, .. }) = &known {
            info!(container = attachment.container_id, pod = %name(pod), "retired");
        }
        Ok(Retired {
            attachments: known.map(|_| attachment.clone()).into_iter().collect(),
        })
    }

    /// Takes one attachment out of a Pod. With the last one the Pod goes.
    fn shrink(&mut self, cookie: u64, attachment: &Attachment) -> Result<(), Error> {
        let Some(mut enrolled) = self.pods.remove(&cookie) else {
            return Ok(());
        };
        let mut rest = enrolled.attachments.clone();
        rest.retain(|one| one != attachment);
        let addresses: Vec<_> =
            (rest.iter().flat_map(|one| self.addresses_of(one)).copied()).collect();
        let wanted = if rest.is_empty() {
            Held::default()
        } else {
            plan::wanted(cookie, &enrolled.settings, &addresses)
        };
        let netns = enrolled.reopen();
        let mut site = Site {
            datapath: &mut self.datapath,
            netns: netns.as_ref(),
        };
        let done = enrolled.kernel.let_go(&mut site, wanted);
        if done.is_ok() {
            enrolled.attachments = rest;
        }
        if !enrolled.attachments.is_empty() {
            self.pods.insert(cookie, enrolled);
        }
        done
    }

    /// Retires every attachment of a Pod.
    fn let_go(&mut self, cookie: u64) -> Result<(), Error> {
        let all = self.pods.get(&cookie).map(|pod| pod.attachments.clone());
        for attachment in all.unwrap_or_default() {
            self.retire(&attachment)?;
        }
        Ok(())
    }

    /// For the end of the daemon: lets every Pod go.
    pub(super) fn let_all_go(&mut self) {
        let all: Vec<_> = self.attachments.keys().cloned().collect();
        for attachment in all {
            if let Err(error) = self.retire(&attachment) {
                error!(container = attachment.container_id, %error, "not let go completely");
            }
        }
    }

    pub(super) fn collect(&mut self, request: &Collect) -> Result<Retired, Error> {
        let valid: BTreeSet<_> = request
            .valid
            .iter()
            .map(|one| (&one.container_id, &one.ifname))
            .collect();
        let gone: Vec<_> = self
            .attachments
            .keys()
            .filter(|one| one.network == request.network)
            .filter(|one| !valid.contains(&(&one.container_id, &one.ifname)))
            .cloned()
            .collect();
        let mut retired = Retired::default();
        let mut errors = Vec::new();
        for attachment in gone {
            match self.retire(&attachment) {
                Ok(one) => retired.attachments.extend(one.attachments),
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() {
            return Ok(retired);
        }
        Err(Error::LetGo { errors })
    }

    pub(super) fn check(&self, attachment: &Attachment) -> Result<(), Error> {
        let unknown = || Error::Unknown(attachment.clone());
        let known = self.attachments.get(attachment).ok_or_else(unknown)?;
        let Standing::Meshed { cookie, .. } = known.standing else {
            return Ok(());
        };
        let enrolled = self.pods.get(&cookie).ok_or_else(unknown)?;
        let held = enrolled.kernel.held();
        same("network namespace in place", &true, &enrolled.is_alive())?;
        same("process_ip", &held.process, &self.datapath.process(cookie)?)?;
        for (addr, pod) in &held.addresses {
            let present = self.datapath.address(*addr)?;
            let what = format!("local_pod_ips at {}", IpAddr::from(*addr));
            same(&what, &Some(*pod), &present)?;
        }
        same(
            "inbound hook attached",
            &true,
            &enrolled.kernel.is_steered(),
        )
    }

    fn cookie_of(&self, attachment: &Attachment) -> Option<u64> {
        match self.attachments.get(attachment)?.standing {
            Standing::Meshed { cookie, .. } => Some(cookie),
            Standing::LeftAlone { .. } => None,
        }
    }

    fn addresses_of(&self, attachment: &Attachment) -> &[IpAddr] {
        let known = self.attachments.get(attachment);
        known.map_or(&[], |known| &known.addresses)
    }

    /// The meshed Pod that has an address.
    fn owner_of(&self, addr: Addr) -> Option<u64> {
        let has = |(_, pod): &(&u64, &Enrolled)| pod.kernel.held().addresses.contains_key(&addr);
        self.pods.iter().find(has).map(|(cookie, _)| *cookie)
    }

    fn name_of(&self, cookie: u64) -> String {
        let attachment = self
            .pods
            .get(&cookie)
            .and_then(|pod| pod.attachments.first());
        let known = attachment.and_then(|one| Some((one, self.attachments.get(one)?)));
        known.map_or_else(String::new, |(attachment, known)| {
            let name = name(&known.pod);
            format!("{name} (container {})", attachment.container_id)
        })
    }
}

impl Enrolled {
    /// The network namespace, if the path still leads to it.
    fn reopen(&self) -> Option<Netns> {
        let found = Netns::open(&self.path).ok()?;
        (found.id() == self.id).then_some(found)
    }

    fn is_alive(&self) -> bool {
        self.reopen().is_some()
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

fn same<T: PartialEq + std::fmt::Debug>(
    what: &str,
    expected: &T,
    present: &T,
) -> Result<(), Error> {
    if expected == present {
        return Ok(());
    }
    Err(Error::Differs {
        what: what.to_owned(),
        expected: format!("{expected:?}"),
        present: format!("{present:?}"),
    })
}

#[cfg(test)]
mod tests;
