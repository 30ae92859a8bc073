//! Virtual interfaces of the calling thread's netns, whose connections go to the proxy: the `tc` programs
//! on them, the setting that lets their packets reach alias addresses, and a routing rule for each name.
//!
//! The rule refuses TCP packets from an interface that none of the programs has passed
//! ([`REROUTE_MARK`]). It names the interface, so it applies from the moment at which an interface of that
//! name appears, with or without a daemon.

use std::os::fd::{AsFd as _, OwnedFd};

use rtnetlink::{
    Handle,
    packet_route::{
        AddressFamily, IpProtocol,
        rule::{RuleAction, RuleAttribute, RuleMessage},
    },
};
use sluice_abi::{NetnsEntry, PodFlags, REROUTE_MARK};

use super::{
    Error, Families,
    links::{self, VirtualLink, failed, with_handle},
    source_routing, sysctl,
    tc::{self, Hook},
};

/// The priority of the rules: after the local table (0), before every other one.
const PRIORITY: u32 = 15_005;
/// The labels of the filters: the second one states that Sluice enabled `route_localnet`.
const LABEL: &str = "sluice";
const LABEL_SETTING: &str = "sluice+route_localnet";

/// The virtual interfaces of a Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rerouting {
    /// Their names.
    pub(crate) names: Vec<String>,
    /// The redirected families.
    pub(crate) families: Families,
    /// Those that exist.
    pub(crate) links: Vec<VirtualLink>,
}

impl Rerouting {
    /// That of a Pod whose entry of `process_ip` says that it has some. It equals none that is desired, so it
    /// is installed again.
    pub(crate) fn announced(entry: &NetnsEntry) -> Option<Self> {
        (entry.pod.flags.has(PodFlags::REROUTES)).then(|| Self {
            names: Vec::new(),
            families: Families::default(),
            links: Vec::new(),
        })
    }
}

/// Installs the rules, then the programs, in the order of the links.
pub(super) fn install(rerouting: &Rerouting, programs: Vec<[OwnedFd; 2]>) -> Result<(), Error> {
    set_rules(Some(rerouting))?;
    for (link, programs) in rerouting.links.iter().zip(programs) {
        let is_own = has_own_setting(link)?;
        let label = if sysctl::enable_route_localnet(&link.name)? || is_own {
            LABEL_SETTING
        } else {
            LABEL
        };
        for (hook, program) in Hook::BOTH.into_iter().zip(programs) {
            tc::attach(link.index, hook, label, program.as_fd())?;
        }
    }
    Ok(())
}

/// Detaches the programs of interfaces that are not virtual any more, or gone.
pub(super) fn detach(links: &[VirtualLink]) -> Result<(), Error> {
    for link in links {
        let is_own = has_own_setting(link)?;
        tc::detach(link.index)?;
        if is_own {
            sysctl::disable_route_localnet(&link.name)?;
        }
    }
    Ok(())
}

/// Whether Sluice enabled `route_localnet` of an interface, as the label of either filter says: another
/// program may have removed one.
fn has_own_setting(link: &VirtualLink) -> Result<bool, Error> {
    for hook in Hook::BOTH {
        if tc::label(link.index, hook)?.as_deref() == Some(LABEL_SETTING) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Removes everything that is there.
pub(super) fn remove() -> Result<(), Error> {
    if is_absent()? {
        return Ok(());
    }
    detach(&links::all()?)?;
    set_rules(None)
}

/// Whether the rules and the programs are there.
pub(super) fn is_installed(rerouting: &Rerouting) -> Result<bool, Error> {
    let ruled = with_handle(async |handle| {
        for family in families(rerouting.families) {
            let found = own_rules(&handle, family).await?;
            let has = |name: &String| found.iter().any(|rule| interface(rule) == Some(&**name));
            if !rerouting.names.iter().all(has) {
                return Ok(false);
            }
        }
        Ok(true)
    })?;
    for link in &rerouting.links {
        for hook in Hook::BOTH {
            if tc::label(link.index, hook)?.is_none() {
                return Ok(false);
            }
        }
    }
    Ok(ruled)
}

/// Whether a rule is Sluice's.
pub(super) fn is_own(rule: &RuleMessage) -> bool {
    rule.header.action == RuleAction::Prohibit
        && (rule.attributes).contains(&RuleAttribute::FwMask(REROUTE_MARK))
}

fn is_absent() -> Result<bool, Error> {
    with_handle(async |handle| {
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            if !own_rules(&handle, family).await?.is_empty() {
                return Ok(false);
            }
        }
        Ok(true)
    })
}

/// Makes Sluice's rules those of `rerouting`.
fn set_rules(rerouting: Option<&Rerouting>) -> Result<(), Error> {
    with_handle(async |handle| {
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let wanted = rerouting.filter(|one| families(one.families).any(|own| own == family));
            let names = wanted.map(|one| &*one.names).unwrap_or_default();
            set_family(&handle, family, names).await?;
        }
        Ok(())
    })
}

async fn set_family(handle: &Handle, family: AddressFamily, names: &[String]) -> Result<(), Error> {
    let found = own_rules(handle, family).await?;
    for name in names {
        if found.iter().any(|one| interface(one) == Some(&**name)) {
            continue;
        }
        let mut added = handle.rule().add();
        *added.message_mut() = rule(family, name);
        match added.execute().await {
            Ok(()) => {}
            Err(error) if is(&error, libc::EEXIST) => {}
            Err(source) => return Err(failed("add the rule of a virtual interface", source)),
        }
    }
    for stale in found {
        if interface(&stale).is_some_and(|name| names.iter().any(|one| one == name)) {
            continue;
        }
        let name = interface(&stale).unwrap_or_default().to_owned();
        let removed = handle.rule().del(rule(family, &name)).execute().await;
        removed.map_err(|source| failed("remove the rule of a virtual interface", source))?;
    }
    Ok(())
}

async fn own_rules(handle: &Handle, family: AddressFamily) -> Result<Vec<RuleMessage>, Error> {
    source_routing::rules_that(is_own, handle, family).await
}

fn families(families: Families) -> impl Iterator<Item = AddressFamily> {
    let v4 = families.v4.then_some(AddressFamily::Inet);
    v4.into_iter()
        .chain(families.v6.then_some(AddressFamily::Inet6))
}

fn interface(rule: &RuleMessage) -> Option<&str> {
    rule.attributes
        .iter()
        .find_map(|attribute| match attribute {
            RuleAttribute::Iifname(name) => Some(&**name),
            _ => None,
        })
}

fn rule(family: AddressFamily, name: &str) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = family;
    message.header.action = RuleAction::Prohibit;
    message.attributes = vec![
        RuleAttribute::Priority(PRIORITY),
        RuleAttribute::Iifname(name.to_owned()),
        RuleAttribute::IpProtocol(IpProtocol::Tcp),
        RuleAttribute::FwMark(0),
        RuleAttribute::FwMask(REROUTE_MARK),
    ];
    message
}

fn is(error: &rtnetlink::Error, errno: i32) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message) if message.raw_code() == -errno)
}
