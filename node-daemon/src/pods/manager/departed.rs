//! Pods that were deleted: a process that still runs in one is not intercepted any more.
//!
//! A runtime ends a Pod's processes before DEL or soon after it, so the next resync looks, not the DEL.

use std::{collections::VecDeque, path::PathBuf};

use tracing::warn;

use super::PodManager;
use crate::netns::{self, Netns};

/// The number of remembered Pods. The oldest ones are forgotten.
const MOST: usize = 1024;

/// A Pod that was deleted.
pub(super) struct DepartedPod {
    /// Its name.
    pub(super) pod: String,
    /// Its netns.
    pub(super) id: netns::Id,
    /// The path that led there.
    pub(super) path: PathBuf,
}

/// The Pods that were deleted since the last resync.
#[derive(Default)]
pub(super) struct Departed(VecDeque<DepartedPod>);

impl Departed {
    /// Remembers a Pod.
    pub(super) fn push(&mut self, pod: DepartedPod) {
        if self.0.len() == MOST {
            self.0.pop_front();
        }
        self.0.push_back(pod);
    }

    /// Takes all Pods, and returns those whose netns still has a process.
    pub(super) fn take_running(&mut self) -> Vec<DepartedPod> {
        let is_running = |one: &DepartedPod| {
            // Almost every netns is gone, so the processes need not be searched.
            let there = Netns::open(&one.path).is_ok_and(|netns| netns.id() == one.id);
            there && netns::is_inhabited(one.id)
        };
        self.0.drain(..).filter(is_running).collect()
    }
}

impl PodManager {
    /// Logs the deleted Pods whose processes still run.
    pub(super) fn log_departed(&mut self) {
        for DepartedPod { pod, id, .. } in self.departed.take_running() {
            if self.namespaces.is_intercepted(id.cookie) {
                continue;
            }
            let Some(dropped) = self.logs.pass() else {
                return;
            };
            warn!(
                pod,
                netns_cookie = id.cookie,
                dropped,
                "processes of a deleted Pod still run, and their traffic bypasses the proxy: DEL, or GC \
                 without the Pod in its list, came before they ended. End them, or restart the Pod"
            );
        }
    }
}
