//! What the daemon put right unasked, for those who count.

/// Something that was not as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repair {
    /// Hooks of the cgroup were removed by somebody, and put back.
    Hooks,
    /// The inbound hook of a Pod was removed by somebody, and put back.
    InboundHook,
    /// A Pod whose end nobody reported was let go.
    StaleNetns,
    /// An attachment was let go that ended while no daemon ran.
    ReplayedDel,
    /// A Pod that ran before the daemon was taken in.
    AdoptedRunningPod,
    /// A Pod of which only the addresses were known was taken in, once it connected.
    PendingPodResolved,
    /// The routes of a Pod that excludes interfaces had changed, and were read again.
    BypassRoutesUpdated,
    /// A Pod's routes to its proxy were removed by somebody, and put back.
    AliasRoutes,
    /// A record that could not be read was set aside.
    DamagedRecord,
}

impl Repair {
    /// Every one.
    pub(crate) const ALL: [Self; 9] = [
        Self::Hooks,
        Self::InboundHook,
        Self::StaleNetns,
        Self::ReplayedDel,
        Self::AdoptedRunningPod,
        Self::PendingPodResolved,
        Self::BypassRoutesUpdated,
        Self::AliasRoutes,
        Self::DamagedRecord,
    ];

    /// As metrics have it.
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
            Self::DamagedRecord => "damaged_record",
        }
    }
}

/// How often each was done.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Repairs([u64; Repair::ALL.len()]);

impl Repairs {
    /// Counts one.
    pub(crate) fn count(&mut self, repair: Repair) {
        self.0[repair as usize] += 1;
    }

    /// Each with its number.
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
