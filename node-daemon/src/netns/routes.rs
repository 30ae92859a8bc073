//! By which interfaces and from which addresses packets leave the calling thread's network
//! namespace, over rtnetlink.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use futures_util::TryStreamExt as _;
use ipnet::IpNet;
use rtnetlink::{
    Handle, IpVersion, RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        route::{
            RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
            RouteType,
        },
        rule::{RuleAction, RuleMessage},
    },
};

use super::{
    Error,
    links::{collect, failed, loopback, with_handle},
    netlink::Limit,
};

/// Routes and routing rules that are read, and networks of routes for which the source is looked up.
const ROUTES: Limit = Limit {
    what: "routes",
    most: 16_384,
};
const RULES: Limit = Limit {
    what: "routing rules",
    most: 4096,
};
const NETWORKS: Limit = Limit {
    what: "networks with a route",
    most: 1024,
};

/// The table of the namespace's own addresses, the main one, and the one for what is left
/// (`RT_TABLE_LOCAL`, `RT_TABLE_MAIN`, `RT_TABLE_DEFAULT`).
const USUAL: [u8; 3] = [LOCAL, RouteHeader::RT_TABLE_MAIN, 253];
const LOCAL: u8 = 255;

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

/// A network, and from where it is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    /// The network.
    pub(crate) to: IpNet,
    /// The address.
    pub(crate) from: IpAddr,
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
            let rules = handle.rule().get(version).execute();
            let rules = collect(rules, RULES, "list the routing rules").await?;
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
    let messages = collect(
        handle.route().get(asked).execute(),
        ROUTES,
        "list the routes",
    )
    .await?;
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

/// From which address packets leave for each network of the main table. The routes do not say so by
/// themselves: the kernel is asked for an address of each.
pub(super) fn sources() -> Result<Vec<Source>, Error> {
    with_handle(async |handle| {
        let mut all = Vec::new();
        for version in [IpVersion::V4, IpVersion::V6] {
            let routes = main_table(&handle, &version).await?;
            let networks: BTreeSet<IpNet> = routes.iter().map(|route| route.to.trunc()).collect();
            NETWORKS.check(networks.len())?;
            for to in networks.into_iter().filter(|to| !is_link_local(to)) {
                let from = source_for(&handle, an_address(&to)).await?;
                all.extend(from.map(|from| Source { to, from }));
            }
        }
        Ok(all)
    })
}

/// An address to which the route to a network leads, and no longer one that is usual.
fn an_address(network: &IpNet) -> IpAddr {
    match network {
        IpNet::V4(all) if all.prefix_len() == 0 => NOBODY.0.into(),
        IpNet::V6(all) if all.prefix_len() == 0 => NOBODY.1.into(),
        _ => network.network(),
    }
}

/// The source that the kernel names; none if no route leads there.
async fn source_for(handle: &Handle, to: IpAddr) -> Result<Option<IpAddr>, Error> {
    Ok(route_to(handle, to).await?.as_ref().and_then(source))
}

/// The route that the kernel chooses, if there is one.
async fn route_to(handle: &Handle, to: IpAddr) -> Result<Option<RouteMessage>, Error> {
    let asked = match to {
        IpAddr::V4(to) => RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(to, 32)
            .build(),
        IpAddr::V6(to) => RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(to, 128)
            .build(),
    };
    match handle.route().get(asked).execute().try_next().await {
        Ok(answer) => Ok(answer),
        Err(rtnetlink::Error::NetlinkError(_)) => Ok(None),
        Err(source) => Err(failed("ask for a route", source)),
    }
}

/// The source in an answer.
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

/// Makes every address of some networks the namespace's own, so that connections to them leave from
/// the sources that are named (a route of the type `local`, ip-route(8)), and those of other networks
/// no longer. Returns what is refused: its family may be off, or the source not be in use yet.
pub(super) fn lay(gone: &[IpNet], new: &[Source]) -> Result<Vec<Source>, Error> {
    with_handle(async |handle| {
        let lo = loopback()?;
        for network in gone {
            let removed = handle.route().del(local(network, lo)).execute().await;
            // It is not there, or its family is off.
            removed.or_else(unless_refused("remove a route"))?;
        }
        let mut refused = Vec::new();
        for route in new {
            let mut message = local(&route.to, lo);
            let source = RouteAttribute::PrefSource(route.from.into());
            message.attributes.push(source);
            let laid = handle.route().add(message).replace().execute().await;
            let laid = laid.map(|()| true);
            if !laid.or_else(unless_refused("add a route"))? {
                refused.push(*route);
            }
        }
        Ok(refused)
    })
}

/// Those of these routes that are in place.
pub(super) fn laid(routes: &[Source]) -> Result<Vec<Source>, Error> {
    with_handle(async |handle| {
        let mut all = Vec::new();
        for route in routes {
            let chosen = route_to(&handle, route.to.network()).await?;
            let is_it = |chosen: &RouteMessage| {
                chosen.header.kind == RouteType::Local && source(chosen) == Some(route.from)
            };
            all.extend(chosen.as_ref().is_some_and(is_it).then_some(*route));
        }
        Ok(all)
    })
}

/// A route by which a whole network is the namespace's own.
fn local(network: &IpNet, lo: u32) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = match network {
        IpNet::V4(_) => AddressFamily::Inet,
        IpNet::V6(_) => AddressFamily::Inet6,
    };
    message.header.destination_prefix_length = network.prefix_len();
    message.header.table = LOCAL;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = RouteScope::Host;
    message.header.kind = RouteType::Local;
    message.attributes = vec![
        RouteAttribute::Destination(network.network().into()),
        RouteAttribute::Oif(lo),
    ];
    message
}

/// To the kernel's refusal the answer is no; everything else is an error.
fn unless_refused<T: Default>(
    operation: &'static str,
) -> impl FnOnce(rtnetlink::Error) -> Result<T, Error> {
    move |error| match error {
        rtnetlink::Error::NetlinkError(_) => Ok(T::default()),
        other => Err(failed(operation, other)),
    }
}

/// Whether a rule is none of those that every namespace has.
fn is_unusual(rule: &RuleMessage) -> bool {
    rule.header.action != RuleAction::ToTable || !USUAL.contains(&rule.header.table)
}

/// Every interface has a route to these, and the address names the one that is meant.
pub(crate) fn is_link_local(to: &IpNet) -> bool {
    matches!(to, IpNet::V6(to) if to.addr().is_unicast_link_local())
}
