//! What a Pod's own network namespace tells of its settings, and that this may change.

use std::net::IpAddr;

use tracing::{info, warn};

use super::Owner;
use crate::{
    bpf::Features,
    netns::{Interface, Netns},
    pods::{
        Error, Repair,
        aside::{self, Aside},
        enrol::Site,
        error::one_line,
        plan,
        policy::Settings,
        sources,
    },
};

/// Settings with users as the host numbers them, with the addresses that routes prefer, and with
/// the networks to which excluded interfaces lead.
pub(super) fn seen_inside(
    settings: Settings,
    netns: &Netns,
    interfaces: &[Interface],
    features: Features,
) -> Result<Settings, Error> {
    let settings = settings.seen_outside(&netns.users()?)?;
    if !settings.excluded_interfaces.is_empty() && !features.ingress {
        return Err(aside::Error::Kernel.into());
    }
    routed(settings, netns, interfaces)
}

/// Settings with what routes tell. Pods with one address and no wishes, nearly all, are not asked.
fn routed(settings: Settings, netns: &Netns, interfaces: &[Interface]) -> Result<Settings, Error> {
    let sources = if sources::is_unclear(interfaces) {
        netns.sources()?
    } else {
        Vec::new()
    };
    let aside = if settings.excluded_interfaces.is_empty() {
        settings.aside
    } else {
        Aside::by(&settings.excluded_interfaces, interfaces, &netns.routes()?)?
    };
    Ok(Settings {
        aside,
        sources,
        ..settings
    })
}

impl Owner {
    /// Follows the routes of Pods of which they matter: networks may be added to a Pod without
    /// anybody telling.
    pub(super) fn follow_routes(&mut self) {
        let by_routes = |settings: &Settings| {
            !settings.excluded_interfaces.is_empty() || !settings.sources.is_empty()
        };
        let all: Vec<u64> = (self.pods.iter())
            .filter(|(_, pod)| by_routes(&pod.settings))
            .map(|(cookie, _)| *cookie)
            .collect();
        for cookie in all {
            match self.follow(cookie) {
                Ok(false) => {}
                Ok(true) => info!(pod = self.name_of(cookie), "its routes changed"),
                Err(error) => {
                    let pod = self.name_of(cookie);
                    warn!(pod, error = one_line(&error), "its routes are not followed");
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
        let settings = routed(pod.settings.clone(), &netns, &netns.interfaces()?)?;
        if settings == pod.settings {
            return Ok(false);
        }
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
