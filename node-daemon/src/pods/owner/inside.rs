//! What a Pod's own network namespace tells of its settings, and that this may change.

use std::net::IpAddr;

use tracing::{info, warn};

use super::Owner;
use crate::{
    bpf::Features,
    netns::Netns,
    pods::{
        Error, Repair,
        aside::{self, Aside},
        enrol::Site,
        error::one_line,
        plan,
        policy::Settings,
    },
};

/// Settings with users as the host numbers them, with the addresses that routes prefer, and with
/// the networks to which excluded interfaces lead.
pub(super) fn seen_inside(
    settings: Settings,
    netns: &Netns,
    features: Features,
) -> Result<Settings, Error> {
    let settings = settings.seen_outside(&netns.users()?)?;
    let settings = Settings {
        sources: netns.sources()?,
        ..settings
    };
    if settings.excluded_interfaces.is_empty() {
        return Ok(settings);
    }
    if !features.ingress {
        return Err(aside::Error::Kernel.into());
    }
    let aside = aside_in(&settings, netns)?;
    Ok(Settings { aside, ..settings })
}

fn aside_in(settings: &Settings, netns: &Netns) -> Result<Aside, Error> {
    let Settings {
        excluded_interfaces,
        ..
    } = settings;
    let (interfaces, routes) = (netns.interfaces()?, netns.routes()?);
    Ok(Aside::by(excluded_interfaces, &interfaces, &routes)?)
}

impl Owner {
    /// Follows the routes of Pods that exclude interfaces: networks may be added to a Pod without
    /// anybody telling.
    pub(super) fn follow_routes(&mut self) {
        let all: Vec<u64> = (self.pods.iter())
            .filter(|(_, pod)| !pod.settings.excluded_interfaces.is_empty())
            .map(|(cookie, _)| *cookie)
            .collect();
        for cookie in all {
            match self.follow(cookie) {
                Ok(false) => {}
                Ok(true) => info!(
                    pod = self.name_of(cookie),
                    "the routes of excluded interfaces changed"
                ),
                Err(error) => {
                    let pod = self.name_of(cookie);
                    warn!(
                        pod,
                        error = one_line(&error),
                        "excluded interfaces are not followed"
                    );
                }
            }
        }
    }

    /// `true` if something changed.
    fn follow(&mut self, cookie: u64) -> Result<bool, Error> {
        let Some(pod) = self.pods.get_mut(&cookie) else {
            return Ok(false);
        };
        let Some(netns) = pod.reopen() else {
            return Ok(false);
        };
        let aside = aside_in(&pod.settings, &netns)?;
        if aside == pod.settings.aside {
            return Ok(false);
        }
        let settings = Settings {
            aside,
            ..pod.settings.clone()
        };
        let held = pod.kernel.held();
        let addresses: Vec<IpAddr> = (pod.attachments.iter())
            .filter_map(|one| self.attachments.get(one))
            .flat_map(|known| known.record.addresses())
            .collect();
        let wanted = plan::wanted(cookie, &settings, &addresses, held.passthrough);
        let mut site = Site {
            datapath: &mut self.datapath,
            netns: Some(&netns),
        };
        pod.kernel.take_in(&mut site, wanted)?;
        pod.settings = settings;
        self.repairs.count(Repair::Routes);
        Ok(true)
    }
}
