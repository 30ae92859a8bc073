//! The routing of connections that the proxy opens from the addresses of its clients: packets with a
//! mark are delivered over `lo` in the calling thread's netns. It consists of a routing rule and a
//! local default route for each family, and of [`Switches`] that give the mark to the replies.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt as _;
use rtnetlink::{
    Handle, IpVersion,
    packet_route::{
        AddressFamily,
        route::{RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType},
        rule::{RuleAction, RuleAttribute, RuleMessage},
    },
};

use sluice_abi::NetnsEntry;

use super::{
    Error,
    links::{failed, loopback, with_handle},
    sysctl::Switches,
};

/// The routing table, and the priority of the rules: before the main table (32766), after the local
/// one (0). No other program that is known to work in Pods uses this table.
const TABLE: u32 = 15_006;
const PRIORITY: u32 = 15_006;

/// Address families.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Families {
    /// IPv4.
    pub(crate) v4: bool,
    /// IPv6.
    pub(crate) v6: bool,
}

/// The routing of connections that keep their source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SourceRouting {
    /// The mark of their packets.
    pub(crate) mark: u32,
    /// The families of the Pod's addresses.
    pub(crate) families: Families,
    /// The switches that Sluice switched on, and switches off.
    pub(crate) switches: Switches,
}

impl SourceRouting {
    /// The routing that an entry of `process_ip` announces to the programs, without its switches.
    pub(crate) fn announced(entry: &NetnsEntry) -> Option<Self> {
        (entry.pod.source_mark != 0).then(|| Self {
            mark: entry.pod.source_mark,
            families: Families {
                v4: !entry.v4.is_unspecified(),
                v6: !entry.v6.is_unspecified(),
            },
            switches: Switches::default(),
        })
    }
}

impl Families {
    /// The families of some addresses.
    pub(crate) fn of(addresses: &[IpAddr]) -> Self {
        Self {
            v4: addresses.iter().any(IpAddr::is_ipv4),
            v6: addresses.iter().any(IpAddr::is_ipv6),
        }
    }

    fn iter(self) -> impl Iterator<Item = AddressFamily> {
        let v4 = self.v4.then_some(AddressFamily::Inet);
        v4.into_iter()
            .chain(self.v6.then_some(AddressFamily::Inet6))
    }

    /// The switches that these families need.
    fn switches(self) -> Switches {
        Switches {
            accept: self.v4 || self.v6,
            reflect_v4: self.v4,
            reflect_v6: self.v6,
        }
    }
}

/// The switches that are off.
pub(super) fn switches_off(families: Families) -> Result<Switches, Error> {
    families.switches().off()
}

/// Installs everything, and removes it again after an error.
pub(super) fn install(routing: &SourceRouting) -> Result<(), Error> {
    let done = with_handle(async |handle| {
        let lo = loopback()?;
        for family in routing.families.iter() {
            add(&handle, family, routing.mark, lo).await?;
        }
        Ok(())
    });
    let done = done.and_then(|()| routing.families.switches().set(true));
    done.inspect_err(|_| {
        // The first error is the one to report.
        let _incomplete = remove(routing.switches);
    })
}

async fn add(handle: &Handle, family: AddressFamily, mark: u32, lo: u32) -> Result<(), Error> {
    let routed = handle.route().add(default_route(family, lo)).replace();
    routed
        .execute()
        .await
        .map_err(|source| failed("add the route over lo", source))?;
    // The rule of another mark, which an earlier configuration selected.
    remove_rules(handle, family, Some(mark)).await?;
    let mut added = handle.rule().add();
    *added.message_mut() = rule(family, Some(mark));
    match added.execute().await {
        Err(error) if !is(&error, libc::EEXIST) => Err(failed("add the routing rule", error)),
        _ => Ok(()),
    }
}

/// Removes everything that is there, and switches `switches` off.
pub(super) fn remove(switches: Switches) -> Result<(), Error> {
    let off = switches.set(false);
    with_handle(async |handle| {
        let lo = loopback()?;
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            remove_rules(&handle, family, None).await?;
            let removed = handle
                .route()
                .del(default_route(family, lo))
                .execute()
                .await;
            match removed {
                // There is no such route, or the family is disabled.
                Err(rtnetlink::Error::NetlinkError(_)) | Ok(()) => {}
                Err(source) => return Err(failed("remove the route over lo", source)),
            }
        }
        Ok(())
    })?;
    off
}

/// Removes Sluice's rules, except that of a mark.
async fn remove_rules(
    handle: &Handle,
    family: AddressFamily,
    except: Option<u32>,
) -> Result<(), Error> {
    for found in own_rules(handle, family).await? {
        if except.is_some() && mark(&found) == except {
            continue;
        }
        let removed = handle
            .rule()
            .del(rule(family, mark(&found)))
            .execute()
            .await;
        removed.map_err(|source| failed("remove the routing rule", source))?;
    }
    Ok(())
}

/// Whether the rules, the routes and the switches are there.
pub(super) fn is_installed(routing: &SourceRouting) -> Result<bool, Error> {
    let routed = with_handle(async |handle| {
        for family in routing.families.iter() {
            let rules = own_rules(&handle, family).await?;
            let is_ruled = rules.iter().any(|one| mark(one) == Some(routing.mark));
            if !is_ruled || !has_route(&handle, family).await? {
                return Ok(false);
            }
        }
        Ok(true)
    })?;
    Ok(routed && routing.families.switches().off()?.is_empty())
}

async fn own_rules(handle: &Handle, family: AddressFamily) -> Result<Vec<RuleMessage>, Error> {
    rules_that(is_own, handle, family).await
}

/// The routing rules of a family that a predicate selects.
pub(super) async fn rules_that(
    is_selected: impl Fn(&RuleMessage) -> bool,
    handle: &Handle,
    family: AddressFamily,
) -> Result<Vec<RuleMessage>, Error> {
    let version = match family {
        AddressFamily::Inet => IpVersion::V4,
        _ => IpVersion::V6,
    };
    let mut rules = handle.rule().get(version).execute();
    let mut selected = Vec::new();
    loop {
        match rules.try_next().await {
            Ok(Some(found)) => selected.extend(is_selected(&found).then_some(found)),
            // A kernel without the family has no rules of it.
            Ok(None) | Err(rtnetlink::Error::NetlinkError(_)) => return Ok(selected),
            Err(source) => return Err(failed("list the routing rules", source)),
        }
    }
}

async fn has_route(handle: &Handle, family: AddressFamily) -> Result<bool, Error> {
    let mut asked = RouteMessage::default();
    asked.header.address_family = family;
    let mut routes = handle.route().get(asked).execute();
    let in_table = RouteAttribute::Table(TABLE);
    loop {
        match routes.try_next().await {
            Ok(Some(found)) => {
                if found.header.kind == RouteType::Local && found.attributes.contains(&in_table) {
                    return Ok(true);
                }
            }
            Ok(None) | Err(rtnetlink::Error::NetlinkError(_)) => return Ok(false),
            Err(source) => return Err(failed("list the routes", source)),
        }
    }
}

/// Whether a rule is Sluice's.
pub(super) fn is_own(rule: &RuleMessage) -> bool {
    rule.attributes.contains(&RuleAttribute::Table(TABLE))
}

fn mark(rule: &RuleMessage) -> Option<u32> {
    rule.attributes
        .iter()
        .find_map(|attribute| match attribute {
            RuleAttribute::FwMark(mark) => Some(*mark),
            _ => None,
        })
}

fn rule(family: AddressFamily, mark: Option<u32>) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = family;
    message.header.action = RuleAction::ToTable;
    message.attributes = vec![
        RuleAttribute::Table(TABLE),
        RuleAttribute::Priority(PRIORITY),
    ];
    message.attributes.extend(mark.map(RuleAttribute::FwMark));
    message
}

/// A default route that makes every address local.
fn default_route(family: AddressFamily, lo: u32) -> RouteMessage {
    let any: IpAddr = match family {
        AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
        _ => Ipv6Addr::UNSPECIFIED.into(),
    };
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    message.header.table = RouteHeader::RT_TABLE_UNSPEC;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = RouteScope::Host;
    message.header.kind = RouteType::Local;
    message.attributes = vec![
        RouteAttribute::Destination(any.into()),
        RouteAttribute::Table(TABLE),
        RouteAttribute::Oif(lo),
    ];
    message
}

fn is(error: &rtnetlink::Error, errno: i32) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message) if message.raw_code() == -errno)
}
