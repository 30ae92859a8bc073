//! Excluded interfaces of a Pod: their traffic bypasses the proxy, with precedence over all lists.
//! Pure.
//!
//! A hook knows the interface of an inbound connection, but only the destination address of an
//! outbound one. The Pod's routes therefore give the networks behind an excluded interface.

use std::{collections::BTreeMap, fmt};

use ipnet::IpNet;

use crate::netns::{Interface, Route, RoutingTable, is_link_local};

/// The longest interface name (`IFNAMSIZ` without the terminating NUL).
const MAX_IFNAME: usize = 15;
/// The interface of all traffic that stays within the Pod.
const LOOPBACK: &str = "lo";

/// Interfaces cannot be excluded.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// The inbound hook does not know the interface.
    #[error("interfaces cannot be excluded: that needs Linux 5.17")]
    Kernel,
    /// Routes do not determine the interface.
    #[error(
        "interfaces cannot be excluded: the Pod has policy routing rules, so its routes do not determine the interface of a connection"
    )]
    PolicyRouting,
    /// Routes do not determine the interface for one network.
    #[error(
        "interfaces cannot be excluded: the route to {to} leads through excluded and other interfaces"
    )]
    AmbiguousRoute {
        /// The network.
        to: IpNet,
    },
}

/// A pattern of interface names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum IfacePattern {
    /// The interface of this name.
    Exact(String),
    /// Interfaces whose names have this prefix: a trailing `+`, as in iptables.
    Prefix(String),
}

/// Interfaces and networks whose traffic is not intercepted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bypass {
    /// Interface indices.
    pub(crate) interfaces: Vec<u32>,
    /// Destination networks.
    pub(crate) networks: Vec<IpNet>,
}

impl fmt::Display for IfacePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Prefix(prefix) => write!(f, "{prefix}+"),
        }
    }
}

impl IfacePattern {
    /// The syntax that [`IfacePattern::parse`] accepts.
    pub(crate) const ALLOWED: &str =
        "the name of an interface other than lo, or its beginning and a +";

    /// Parses one item of the annotation.
    pub(crate) fn parse(item: &str) -> Option<Self> {
        let (text, pattern): (_, fn(String) -> Self) = match item.strip_suffix('+') {
            Some(prefix) => (prefix, Self::Prefix),
            None => (item, Self::Exact),
        };
        // The rules of the kernel's `dev_valid_name`.
        let is_name = !text.is_empty()
            && text.len() <= MAX_IFNAME
            && ![".", ".."].contains(&text)
            && !text.contains(|c: char| c == '/' || c == ':' || c.is_whitespace());
        let pattern = pattern(text.to_owned());
        (is_name && !pattern.matches(LOOPBACK)).then_some(pattern)
    }

    fn matches(&self, name: &str) -> bool {
        match self {
            Self::Exact(whole) => name == whole,
            Self::Prefix(prefix) => name.starts_with(&**prefix),
        }
    }
}

impl Bypass {
    /// Whether there is no such traffic.
    pub(crate) fn is_empty(&self) -> bool {
        self.interfaces.is_empty() && self.networks.is_empty()
    }

    /// The traffic of the existing interfaces that match the patterns.
    pub(crate) fn from_interfaces(
        patterns: &[IfacePattern],
        interfaces: &[Interface],
        routes: &RoutingTable,
    ) -> Result<Self, Error> {
        let meant = |one: &&Interface| patterns.iter().any(|pattern| pattern.matches(&one.name));
        let indices: Vec<u32> = (interfaces.iter())
            .filter(meant)
            .map(|one| one.index)
            .collect();
        if indices.is_empty() {
            return Ok(Self::default());
        }
        if routes.has_policy_rules {
            return Err(Error::PolicyRouting);
        }
        let networks = networks(&routes.main, &indices)?;
        Ok(Self {
            interfaces: indices,
            networks,
        })
    }
}

/// The networks that are routed over one of these interfaces: the longest prefix wins, then the
/// lowest metric.
fn networks(routes: &[Route], excluded: &[u32]) -> Result<Vec<IpNet>, Error> {
    let mut best: BTreeMap<IpNet, &Route> = BTreeMap::new();
    for route in routes.iter().filter(|route| !is_link_local(&route.dst)) {
        let there = best.entry(route.dst.trunc()).or_insert(route);
        if route.metric < there.metric {
            *there = route;
        }
    }
    let (mut inside, mut outside) = (Vec::new(), Vec::new());
    for (to, route) in best {
        let count = (route.interfaces.iter())
            .filter(|index| excluded.contains(index))
            .count();
        match count {
            0 => outside.push(to),
            _ if count == route.interfaces.len() => inside.push(to),
            _ => return Err(Error::AmbiguousRoute { to }),
        }
    }
    let longer = |to: &IpNet| {
        let holes = outside.iter().filter(|hole| to.contains(*hole));
        subtract(*to, &holes.copied().collect::<Vec<_>>())
    };
    Ok(inside.iter().flat_map(longer).collect())
}

/// The remainder of a network without the networks inside it.
fn subtract(network: IpNet, holes: &[IpNet]) -> Vec<IpNet> {
    if holes.contains(&network) {
        return Vec::new();
    }
    let halves = network.subnets(network.prefix_len() + 1);
    let Some(halves) = halves.ok().filter(|_| !holes.is_empty()) else {
        return vec![network];
    };
    let rest = |half: IpNet| {
        let holes = holes.iter().filter(|hole| half.contains(*hole));
        subtract(half, &holes.copied().collect::<Vec<_>>())
    };
    halves.flat_map(rest).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn interface(name: &str, index: u32) -> Interface {
        Interface {
            name: name.to_owned(),
            index,
            addresses: Vec::new(),
        }
    }

    fn route(to: &str, interfaces: &[u32], metric: u32) -> Route {
        Route {
            dst: to.parse().unwrap(),
            interfaces: interfaces.to_vec(),
            metric,
        }
    }

    fn by(patterns: &[&str], main: Vec<Route>) -> Result<Vec<String>, Error> {
        let patterns: Vec<_> = (patterns.iter())
            .map(|text| IfacePattern::parse(text).unwrap())
            .collect();
        let there = [
            interface("lo", 1),
            interface("eth0", 2),
            interface("net1", 3),
        ];
        let routes = RoutingTable {
            main,
            has_policy_rules: false,
        };
        let bypass = Bypass::from_interfaces(&patterns, &there, &routes)?;
        Ok(bypass.networks.iter().map(IpNet::to_string).collect())
    }

    #[test]
    fn routes_of_excluded_interfaces_become_networks() {
        let routes = || {
            vec![
                route("0.0.0.0/0", &[2], 0),
                route("10.9.0.0/16", &[3], 0),
                route("fe80::/64", &[3], 256),
                route("2001:db8::/32", &[3], 1024),
            ]
        };
        let expected = ["10.9.0.0/16", "2001:db8::/32"].map(str::to_owned);
        assert_eq!(by(&["net1"], routes()), Ok(expected.to_vec()));
        assert_eq!(by(&["net+"], routes()), Ok(expected.to_vec()));
        assert_eq!(by(&["net2"], routes()), Ok(Vec::new()));
    }

    #[test]
    fn longer_prefix_and_lower_metric_win() {
        let routes = vec![
            route("10.8.0.0/14", &[3], 0),
            route("10.9.0.0/16", &[2], 0),
            route("192.0.2.0/24", &[3], 10),
            route("192.0.2.0/24", &[2], 5),
        ];
        let expected = ["10.8.0.0/16", "10.10.0.0/15"].map(str::to_owned);
        assert_eq!(by(&["net1"], routes), Ok(expected.to_vec()));
    }

    #[test]
    fn ambiguous_routes_are_rejected() {
        let shared = vec![route("10.0.0.0/8", &[2, 3], 0)];
        let to = "10.0.0.0/8".parse().unwrap();
        assert_eq!(
            by(&["net1"], shared.clone()),
            Err(Error::AmbiguousRoute { to })
        );
        assert_eq!(by(&["net1", "eth0"], shared), Ok(vec![to.to_string()]));
        let has_policy_rules = RoutingTable {
            main: Vec::new(),
            has_policy_rules: true,
        };
        let patterns = [IfacePattern::parse("eth0").unwrap()];
        let refused =
            Bypass::from_interfaces(&patterns, &[interface("eth0", 2)], &has_policy_rules);
        assert_eq!(refused, Err(Error::PolicyRouting));
    }

    #[test]
    fn excluded_interfaces_need_valid_names_except_lo() {
        for bad in [
            "",
            "+",
            "lo",
            "l+",
            "a/b",
            "a b",
            "a:b",
            "..",
            "sixteencharacter",
        ] {
            assert_eq!(IfacePattern::parse(bad), None, "{bad:?}");
        }
        let eth = IfacePattern::Prefix("eth".to_owned());
        assert_eq!(IfacePattern::parse("eth+"), Some(eth));
    }

    fn any_network() -> impl Strategy<Value = IpNet> {
        // Few bits, so that networks overlap.
        (0_u8..4, 0_u8..=3).prop_map(|(bits, length)| {
            let network = IpNet::new([bits << 6, 0, 0, 0].into(), length).unwrap();
            network.trunc()
        })
    }

    proptest! {
        #[test]
        fn bypassed_networks_follow_the_longest_route(
            all in prop::collection::vec((any_network(), 2_u32..4, 0_u32..3), 0..8),
            asked in any::<u8>(),
        ) {
            let main: Vec<_> = (all.iter())
                .map(|(to, index, metric)| route(&to.to_string(), &[*index], *metric))
                .collect();
            let asked: std::net::IpAddr = [asked, 0, 0, 1].into();
            let longest = main.iter().enumerate().filter(|(_, one)| one.dst.contains(&asked))
                .min_by_key(|(at, one)| (32 - one.dst.prefix_len(), one.metric, *at));
            let expected = longest.is_some_and(|(_, one)| one.interfaces == [3]);
            let found = networks(&main, &[3]).unwrap();
            prop_assert_eq!(found.iter().any(|one| one.contains(&asked)), expected);
        }

        #[test]
        fn no_text_makes_the_parser_fail(text in ".*") {
            let _parsed = IfacePattern::parse(&text);
        }
    }
}
