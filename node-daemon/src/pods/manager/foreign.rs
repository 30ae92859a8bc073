//! The log of processes that are not the proxy and use the proxy's ports.

use sluice_abi::{Event, ForeignKey, ForeignUse};
use tracing::{error, warn};

use super::{
    PodManager,
    view::{REMEDY, protocol},
};
use crate::pods::error::one_line;

impl PodManager {
    /// Logs the denials since the last call, and looks up the users of listeners.
    pub(in crate::pods) fn report_foreign(&mut self) {
        let found = match self.datapath.foreign_binds() {
            Ok(found) => found,
            Err(error) => {
                return error!(
                    error = one_line(&error),
                    "failed to read the foreign_binds map"
                );
            }
        };
        for (key, found) in self.logs.new_denials(found) {
            self.report_one(key, found);
        }
    }

    fn report_one(&mut self, key: ForeignKey, found: ForeignUse) {
        if found.uid == Event::NO_UID {
            self.find_foreign_listener(key.cookie);
        }
        let Some(dropped) = self.logs.pass() else {
            return;
        };
        let (uid, proxy_uid) = self.view().users(key.cookie, found.uid);
        warn!(
            pod = self.view().name_of(key.cookie),
            port = key.port.get(),
            protocol = protocol(key),
            uid,
            proxy_uid,
            dropped,
            "port of the proxy was refused to a process that is not the proxy: {REMEDY}"
        );
    }

    /// Stores the user of a foreign listener on a Pod's outbound port.
    fn find_foreign_listener(&mut self, cookie: u64) {
        let Some(pod) = self.namespaces.get(cookie) else {
            return;
        };
        if let Err(error) = pod.find_foreign_listener(&mut self.datapath) {
            let pod = self.view().name_of(cookie);
            error!(
                pod,
                error = one_line(&error),
                "failed to read the Pod's listeners"
            );
        }
    }
}
