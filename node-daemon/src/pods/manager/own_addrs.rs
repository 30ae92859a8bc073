//! The log of Pods with more addresses than their share of `own_addrs`.

use sluice_abi::maps::OWN_ADDRS_PER_POD;
use tracing::warn;

use super::PodManager;

impl PodManager {
    /// Logs such Pods, each once.
    pub(super) fn log_cut_addresses(&mut self) {
        let found = self.view().with_cut_addresses();
        for cookie in self.logs.new_cut_addresses(found) {
            warn!(
                pod = self.view().name_of(cookie),
                share = OWN_ADDRS_PER_POD,
                "the Pod has more addresses than its share; its calls to itself at the others are treated as \
                 calls to another host"
            );
        }
    }
}
