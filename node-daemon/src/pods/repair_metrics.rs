//! The counters of repairs that the daemon makes without a request.

/// A kind of repair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repair {
    /// Cgroup hooks were removed externally, and reattached.
    Hooks,
    /// A Pod's inbound hook was removed externally, and reattached.
    InboundHook,
    /// A Pod ended without a DEL, and was unenrolled.
    StaleNetns,
    /// An attachment ended while no daemon ran, and was deleted.
    ReplayedDel,
    /// A Pod that ran before the daemon was adopted.
    AdoptedRunningPod,
    /// A pending Pod connected, and was enrolled.
    PendingPodResolved,
    /// The routes of a Pod with excluded interfaces changed, and were read again.
    BypassRoutesUpdated,
    /// A Pod's alias routes were removed externally, and reinstalled.
    AliasRoutes,
    /// Ports of the proxy were no longer reserved in a Pod's netns, and are reserved again.
    ReservedPorts,
    /// A record could not be read, and was renamed.
    DamagedRecord,
}

impl Repair {
    /// Every kind.
    pub(crate) const ALL: [Self; 10] = [
        Self::Hooks,
        Self::InboundHook,
        Self::StaleNetns,
        Self::ReplayedDel,
        Self::AdoptedRunningPod,
        Self::PendingPodResolved,
        Self::BypassRoutesUpdated,
        Self::AliasRoutes,
        Self::ReservedPorts,
        Self::DamagedRecord,
    ];

    /// The value of the metric's label.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Hooks => "hooks",
            Self::InboundHook => "inbound_hook",
            Self::StaleNetns => "stale_netns",
            Self::ReplayedDel => "replayed_del",
            Self::AdoptedRunningPod => "adopted_running_pod",
            Self::PendingPodResolved => "pending_pod_resolved",
            Self::BypassRoutesUpdated => "bypass_routes_updated",
            Self::AliasRoutes => "alias_routes",
            Self::ReservedPorts => "reserved_ports",
            Self::DamagedRecord => "damaged_record",
        }
    }
}

/// The number of repairs of each kind.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Repairs([u64; Repair::ALL.len()]);

impl Repairs {
    /// Counts one repair.
    pub(crate) fn count(&mut self, repair: Repair) {
        self.0[repair as usize] += 1;
    }

    /// Each kind with its number.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Repair, u64)> {
        Repair::ALL.into_iter().zip(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_counted_by_itself() {
        let mut repairs = Repairs::default();
        for (times, repair) in Repair::ALL.into_iter().enumerate() {
            (0..times).for_each(|_| repairs.count(repair));
        }
        let counted: Vec<_> = repairs.iter().collect();
        let expected: Vec<_> = Repair::ALL.into_iter().zip(0..).collect();
        assert_eq!(counted, expected);
    }
}
