//! Usage of a shared map by one Pod.

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
