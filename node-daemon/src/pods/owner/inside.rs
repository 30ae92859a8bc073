//! What a Pod's own network namespace tells of its settings, and that this may change.

use std::net::IpAddr;

use tracing::{error, info, warn};

use super::Owner;
use crate::{
    bpf::Features,
    netns::{Interface, Netns},
    pods::{
        Error, Repair,
        aside::{self, Aside},
        enrol::Site,
        error::one_line,
        lists,
        plan::{self, Held},
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
    lists::check_routes(sources.len())?;
    let aside = if settings.excluded_interfaces.is_empty() {
        settings.aside
    } else {
        let routes = netns.routes()?;
        lists::check_routes(routes.main.len())?;
        Aside::by(&settings.excluded_interfaces, interfaces, &routes)?
    };
    let settings = Settings {
        aside,
        sources,
        ..settings
    };
    lists::check(&settings)?;
    Ok(settings)
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

    /// Puts routes back by which connections come to their proxy, and lays those that were refused
    /// before: without them each connection is bound by itself.
    pub(super) fn mend_routes(&mut self) {
        let all: Vec<u64> = self.pods.keys().copied().collect();
        for cookie in all {
            match self.lay_again(cookie) {
                Ok(false) => {}
                Ok(true) => {
                    self.repairs.count(Repair::RoutesToProxy);
                    let pod = self.name_of(cookie);
                    warn!(pod, "routes of a Pod to its proxy were missing");
                }
                Err(error) => {
                    let pod = self.name_of(cookie);
                    error!(
                        pod,
                        error = one_line(&error),
                        "routes to its proxy are missing"
                    );
                }
            }
        }
    }

    /// `true` if a route was missing that is wanted, unless it is refused as before.
    fn lay_again(&mut self, cookie: u64) -> Result<bool, Error> {
        let addresses = self.addresses_of(cookie);
        let Some(pod) = self.pods.get_mut(&cookie) else {
            return Ok(false);
        };
        let Some(netns) = pod.reopen() else {
            return Ok(false);
        };
        let before = pod.kernel.held().clone();
        let wanted = plan::wanted(cookie, &pod.settings, &addresses, before.passthrough);
        let laid = netns.laid(wanted.routes.clone())?;
        if laid == wanted.routes && laid == before.routes {
            return Ok(false);
        }
        let lost = before.routes.iter().any(|route| !laid.contains(route));
        pod.kernel.forget(|held| Held {
            routes: laid,
            ..held
        });
        let mut site = Site {
            datapath: &mut self.datapath,
            netns: Some(&netns),
        };
        pod.kernel.take_in(&mut site, wanted)?;
        Ok(lost || *pod.kernel.held() != before)
    }

    /// The addresses of all attachments of a Pod.
    pub(super) fn addresses_of(&self, cookie: u64) -> Vec<IpAddr> {
        let pods = self.pods.get(&cookie).into_iter();
        pods.flat_map(|pod| &pod.attachments)
            .filter_map(|one| self.attachments.get(one))
            .flat_map(|known| known.record.addresses())
            .collect()
    }

    /// `true` if something changed.
    fn follow(&mut self, cookie: u64) -> Result<bool, Error> {
        let addresses = self.addresses_of(cookie);
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
