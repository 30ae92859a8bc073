//! The log of Pods whose IPv6 traffic bypasses a proxy that listens on IPv6.

use tracing::warn;

use super::PodManager;

impl PodManager {
    /// Logs such Pods, each once.
    pub(super) fn log_ipv6_unserved(&mut self) {
        let Ok(found) = self.view().ipv6_unserved() else {
            return;
        };
        for cookie in self.logs.new_ipv6_unserved(found) {
            warn!(
                pod = self.view().name_of(cookie),
                "the proxy listens on IPv6, but IPv6 bypasses it. If the mesh has dual stack, set families = \
                 \"both\", or sluice.io/families: both on the Pod"
            );
        }
    }
}
