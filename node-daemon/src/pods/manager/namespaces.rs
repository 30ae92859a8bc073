//! The intercepted network namespaces and their kernel state. A namespace that has kernel state
//! belongs to a meshed Pod or is orphaned; a meshed Pod has at least one attachment.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
};

use sluice_api::Attachment;

use super::registry::is_reported;
use crate::{
    bpf::Datapath,
    netns::{self, Netns},
    pods::{
        Error,
        apply::{Applied, AppliedState, Target},
        plan::{self, KernelState},
        policy::ResolvedPolicy,
        survey::Lodging,
    },
};

/// The intercepted namespaces, by netns cookie.
#[derive(Default)]
pub(super) struct Namespaces {
    /// Several attachments may share one.
    meshed: BTreeMap<u64, MeshedPod>,
    /// Intercepted namespaces without a record. They stay intercepted: without the hooks, traffic
    /// of their Pods would bypass the proxy.
    orphaned: BTreeMap<u64, AppliedState>,
}

/// A Pod whose traffic is intercepted.
pub(super) struct MeshedPod {
    id: netns::Id,
    path: PathBuf,
    policy: ResolvedPolicy,
    attachments: Vec<Attachment>,
    kernel: AppliedState,
}

/// The desired state of a Pod.
pub(super) struct Enrollment {
    /// Its settings.
    pub(super) policy: ResolvedPolicy,
    /// In the order of their ADDs: the first one's addresses are the Pod's main addresses, unless
    /// routes prefer others.
    pub(super) attachments: Vec<Attachment>,
    /// Its kernel state.
    pub(super) desired: KernelState,
}

impl Namespaces {
    /// A meshed Pod.
    pub(super) fn get(&self, cookie: u64) -> Option<&MeshedPod> {
        self.meshed.get(&cookie)
    }

    /// The meshed Pods.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &MeshedPod)> {
        self.meshed.iter().map(|(cookie, pod)| (*cookie, pod))
    }

    /// The cookies of the meshed Pods.
    pub(super) fn cookies(&self) -> Vec<u64> {
        self.meshed.keys().copied().collect()
    }

    /// The cookies of all intercepted namespaces.
    pub(super) fn all_cookies(&self) -> Vec<u64> {
        let all = self.meshed.keys().chain(self.orphaned.keys());
        all.copied().collect()
    }

    /// The numbers of meshed Pods and of orphaned namespaces.
    pub(super) fn count(&self) -> (usize, usize) {
        (self.meshed.len(), self.orphaned.len())
    }

    pub(super) fn is_intercepted(&self, cookie: u64) -> bool {
        self.meshed.contains_key(&cookie) || self.is_orphaned(cookie)
    }

    pub(super) fn is_orphaned(&self, cookie: u64) -> bool {
        self.orphaned.contains_key(&cookie)
    }

    /// The attachments of a meshed Pod.
    pub(super) fn attachments(&self, cookie: u64) -> &[Attachment] {
        match self.meshed.get(&cookie) {
            Some(pod) => &pod.attachments,
            None => &[],
        }
    }

    /// Enrolls a Pod, or adds an attachment to it. After an error its state is as before.
    pub(super) fn enroll(
        &mut self,
        datapath: &mut Datapath,
        netns: &Netns,
        enrollment: Enrollment,
    ) -> Result<Applied, Error> {
        let cookie = netns.id().cookie;
        let mut target = Target {
            datapath,
            netns: Some(netns),
        };
        if let Some(pod) = self.meshed.get_mut(&cookie) {
            let applied = pod.kernel.apply(&mut target, enrollment.desired)?;
            netns.path().clone_into(&mut pod.path);
            pod.policy = enrollment.policy;
            pod.attachments = enrollment.attachments;
            return Ok(applied);
        }
        let orphan = self.orphaned.remove(&cookie);
        let mut kernel = orphan.unwrap_or_else(|| AppliedState::of(cookie, KernelState::default()));
        let done = kernel.apply(&mut target, enrollment.desired);
        if done.is_ok() {
            let (policy, attachments) = (enrollment.policy, enrollment.attachments);
            self.insert(netns, policy, attachments, kernel);
        } else {
            self.keep(cookie, kernel);
        }
        done
    }

    /// Adopts a Pod of the previous daemon. If the update of its kernel state fails, it keeps the
    /// one it has.
    pub(super) fn adopt(
        &mut self,
        datapath: &mut Datapath,
        netns: &Netns,
        mut kernel: AppliedState,
        enrollment: Enrollment,
    ) -> Result<Applied, Error> {
        let mut target = Target {
            datapath,
            netns: Some(netns),
        };
        let done = kernel.apply(&mut target, enrollment.desired);
        let (policy, attachments) = (enrollment.policy, enrollment.attachments);
        self.insert(netns, policy, attachments, kernel);
        done
    }

    fn insert(
        &mut self,
        netns: &Netns,
        policy: ResolvedPolicy,
        attachments: Vec<Attachment>,
        kernel: AppliedState,
    ) {
        let pod = MeshedPod {
            id: netns.id(),
            path: netns.path().into(),
            policy,
            attachments,
            kernel,
        };
        self.meshed.insert(netns.id().cookie, pod);
    }

    /// Keeps a namespace without a Pod intercepted, if it has kernel state.
    pub(super) fn keep(&mut self, cookie: u64, kernel: AppliedState) {
        if *kernel.state() != KernelState::default() {
            self.orphaned.insert(cookie, kernel);
        }
    }

    /// Reduces a Pod to some of its attachments, which have these addresses. Without any, the Pod is
    /// unenrolled. After an error the Pod keeps all its attachments; the call may be repeated.
    pub(super) fn shrink(
        &mut self,
        datapath: &mut Datapath,
        cookie: u64,
        rest: Vec<Attachment>,
        addresses: &[IpAddr],
    ) -> Result<Applied, Error> {
        let Some(pod) = self.meshed.get_mut(&cookie) else {
            return Ok(Applied::default());
        };
        let desired = if rest.is_empty() {
            KernelState::default()
        } else {
            plan::desired(cookie, &pod.policy, addresses, pod.kernel.state().changes())
        };
        let netns = pod.reopen();
        let mut target = Target {
            datapath,
            netns: netns.as_ref(),
        };
        let applied = pod.kernel.teardown(&mut target, desired)?;
        if rest.is_empty() {
            self.meshed.remove(&cookie);
        } else {
            pod.attachments = rest;
        }
        Ok(applied)
    }

    /// Removes the kernel state of an orphaned namespace, if it is one.
    pub(super) fn release_orphan(
        &mut self,
        datapath: &mut Datapath,
        cookie: u64,
    ) -> Result<(), Error> {
        if let Some(kernel) = self.orphaned.get_mut(&cookie) {
            kernel.remove(datapath)?;
            self.orphaned.remove(&cookie);
        }
        Ok(())
    }

    /// Records that the kernel lost state of a Pod.
    pub(super) fn mark_lost(&mut self, cookie: u64, lost: impl FnOnce(KernelState) -> KernelState) {
        if let Some(pod) = self.meshed.get_mut(&cookie) {
            pod.kernel.mark_lost(lost);
        }
    }

    /// Restores the kernel state of a Pod after the kernel lost some of it.
    pub(super) fn repair(
        &mut self,
        datapath: &mut Datapath,
        netns: &Netns,
        lost: impl FnOnce(KernelState) -> KernelState,
        desired: KernelState,
    ) -> Result<Applied, Error> {
        let pod = self.meshed.get_mut(&netns.id().cookie).ok_or(Error::Gone)?;
        pod.kernel.mark_lost(lost);
        let mut target = Target {
            datapath,
            netns: Some(netns),
        };
        pod.kernel.apply(&mut target, desired)
    }

    /// Changes the settings of a Pod.
    pub(super) fn update(
        &mut self,
        datapath: &mut Datapath,
        netns: &Netns,
        policy: ResolvedPolicy,
        desired: KernelState,
    ) -> Result<Applied, Error> {
        let pod = self.meshed.get_mut(&netns.id().cookie).ok_or(Error::Gone)?;
        let mut target = Target {
            datapath,
            netns: Some(netns),
        };
        let applied = pod.kernel.apply(&mut target, desired)?;
        pod.policy = policy;
        Ok(applied)
    }
}

impl MeshedPod {
    pub(super) fn id(&self) -> netns::Id {
        self.id
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn policy(&self) -> &ResolvedPolicy {
        &self.policy
    }

    /// Its kernel state.
    pub(super) fn state(&self) -> &KernelState {
        self.kernel.state()
    }

    /// Its first attachment.
    pub(super) fn first(&self) -> Option<&Attachment> {
        self.attachments.first()
    }

    /// Opens the netns, if the path still leads to it.
    pub(super) fn reopen(&self) -> Option<Netns> {
        let found = Netns::open(&self.path).ok()?;
        (found.id() == self.id).then_some(found)
    }

    /// Whether its netns exists and has one of the Pod's addresses, or a process. A mount can keep
    /// a netns after the Pod has ended.
    pub(super) fn is_alive(&self, addresses: Vec<IpAddr>) -> bool {
        match Netns::open(&self.path) {
            Ok(netns) if netns.id() == self.id => {
                let lodging = self.lodging(addresses);
                let interfaces = netns.interfaces();
                interfaces.map_or(true, |interfaces| lodging.is_inhabited(&interfaces))
            }
            Ok(_) => false,
            // What cannot be opened may be there.
            Err(error) => !error.is_absence(),
        }
    }

    pub(super) fn lodging(&self, addresses: Vec<IpAddr>) -> Lodging {
        Lodging {
            id: self.id,
            path: self.path.clone(),
            addresses,
        }
    }

    /// Whether the Pod was adopted, without a report from a runtime.
    pub(super) fn is_found(&self) -> bool {
        !self.attachments.iter().any(is_reported)
    }

    /// The number of sockets of other users on the proxy's ports at the enrollment.
    pub(super) fn foreign_listeners(&self) -> usize {
        self.kernel.foreign_listeners()
    }

    /// Stores the user of a foreign listener on the outbound port, whose own connections would return
    /// to it.
    pub(super) fn find_foreign_listener(&self, datapath: &mut Datapath) -> Result<(), Error> {
        self.reopen().map_or(Ok(()), |netns| {
            self.kernel.find_foreign_listener(datapath, &netns)
        })
    }
}
