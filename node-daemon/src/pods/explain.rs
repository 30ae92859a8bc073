//! Explains the decision on a connection: evaluates the kernel's rules on the Pod's settings. Pure.

use std::{
    fmt::Display,
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;
use sluice_abi::{
    Addr, Endpoint, Facts, OwnAddrKey, PodFlags, Port, Reason,
    decide::{self, Verdict},
};
use sluice_api::Connection;

use super::{
    plan::KernelState,
    policy::{Inbound, ResolvedPolicy},
    settings::{OwnerGroups, Ports},
};
use crate::bpf::Rule;

/// The port of DNS servers.
const DNS: u16 = 53;

/// The known facts about a meshed Pod.
#[derive(Clone, Copy)]
pub(super) struct Subject<'a> {
    pub(super) policy: &'a ResolvedPolicy,
    pub(super) state: &'a KernelState,
    /// Whether its proxy answers DNS queries.
    pub(super) captures_dns: bool,
    /// Whether its connections bypass the proxy until it listens.
    pub(super) before_proxy: bool,
}

/// The process that connects, and its socket before the connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caller {
    /// Its user in the initial user namespace.
    pub(super) uid: u32,
    /// Its group, likewise.
    pub(super) gid: u32,
    /// The socket's mark.
    pub(super) mark: u32,
    /// The address that the socket is bound to, or unspecified.
    pub(super) source: Addr,
    /// The interface that the socket is bound to, or zero.
    pub(super) interface: u32,
}

impl Caller {
    /// A process with an ordinary socket.
    pub(super) fn of(uid: u32, gid: u32) -> Self {
        Self {
            uid,
            gid,
            mark: 0,
            source: Addr::UNSPECIFIED,
            interface: 0,
        }
    }
}

impl Subject<'_> {
    /// Whether a datagram passes without a decision: the hooks handle only DNS queries, and these
    /// only while the proxy answers them.
    pub(super) fn passes_as_datagram(&self, connection: &Connection) -> bool {
        match connection {
            Connection::Outbound { to, udp: true, .. } => !self.captures_dns || to.port() != DNS,
            _ => false,
        }
    }

    /// The decision of the kernel programs.
    pub(super) fn verdict(&self, connection: &Connection) -> Option<Verdict> {
        match *connection {
            Connection::Outbound { to, uid, gid, udp } => {
                self.outbound(&Caller::of(uid, gid), to, udp)
            }
            Connection::Inbound { from, port } => self.inbound(from, port),
        }
    }

    /// The decision on a connection, or on a datagram, of a process in the Pod.
    pub(super) fn outbound(&self, caller: &Caller, to: SocketAddr, udp: bool) -> Option<Verdict> {
        let pod = self.state.netns_entry?.pod;
        let (ip, port) = (to.ip().to_canonical(), to.port());
        let outbound = decide::OutboundConn {
            uid: caller.uid,
            gid: caller.gid,
            mark: caller.mark,
            src: caller.source,
            dst: Endpoint::new(ip.into(), Port::new(port)),
            facts: self.outbound_facts(caller, ip, port, udp),
        };
        Some(decide::outbound(&pod, &outbound))
    }

    /// The decision on a TCP connection to the Pod.
    pub(super) fn inbound(&self, from: IpAddr, port: u16) -> Option<Verdict> {
        let pod = self.state.netns_entry?.pod;
        let from = from.to_canonical();
        let addr = Addr::from(from);
        let local = addr.is_loopback() || addr.is_passthrough_source() || self.owns(from);
        let bypass = self.bypassed_source(from).is_some()
            || (pod.flags.has(PodFlags::IPV4_ONLY) && from.is_ipv6());
        let inbound = decide::InboundConn {
            port: Port::new(port),
            facts: Facts::default()
                .with_if(Facts::LOCAL, local)
                .with_if(Facts::BYPASS, bypass)
                .with_if(
                    Facts::INBOUND_LISTED,
                    has(self.listed_inbound(), port).is_some(),
                ),
        };
        Some(decide::inbound(&pod, &inbound))
    }

    /// The facts of an outbound connection of a process.
    fn outbound_facts(&self, caller: &Caller, ip: IpAddr, port: u16, udp: bool) -> Facts {
        let ResolvedPolicy {
            networks,
            excluded_networks,
            excluded_outbound,
            included_outbound,
            ..
        } = self.policy;
        let bypass = self.policy.bypass();
        let in_networks = |networks: &[IpNet]| covers(networks, ip).is_some();
        let bypass = match caller.interface {
            0 => in_networks(&bypass.networks),
            bound => bypass.interfaces.contains(&bound),
        };
        Facts::default()
            .with_if(Facts::LOCAL, self.owns(ip))
            .with_if(Facts::BYPASS, bypass)
            .with_if(Facts::DATAGRAM, udp)
            .with_if(Facts::CAPTURES_DNS, self.captures_dns && port == DNS)
            .with_if(
                Facts::INBOUND_LISTED,
                has(self.listed_inbound(), port).is_some(),
            )
            .with_if(Facts::GROUP_EXCLUDED, self.excludes_group(caller.gid))
            .with_if(Facts::BEFORE_PROXY, self.before_proxy)
            .with_if(Facts::PORT_EXCLUDED, has(excluded_outbound, port).is_some())
            .with_if(Facts::PORT_INCLUDED, has(included_outbound, port).is_some())
            .with_if(Facts::CIDR_EXCLUDED, in_networks(excluded_networks))
            .with_if(
                Facts::CIDR_INCLUDED,
                networks.as_deref().is_none_or(in_networks),
            )
    }

    /// The item of the Pod's settings that matches, if the decision is by a list.
    pub(super) fn matched(&self, reason: Reason, connection: &Connection) -> Option<String> {
        let ResolvedPolicy {
            networks,
            excluded_networks,
            excluded_outbound,
            included_outbound,
            uid,
            gid,
            ..
        } = self.policy;
        let (ip, port) = match connection {
            Connection::Outbound { to, .. } => (to.ip().to_canonical(), to.port()),
            Connection::Inbound { from, port } => (from.to_canonical(), *port),
        };
        match reason {
            Reason::OutboundPortExcluded => has(excluded_outbound, port).map(ports),
            Reason::OutboundPortListed => has(included_outbound, port).map(ports),
            Reason::OutboundNetworkExcluded => covers(excluded_networks, ip).map(network),
            Reason::OutboundToProxy => covers(networks.as_ref()?, ip).map(network),
            Reason::OutboundNotListed => Some(format!("only {}", list(networks.as_ref()?))),
            Reason::OutboundBypass => covers(&self.policy.bypass().networks, ip).map(network),
            Reason::InboundBypass => self.bypassed_source(ip).map(network),
            Reason::OutboundByProxy => Some(format!("uid {uid} or gid {gid} is the proxy")),
            Reason::InboundPortExcluded | Reason::InboundToProxy => {
                has(self.listed_inbound(), port).map(ports)
            }
            Reason::InboundNotListed => {
                let listed: Vec<_> = self.listed_inbound().iter().copied().map(ports).collect();
                Some(format!("only {}", list(&listed)))
            }
            _ => None,
        }
    }

    /// The excluded source network that contains the address.
    fn bypassed_source(&self, ip: IpAddr) -> Option<&IpNet> {
        covers(&self.policy.excluded_sources, ip)
            .or_else(|| covers(&self.policy.bypass().networks, ip))
    }

    fn excludes_group(&self, gid: u32) -> bool {
        match &self.policy.owner_groups {
            OwnerGroups::All => false,
            OwnerGroups::Only(groups) => !groups.contains(&gid),
            OwnerGroups::Except(groups) => groups.contains(&gid),
        }
    }

    /// Whether an address belongs to the Pod, as far as the programs know.
    pub(super) fn owns(&self, ip: IpAddr) -> bool {
        let addr = ip.into();
        let KernelState {
            addresses,
            netns_entry,
            rule_set,
            ..
        } = self.state;
        let listed = |cookie| rule_set.contains(&Rule::OwnAddr(OwnAddrKey::new(cookie, addr)));
        addresses.contains_key(&addr) || netns_entry.is_some_and(|entry| listed(entry.pod.cookie))
    }

    fn listed_inbound(&self) -> &Ports {
        let (Inbound::Exclude(listed) | Inbound::Include(listed)) = &self.policy.inbound;
        listed
    }
}

fn has(listed: &Ports, port: u16) -> Option<(u16, u16)> {
    let mut found = (listed.iter()).filter(|(low, high)| (*low..=*high).contains(&port));
    found.next().copied()
}

fn covers(networks: &[IpNet], ip: IpAddr) -> Option<&IpNet> {
    networks.iter().find(|network| network.contains(&ip))
}

fn ports((low, high): (u16, u16)) -> String {
    if low == high {
        format!("port {low}")
    } else {
        format!("ports {low}-{high}")
    }
}

fn network(network: &IpNet) -> String {
    format!("network {network}")
}

fn list(items: &[impl Display]) -> String {
    if items.is_empty() {
        return "nothing".to_owned();
    }
    let items: Vec<_> = items.iter().map(ToString::to_string).collect();
    items.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::{mesh::Mesh, plan, policy::PodPolicy, store::Changes};

    fn explain(connection: &Connection) -> (&'static str, Option<String>) {
        let policy = PodPolicy {
            excluded_networks: vec!["10.1.0.0/16".parse().unwrap()],
            excluded_outbound: [(8000, 8999)].into(),
            inbound: Inbound::Exclude([(15021, 15021)].into()),
            ..PodPolicy::of(Mesh::preset("istio"))
        }
        .provisional();
        let state = plan::desired(
            7,
            &policy,
            &["10.0.0.5".parse().unwrap()],
            Changes::PASSTHROUGH,
        );
        let subject = Subject {
            policy: &policy,
            state: &state,
            captures_dns: true,
            before_proxy: false,
        };
        let reason = subject.verdict(connection).unwrap().reason();
        (reason.label(), subject.matched(reason, connection))
    }

    fn to(to: &str, uid: u32) -> Connection {
        Connection::Outbound {
            to: to.parse().unwrap(),
            uid,
            gid: uid,
            udp: false,
        }
    }

    #[test]
    fn only_captured_dns_datagrams_are_intercepted() {
        let policy = PodPolicy::of(Mesh::preset("istio")).provisional();
        let state = plan::desired(
            7,
            &policy,
            &["10.0.0.5".parse().unwrap()],
            Changes::PASSTHROUGH,
        );
        for (port, captures_dns, udp, passes) in [
            (53, true, true, false),
            (53, false, true, true),
            (443, true, true, true),
            (443, true, false, false),
        ] {
            let subject = Subject {
                policy: &policy,
                state: &state,
                captures_dns,
                before_proxy: false,
            };
            let connection = Connection::Outbound {
                to: ([192, 0, 2, 1], port).into(),
                uid: 0,
                gid: 0,
                udp,
            };
            assert_eq!(
                subject.passes_as_datagram(&connection),
                passes,
                "{connection:?}"
            );
        }
    }

    fn from(from: &str, port: u16) -> Connection {
        Connection::Inbound {
            from: from.parse().unwrap(),
            port,
        }
    }

    #[test]
    fn the_rule_and_what_matched_are_named() {
        let rows = [
            (to("192.0.2.1:80", 0), "outbound_to_proxy", None),
            (to("192.0.2.1:53", 0), "outbound_dns", None),
            (
                to("192.0.2.1:8080", 0),
                "outbound_port_excluded",
                Some("ports 8000-8999"),
            ),
            (
                to("[::ffff:10.1.2.3]:80", 0),
                "outbound_network_excluded",
                Some("network 10.1.0.0/16"),
            ),
            (
                to("192.0.2.1:80", 1337),
                "outbound_by_proxy",
                Some("uid 1337 or gid 1337 is the proxy"),
            ),
            (to("10.0.0.5:80", 1337), "outbound_hairpin", None),
            (to("10.0.0.5:80", 0), "outbound_local", None),
            (from("192.0.2.1", 80), "inbound_to_proxy", None),
            (
                from("192.0.2.1", 15021),
                "inbound_port_excluded",
                Some("port 15021"),
            ),
            (from("10.0.0.5", 80), "inbound_local", None),
        ];
        for (connection, rule, matched) in rows {
            let expected = (rule, matched.map(str::to_owned));
            assert_eq!(explain(&connection), expected, "{connection:?}");
        }
    }
}
