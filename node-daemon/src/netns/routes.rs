//! By which interfaces and from which addresses packets leave the calling thread's network
//! namespace, over rtnetlink.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt as _;
use ipnet::IpNet;
use rtnetlink::{
    Handle, IpVersion, RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage},
        rule::{RuleAction, RuleMessage},
    },
};

use super::{
    Error,
    links::{failed, with_handle},
};

/// The table of the namespace's own addresses, the main one, and the one for what is left
/// (`RT_TABLE_LOCAL`, `RT_TABLE_MAIN`, `RT_TABLE_DEFAULT`).
const USUAL: [u8; 3] = [255, RouteHeader::RT_TABLE_MAIN, 253];

/// Nobody has these addresses (RFC 5737, RFC 3849), so only a default route leads to them.
const NOBODY: (Ipv4Addr, Ipv6Addr) = (
    Ipv4Addr::new(198, 51, 100, 1),
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1),
);

/// A route to a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    /// The network.
    pub(crate) to: IpNet,
    /// Indices of the interfaces of its next hops; none if it leads nowhere.
    pub(crate) interfaces: Vec<u32>,
    /// Of several to one network the lowest counts.
    pub(crate) metric: u32,
}

/// How packets are routed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Routes {
    /// The main table.
    pub(crate) main: Vec<Route>,
    /// Rules send some packets past it.
    pub(crate) ruled: bool,
}

/// Both families' routes.
pub(super) fn routes() -> Result<Routes, Error> {
    with_handle(async |handle| {
        let mut all = Routes {
            main: Vec::new(),
            ruled: false,
        };
        for version in [IpVersion::V4, IpVersion::V6] {
            all.main.extend(main_table(&handle, &version).await?);
            let rules: Vec<_> = handle
                .rule()
                .get(version)
                .execute()
                .try_collect()
                .await
                .map_err(|source| failed("list the routing rules", source))?;
            all.ruled |= rules.iter().any(is_unusual);
        }
        Ok(all)
    })
}

async fn main_table(handle: &Handle, version: &IpVersion) -> Result<Vec<Route>, Error> {
    let mut asked = RouteMessage::default();
    asked.header.address_family = match version {
        IpVersion::V4 => AddressFamily::Inet,
        IpVersion::V6 => AddressFamily::Inet6,
    };
    let messages: Vec<_> = handle
        .route()
        .get(asked)
        .execute()
        .try_collect()
        .await
        .map_err(|source| failed("list the routes", source))?;
    Ok(messages.iter().filter_map(route).collect())
}

/// A route of the main table.
fn route(message: &RouteMessage) -> Option<Route> {
    let header = &message.header;
    if header.table != RouteHeader::RT_TABLE_MAIN {
        return None;
    }
    // What has no address leads to all.
    let mut address: IpAddr = match header.address_family {
        AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let (mut interfaces, mut metric) = (Vec::new(), 0);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(to)) => address = (*to).into(),
            RouteAttribute::Destination(RouteAddress::Inet6(to)) => address = (*to).into(),
            RouteAttribute::Oif(index) => interfaces.push(*index),
            RouteAttribute::MultiPath(hops) => {
                interfaces.extend(hops.iter().map(|hop| hop.interface_index));
            }
            RouteAttribute::Priority(priority) => metric = *priority,
            _ => {}
        }
    }
    Some(Route {
        to: IpNet::new(address, header.destination_prefix_length).ok()?,
        interfaces,
        metric,
    })
}

/// The address from which packets leave by the default route, for each family that has one.
pub(super) fn sources() -> Result<Vec<IpAddr>, Error> {
    let (v4, v6) = NOBODY;
    let v4 = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(v4, 32);
    let v6 = RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(v6, 128);
    with_handle(async |handle| {
        let mut all = Vec::new();
        for asked in [v4.build(), v6.build()] {
            match handle.route().get(asked).execute().try_next().await {
                Ok(answer) => all.extend(answer.as_ref().and_then(source)),
                // No route leads there.
                Err(rtnetlink::Error::NetlinkError(_)) => {}
                Err(source) => return Err(failed("ask for the default route", source)),
            }
        }
        Ok(all)
    })
}

/// The source that the kernel names in its answer.
fn source(answer: &RouteMessage) -> Option<IpAddr> {
    answer
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::PrefSource(RouteAddress::Inet(from)) => Some((*from).into()),
            RouteAttribute::PrefSource(RouteAddress::Inet6(from)) => Some((*from).into()),
            _ => None,
        })
}

/// Whether a rule is none of those that every namespace has.
fn is_unusual(rule: &RuleMessage) -> bool {
    rule.header.action != RuleAction::ToTable || !USUAL.contains(&rule.header.table)
}
