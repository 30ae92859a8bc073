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
        let pod = self.view().name_of(key.cookie);
        let (port, protocol) = (key.port.get(), protocol(key));
        let event = if found.uid == Event::NO_UID {
            "process that is not the proxy listens on a port of the proxy, which it has without \
             bind(2) or from before its Pod was known; inbound connections do not reach it. Check \
             the process and end it"
        } else {
            "port of the proxy was refused to a process that is not the proxy"
        };
        warn!(
            pod,
            port, protocol, uid, proxy_uid, dropped, "{event}: {REMEDY}"
        );
    }

    /// Forgets the foreign listeners that have ended: the connections of their users are redirected again.
    pub(super) fn forget_foreign_listeners(&mut self) {
        for cookie in self.namespaces.cookies() {
            let counted = self.namespaces.get(cookie);
            let counted = counted.is_some_and(|pod| pod.foreign_listeners() > 0);
            match self.datapath.foreign_listener(cookie) {
                Ok(None) if !counted => {}
                Ok(_) => self.find_foreign_listener(cookie),
                Err(error) => error!(
                    error = one_line(&error),
                    "failed to read the foreign_listeners map"
                ),
            }
        }
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
