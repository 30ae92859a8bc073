//! The state of logs: the messages that were logged already, and the rate limit.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use sluice_abi::{ForeignKey, ForeignUse};

use crate::{
    bpf::ForeignProgram,
    limit::LogLimit,
    pods::{foreign_log::ForeignLog, silent::SilentProxies},
};

/// What the log has about processes of Pods and of other owners.
#[derive(Default)]
pub(super) struct Logs {
    /// The users that were denied a port of a proxy, by cookie, port and protocol.
    denials: BTreeMap<(u64, u16, u16), u32>,
    /// The rate limit of lines that unprivileged users can cause.
    limit: LogLimit,
    silent: SilentProxies,
    /// The Pods that are logged because IPv6 bypasses a proxy with an IPv6 listener.
    ipv6_unserved: BTreeSet<u64>,
    /// The Pods that are logged because they have more addresses than their share.
    cut_addresses: BTreeSet<u64>,
    /// The Pods that are logged because ports of their proxy cannot be reserved.
    unreserved: BTreeSet<u64>,
    programs: ForeignLog,
}

impl Logs {
    /// Whether a line that an unprivileged user can cause may be logged now: `Some` with the number of
    /// lines dropped before it.
    pub(super) fn pass(&mut self) -> Option<u64> {
        self.limit.pass()
    }

    /// The denials that are not logged yet.
    pub(super) fn new_denials(
        &mut self,
        mut found: Vec<(ForeignKey, ForeignUse)>,
    ) -> Vec<(ForeignKey, ForeignUse)> {
        let id = |key: &ForeignKey| (key.cookie, key.port.get(), key.protocol);
        let now = found.iter().map(|(key, found)| (id(key), found.uid));
        let before = std::mem::replace(&mut self.denials, now.collect());
        found.retain(|(key, found)| before.get(&id(key)) != Some(&found.uid));
        found
    }

    /// The Pods with a useless listener on IPv6 that are not logged yet.
    pub(super) fn new_ipv6_unserved(&mut self, found: BTreeSet<u64>) -> Vec<u64> {
        let before = std::mem::replace(&mut self.ipv6_unserved, found);
        self.ipv6_unserved.difference(&before).copied().collect()
    }

    /// The Pods with more addresses than their share that are not logged yet.
    pub(super) fn new_cut_addresses(&mut self, found: BTreeSet<u64>) -> Vec<u64> {
        let before = std::mem::replace(&mut self.cut_addresses, found);
        self.cut_addresses.difference(&before).copied().collect()
    }

    /// The Pods whose ports cannot be reserved that are not logged yet.
    pub(super) fn new_unreserved(&mut self, found: BTreeSet<u64>) -> Vec<u64> {
        let before = std::mem::replace(&mut self.unreserved, found);
        self.unreserved.difference(&before).copied().collect()
    }

    /// Logs foreign programs that appeared, disappeared or changed their order.
    pub(super) fn log_programs(&mut self, found: Vec<ForeignProgram>) {
        self.programs.update(found);
    }

    /// The Pods without a listener for longer than the grace time, with that time.
    pub(super) fn silent_proxies(&mut self, silent: BTreeSet<u64>) -> Vec<(u64, Duration)> {
        self.silent.update(silent, Instant::now())
    }
}
