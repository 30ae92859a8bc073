//! What the owner does unasked: mends what was taken from it, and lets go of Pods whose end nobody
//! reported.

use tracing::{debug, error, info, warn};

use super::Owner;
use crate::pods::{Error, Repair, enrol::Site, error::one_line, plan::Held, survey::Survey};

impl Owner {
    /// One round of everything.
    pub(in crate::pods) fn resync(&mut self, survey: Survey) {
        self.mend();
        self.release_abandoned(&survey.abandoned);
        self.bury();
        self.follow_routes();
        self.mend_routes();
        self.forget_destinations();
        self.adopt(survey);
        self.learn();
    }

    /// Releases Pods whose namespace is kept by a mount alone: they have neither an address nor a
    /// process any more, so their addresses belong to the next Pods.
    fn release_abandoned(&mut self, cookies: &[u64]) {
        for cookie in cookies {
            // Not by the survey alone: it is older.
            if self.is_alive(*cookie) || !self.pods.contains_key(cookie) {
                continue;
            }
            let pod = self.name_of(*cookie);
            info!(
                pod,
                "network namespace has no address and no process: its Pod is released"
            );
            match self.let_go(*cookie) {
                Ok(()) => self.repairs.count(Repair::Ended),
                Err(error) => error!(
                    pod,
                    error = one_line(&error),
                    "abandoned Pod is not released"
                ),
            }
        }
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
