//! A Pod's use of a shared map, and the number of its connections.

/// Value of `alias_usage`: one Pod's usage of the map `alias_to_dst`.
///
/// The programs increment both members without a lock, so concurrent CPUs can lose a count. The daemon
/// corrects `held` in each resync, and removes the entry together with the Pod's alias addresses.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AliasUsage {
    /// Entries of `alias_to_dst` that the Pod holds, at most
    /// [`DESTINATIONS_PER_POD`](crate::maps::DESTINATIONS_PER_POD) plus one for each CPU.
    pub held: u64,
    /// Connections without an entry since the Pod was enrolled. Each keeps its destination in socket
    /// storage.
    pub fallbacks: u64,
}

impl AliasUsage {
    /// Whether the Pod's share is used up.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.held >= crate::maps::DESTINATIONS_PER_POD
    }
}

/// The index of a count in [`PodCounters`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodCounter {
    /// Connections and DNS queries of the Pod that were redirected to the proxy.
    OutboundToProxy = 0,
    /// Those that were not redirected, the proxy's own included.
    OutboundDirect = 1,
    /// Connections to the Pod that the proxy got.
    InboundToProxy = 2,
    /// Those that the application got.
    InboundDirect = 3,
    /// Connections that were refused.
    Refused = 4,
}

impl PodCounter {
    /// The number of counts.
    pub const COUNT: usize = 5;
}

/// Value of `pod_counters` (per CPU): the number of a Pod's decisions since it was enrolled.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PodCounters([u64; PodCounter::COUNT]);

impl PodCounters {
    /// Counts one decision.
    pub const fn add(&mut self, counter: PodCounter) {
        self.0[counter as usize] += 1;
    }

    /// One count.
    #[must_use]
    pub const fn get(&self, counter: PodCounter) -> u64 {
        self.0[counter as usize]
    }

    /// The sum of both.
    #[must_use]
    pub fn plus(mut self, other: Self) -> Self {
        for (sum, count) in self.0.iter_mut().zip(other.0) {
            *sum += count;
        }
        self
    }
}

/// Value of `before_proxy`: outbound connections of a Pod before its proxy listens.
///
/// The daemon writes the entry when it enrolls the Pod. `sock_ops` closes it when the proxy listens for
/// the first time, before `listen(2)` returns; nothing opens it again.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BeforeProxy {
    /// 1 while connections bypass the proxy, then 0.
    pub open: u64,
    /// Connections that bypassed the proxy. Concurrent CPUs can lose a count.
    pub count: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_full_at_the_share() {
        let share = crate::maps::DESTINATIONS_PER_POD;
        for (held, full) in [(0, false), (share - 1, false), (share, true)] {
            let usage = AliasUsage { held, fallbacks: 0 };
            assert_eq!(usage.is_full(), full, "{held}");
        }
        assert_eq!((size_of::<AliasUsage>(), align_of::<AliasUsage>()), (16, 8));
    }
}
