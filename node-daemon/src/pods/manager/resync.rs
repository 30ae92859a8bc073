//! Resync: periodically repairs lost state, and unenrolls Pods that ended without a DEL.

use tracing::{debug, error, info, warn};

use super::PodManager;
use crate::pods::{Error, Repair, error::one_line, plan::KernelState, survey::Survey};

impl PodManager {
    /// One full resync.
    pub(in crate::pods) fn resync(&mut self, survey: Survey) {
        self.repair_hooks();
        self.log_foreign_programs();
        self.release_abandoned(&survey.abandoned);
        self.replay_pending_dels();
        self.log_departed();
        self.refresh_routes();
        self.repair_alias_routes();
        self.repair_reserved_ports();
        self.follow_virtual_interfaces(true);
        self.remove_stale_aliases();
        self.adopt(survey);
        self.resolve_pending();
        self.report_foreign();
        self.forget_foreign_listeners();
        self.log_ipv6_unserved();
        self.log_cut_addresses();
    }

    /// Attaches programs to new children of the root cgroup.
    pub(in crate::pods) fn attach_new_cgroups(&mut self) {
        if let Err(error) = self.datapath.attach_new_children() {
            error!(
                error = one_line(&error),
                "programs are not attached to new cgroups; retrying within 30 s"
            );
        }
        self.log_foreign_programs();
    }

    /// Logs foreign programs that appeared, disappeared or changed their order.
    pub(in crate::pods) fn log_foreign_programs(&mut self) {
        match self.datapath.foreign_programs() {
            Ok(found) => self.logs.log_programs(found),
            Err(error) => warn!(
                error = one_line(&error),
                "failed to read the programs at the cgroup hooks"
            ),
        }
    }

    /// Unenrolls Pods whose netns only a mount keeps: they have neither an address nor a process
    /// any more, so their addresses may belong to new Pods.
    fn release_abandoned(&mut self, cookies: &[u64]) {
        for cookie in cookies {
            // Checked again, because the survey is older.
            if self.view().is_alive(*cookie) || self.namespaces.get(*cookie).is_none() {
                continue;
            }
            let pod = self.view().name_of(*cookie);
            info!(
                pod,
                "network namespace has no address and no process: its Pod is released"
            );
            match self.remove_pod(*cookie) {
                Ok(()) => self.repairs.count(Repair::StaleNetns),
                Err(error) => error!(
                    pod,
                    error = one_line(&error),
                    "abandoned Pod is not released"
                ),
            }
        }
    }

    /// Removes the alias entries of Pods that are gone. Not at DEL, because it iterates the whole
    /// map.
    pub(super) fn remove_stale_aliases(&mut self) {
        match self.datapath.remove_stale_aliases() {
            Ok(0) => {}
            Ok(count) => debug!(count, "removed stale alias entries"),
            Err(error) => warn!(
                error = one_line(&error),
                "failed to remove stale alias entries"
            ),
        }
    }

    /// Executes the DELs that were stored while no daemon ran.
    pub(in crate::pods) fn replay_pending_dels(&mut self) {
        self.pending_dels.prepare();
        for pending_del in self.pending_dels.all() {
            let done = if let Some(attachment) = &pending_del.attachment {
                self.del(attachment).map(|retired| {
                    if !retired.attachments.is_empty() {
                        self.repairs.count(Repair::ReplayedDel);
                    }
                })
            } else {
                warn!(?pending_del, "removed a malformed deletion marker");
                Ok(())
            };
            let done = done.map_err(|error| one_line(&error));
            let done = done.and_then(|()| pending_del.remove().map_err(|error| error.to_string()));
            if let Err(error) = done {
                error!(
                    ?pending_del,
                    error, "failed to delete a processed deletion marker"
                );
            }
        }
    }

    /// Removes the entries of namespaces that have a pending Pod's address and are not that Pod's.
    pub(in crate::pods) fn resolve_pending(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        match self.pending.remove_claims(&mut self.datapath) {
            Ok(0) => {}
            Ok(removed) => {
                if let Some(dropped) = self.logs.pass() {
                    warn!(
                        removed,
                        dropped,
                        "removed entries of network namespaces that have the address of a pending Pod \
                         and none of its processes"
                    );
                }
            }
            Err(error) => error!(
                error = one_line(&error),
                "failed to read the process_ip map"
            ),
        }
    }

    /// Reattaches hooks that were removed externally, and unenrolls namespaces that are gone.
    fn repair_hooks(&mut self) {
        match self.datapath.repair_hooks() {
            Ok(false) => {}
            Ok(true) => {
                self.repairs.count(Repair::Hooks);
                warn!("cgroup hooks were missing; reattached");
            }
            Err(error) => {
                error!(error = one_line(&error), "failed to reattach cgroup hooks");
            }
        }
        for cookie in self.namespaces.all_cookies() {
            if self.datapath.has_sk_lookup(cookie) {
                continue;
            }
            let pod = self.view().name_of(cookie);
            let (repair, done) = if self.view().is_alive(cookie) {
                warn!(pod, "sk_lookup hook of a pod was missing; reattaching");
                (Repair::InboundHook, self.reattach(cookie))
            } else {
                info!(pod, "netns is gone; removing the pod");
                (Repair::StaleNetns, self.remove_pod(cookie))
            };
            match done {
                Ok(()) => self.repairs.count(repair),
                Err(error) => error!(pod, error = one_line(&error), "repair failed"),
            }
        }
    }

    fn reattach(&mut self, cookie: u64) -> Result<(), Error> {
        let Some(pod) = self.namespaces.get(cookie) else {
            return Ok(());
        };
        let netns = pod.reopen().ok_or(Error::Gone)?;
        let desired = pod.state().clone();
        let lost = |state| KernelState {
            sk_lookup: false,
            ..state
        };
        let applied = (self.namespaces).repair(&mut self.datapath, &netns, lost, desired)?;
        applied.log(&self.view().name_of(cookie));
        Ok(())
    }
}
