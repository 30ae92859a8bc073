//! Routes of the calling thread's netns, over rtnetlink: interfaces and source addresses of its
//! packets, and the alias routes.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use futures_util::TryStreamExt as _;
use ipnet::{IpNet, Ipv6Net};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use rtnetlink::{
    Handle, IpVersion, RouteMessageBuilder,
    packet_core::{DefaultNla, Emitable as _},
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
    netlink::{Limit, Request},
    rerouting, source_routing,
};

/// The limit of routes, of routing rules, and of networks whose source is looked up.
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

/// `RTM_NEWROUTE`, `RTM_DELROUTE` (`linux/rtnetlink.h`).
const NEW_ROUTE: u16 = 24;
const DEL_ROUTE: u16 = 25;
/// `RTM_NEWNEXTHOP`, `RTM_DELNEXTHOP`.
const NEW_NEXTHOP: u16 = 104;
const DEL_NEXTHOP: u16 = 105;

/// `RTA_NH_ID`, and `NHA_ID` and `NHA_BLACKHOLE` (`linux/nexthop.h`).
const RTA_NH_ID: u16 = 30;
const NHA_ID: u16 = 1;
const NHA_BLACKHOLE: u16 = 4;
/// The identifier of the nexthop of the IPv6 guard, in each netns.
const GUARD_NEXTHOP: u32 = 0x534c_4943;

/// The default routing tables (`RT_TABLE_LOCAL`, `RT_TABLE_MAIN`, `RT_TABLE_DEFAULT`).
const DEFAULT_TABLES: [u8; 3] = [LOCAL, RouteHeader::RT_TABLE_MAIN, 253];
const LOCAL: u8 = 255;

/// Reserved for documentation (RFC 5737, RFC 3849), so only a default route leads to them.
const TEST_NET_ADDR: (Ipv4Addr, Ipv6Addr) = (
    Ipv4Addr::new(198, 51, 100, 1),
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1),
);

/// A route to a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    /// The network.
    pub(crate) dst: IpNet,
    /// Indices of the interfaces of its next hops; empty if it is unreachable.
    pub(crate) interfaces: Vec<u32>,
    /// The lowest metric of several routes to one network wins.
    pub(crate) metric: u32,
}

/// A network with its preferred source address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SourceRoute {
    /// The network.
    pub(crate) dst: IpNet,
    /// The address.
    pub(crate) prefsrc: IpAddr,
}

/// The routing of packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RoutingTable {
    /// The main table.
    pub(crate) main: Vec<Route>,
    /// Policy rules select other tables for some packets.
    pub(crate) has_policy_rules: bool,
}

/// The routes of both families.
pub(super) fn routes() -> Result<RoutingTable, Error> {
    with_handle(async |handle| {
        let mut all = RoutingTable {
            main: Vec::new(),
            has_policy_rules: false,
        };
        for version in [IpVersion::V4, IpVersion::V6] {
            all.main.extend(main_table(&handle, &version).await?);
            let rules = handle.rule().get(version).execute();
            let rules = collect(rules, RULES, "list the routing rules").await?;
            all.has_policy_rules |= rules.iter().any(is_custom_rule);
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
    // A route without a destination is a default route.
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
        dst: IpNet::new(address, header.destination_prefix_length).ok()?,
        interfaces,
        metric,
    })
}

/// The source address of packets to each network of the main table. Routes need not state it: the
/// kernel looks it up for one address of each network.
pub(super) fn sources() -> Result<Vec<SourceRoute>, Error> {
    with_handle(async |handle| {
        let mut all = Vec::new();
        for version in [IpVersion::V4, IpVersion::V6] {
            let routes = main_table(&handle, &version).await?;
            let networks: BTreeSet<IpNet> = routes.iter().map(|route| route.dst.trunc()).collect();
            NETWORKS.check(networks.len())?;
            for to in networks.into_iter().filter(|to| !is_link_local(to)) {
                let from = source_for(&handle, probe_addr(&to)).await?;
                all.extend(from.map(|from| SourceRoute {
                    dst: to,
                    prefsrc: from,
                }));
            }
        }
        Ok(all)
    })
}

/// An address of a network that is unlikely to match a more specific route.
fn probe_addr(network: &IpNet) -> IpAddr {
    match network {
        IpNet::V4(all) if all.prefix_len() == 0 => TEST_NET_ADDR.0.into(),
        IpNet::V6(all) if all.prefix_len() == 0 => TEST_NET_ADDR.1.into(),
        _ => network.network(),
    }
}

/// The source address that the kernel returns; `None` without a route.
async fn source_for(handle: &Handle, to: IpAddr) -> Result<Option<IpAddr>, Error> {
    Ok(route_to(handle, to).await?.as_ref().and_then(source))
}

/// The route that the kernel selects, if any.
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

/// The source address in a reply.
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

/// Makes all addresses of some networks local, with preferred sources (a route of the type `local`,
/// ip-route(8)), and removes such routes to other networks. Returns the refused routes: the family
/// may be disabled, or the source address not assigned yet.
///
/// An IPv6 route gets a guard: a socket that is bound to another interface than `lo` does not match the
/// local route, and its packets would leave by that interface.
pub(super) fn install_local_routes(
    gone: &[IpNet],
    new: &[SourceRoute],
) -> Result<Vec<SourceRoute>, Error> {
    let lo = loopback()?;
    for network in gone {
        // If the kernel refuses, the route is missing, or its family is disabled.
        let _is_removed = change(DEL_ROUTE, 0, &local_route(network, lo))?;
        remove_guard(network)?;
    }
    let mut refused = Vec::new();
    for route in new {
        let mut message = local_route(&route.dst, lo);
        let source = RouteAttribute::PrefSource(route.prefsrc.into());
        message.attributes.push(source);
        if !change(NEW_ROUTE, NLM_F_CREATE | NLM_F_REPLACE, &message)? {
            refused.push(*route);
            continue;
        }
        install_guard(&route.dst)?;
    }
    Ok(refused)
}

/// Installs a route of the lowest priority that discards the packets to an IPv6 network. A kernel that refuses
/// it has none. IPv4 has no such route: if none matches, the kernel sends the packets of a socket that is
/// bound to an interface over that interface (`ip_route_output_key_hash_rcu`). It drops the answers.
fn install_guard(network: &IpNet) -> Result<(), Error> {
    let IpNet::V6(network) = network else {
        return Ok(());
    };
    // The kernel refuses a second one.
    let _is_new = change_nexthop(NEW_NEXTHOP, NLM_F_CREATE | NLM_F_EXCL)?;
    let _is_there = change(NEW_ROUTE, NLM_F_CREATE | NLM_F_REPLACE, &guard(network))?;
    Ok(())
}

/// Removes that route. If the kernel refuses, it is missing.
fn remove_guard(network: &IpNet) -> Result<(), Error> {
    if matches!(network, IpNet::V6(_)) {
        // The route goes with it.
        let _is_removed = change_nexthop(DEL_NEXTHOP, 0)?;
    }
    Ok(())
}

/// Only a route with a nexthop object (Linux 5.3) discards the packets of a socket that is bound to an
/// interface.
fn guard(network: &Ipv6Net) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet6;
    message.header.destination_prefix_length = network.prefix_len();
    message.header.table = LOCAL;
    message.header.protocol = RouteProtocol::Static;
    message.header.kind = RouteType::Unicast;
    let id = GUARD_NEXTHOP.to_ne_bytes().to_vec();
    message.attributes = vec![
        RouteAttribute::Destination(network.network().into()),
        RouteAttribute::Priority(u32::MAX),
        RouteAttribute::Other(DefaultNla::new(RTA_NH_ID, id)),
    ];
    message
}

/// Requests a change of the nexthop that discards IPv6 packets. `false` if the kernel refuses.
fn change_nexthop(kind: u16, flags: u16) -> Result<bool, Error> {
    // struct nhmsg: family, scope, protocol, reserved, and flags of four bytes.
    let mut body = vec![0; 8];
    body[0] = AddressFamily::Inet6.into();
    let id = GUARD_NEXTHOP.to_ne_bytes().to_vec();
    let mut attributes = vec![DefaultNla::new(NHA_ID, id)];
    // The kernel refuses a deletion that states more than the identifier.
    if kind == NEW_NEXTHOP {
        body[2] = RouteProtocol::Static.into();
        attributes.push(DefaultNla::new(NHA_BLACKHOLE, Vec::new()));
    }
    let attributes = attributes.as_slice();
    let header = body.len();
    body.resize(header + attributes.buffer_len(), 0);
    attributes.emit(&mut body[header..]);
    Request::rtnetlink(kind, &body).attempt_with(flags)
}

/// Requests a change of a route. `false` if the kernel refuses.
fn change(kind: u16, flags: u16, route: &RouteMessage) -> Result<bool, Error> {
    let mut body = vec![0; route.buffer_len()];
    route.emit(&mut body);
    Request::rtnetlink(kind, &body).attempt_with(flags)
}

/// The subset of these routes that is installed.
pub(super) fn installed(routes: &[SourceRoute]) -> Result<Vec<SourceRoute>, Error> {
    with_handle(async |handle| {
        let mut all = Vec::new();
        for route in routes {
            let chosen = route_to(&handle, route.dst.network()).await?;
            let is_it = |chosen: &RouteMessage| {
                chosen.header.kind == RouteType::Local && source(chosen) == Some(route.prefsrc)
            };
            all.extend(chosen.as_ref().is_some_and(is_it).then_some(*route));
        }
        Ok(all)
    })
}

/// A route that makes a whole network local.
fn local_route(network: &IpNet, lo: u32) -> RouteMessage {
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

/// Whether a rule is neither one of the default rules nor Sluice's own.
fn is_custom_rule(rule: &RuleMessage) -> bool {
    let is_default =
        rule.header.action == RuleAction::ToTable && DEFAULT_TABLES.contains(&rule.header.table);
    !is_default && !source_routing::is_own(rule) && !rerouting::is_own(rule)
}

/// Every interface has a route to these, and the address's scope selects the interface.
pub(crate) fn is_link_local(to: &IpNet) -> bool {
    matches!(to, IpNet::V6(to) if to.addr().is_unicast_link_local())
}

/// One message of `NETLINK_ROUTE`, as rtnetlink decodes it.
#[cfg(fuzzing)]
pub(super) fn fuzz(datagram: &[u8]) {
    use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
    use rtnetlink::packet_route::RouteNetlinkMessage as Message;

    let decoded = super::decoder::contained(|| NetlinkMessage::<Message>::deserialize(datagram));
    let Some(Ok(message)) = decoded else {
        return;
    };
    match message.payload {
        NetlinkPayload::InnerMessage(Message::NewRoute(one)) => {
            let found = route(&one);
            assert!(found.is_none_or(|found| found.dst.prefix_len() <= 128));
        }
        NetlinkPayload::InnerMessage(Message::NewRule(one)) => {
            let _either = is_custom_rule(&one);
        }
        _ => {}
    }
}
