//! The decision on a Pod, in the form that `sluiced decide` prints.

use std::fmt;

use ipnet::IpNet;
use serde::Serialize;
use sluice_api::Manifest;

use super::{
    Annotations, NodePolicy,
    bypass::IfacePattern,
    policy::{self, Inbound, PodPolicy, Subject, UserSource, Verdict},
    settings::{Families, Ports},
};

/// The decision on a Pod, with its reason.
#[derive(Debug, Serialize)]
pub(crate) struct Decision {
    /// The Pod: kind, namespace and name.
    pod: String,
    /// The node's mesh.
    mesh: String,
    #[serde(rename = "decision")]
    outcome: Outcome,
    /// Why the Pod is rejected or not intercepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// The interception settings.
    #[serde(rename = "settings", skip_serializing_if = "Option::is_none")]
    policy: Option<Shown>,
}

/// The outcome for a Pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Outcome {
    Intercepted,
    NotIntercepted,
    Refused,
}

/// Settings in readable form. Ports are numbers or ranges, networks have their prefix length.
#[derive(Debug, Serialize)]
struct Shown {
    uid: Option<u32>,
    gid: Option<u32>,
    user_from: UserSource,
    outbound_port: u16,
    inbound_port: u16,
    dns_port: u16,
    /// Inbound ports that are intercepted, if not all are.
    #[serde(skip_serializing_if = "Option::is_none")]
    included_inbound: Option<Vec<String>>,
    excluded_inbound: Vec<String>,
    included_outbound: Vec<String>,
    excluded_outbound: Vec<String>,
    /// Destination networks that are intercepted, if not all are.
    #[serde(skip_serializing_if = "Option::is_none")]
    included_networks: Option<Vec<IpNet>>,
    excluded_networks: Vec<IpNet>,
    /// Source networks whose inbound connections bypass the proxy.
    excluded_sources: Vec<IpNet>,
    excluded_interfaces: Vec<String>,
    virtual_interfaces: Vec<String>,
    tproxy: bool,
    families: Families,
    /// Whether outbound connections bypass the proxy until it listens.
    before_proxy_bypass: bool,
}

/// Decides on a Pod from its manifest, or from its annotations alone.
pub(crate) fn decide(
    node_policy: &NodePolicy,
    pod: String,
    namespace: &str,
    annotations: &Annotations,
    manifest: Option<&Manifest>,
) -> Decision {
    let subject = Subject {
        namespace: Some(namespace),
        annotations: Some(annotations),
        manifest,
    };
    let (outcome, reason, policy) = match policy::decide(node_policy, subject) {
        Ok(Verdict::Intercept(policy)) => (Outcome::Intercepted, None, Some(Shown::of(&policy))),
        Ok(Verdict::Bypass(reason)) => (Outcome::NotIntercepted, Some(reason.to_owned()), None),
        Err(error) => (Outcome::Refused, Some(error.to_string()), None),
    };
    Decision {
        pod,
        mesh: node_policy.mesh.name.clone(),
        outcome,
        reason,
        policy,
    }
}

impl Shown {
    fn of(policy: &PodPolicy) -> Self {
        let known = |id: u32| (id != u32::MAX).then_some(id);
        let (included_inbound, excluded_inbound) = match &policy.inbound {
            Inbound::Exclude(excluded) => (None, ports(excluded)),
            Inbound::Include(included) => (Some(ports(included)), Vec::new()),
        };
        Self {
            uid: known(policy.uid),
            gid: known(policy.gid),
            user_from: policy.user_from,
            outbound_port: policy.ports.outbound,
            inbound_port: policy.ports.inbound,
            dns_port: policy.ports.dns,
            included_inbound,
            excluded_inbound,
            included_outbound: ports(&policy.included_outbound),
            excluded_outbound: ports(&policy.excluded_outbound),
            included_networks: policy.networks.clone(),
            excluded_networks: policy.excluded_networks.clone(),
            excluded_sources: policy.excluded_sources.clone(),
            excluded_interfaces: policy
                .excluded_interfaces
                .iter()
                .map(IfacePattern::to_string)
                .collect(),
            virtual_interfaces: policy.virtual_interfaces.to_vec(),
            tproxy: policy.tproxy,
            families: policy.families,
            before_proxy_bypass: policy.bypass_before_proxy,
        }
    }
}

fn ports(ports: &Ports) -> Vec<String> {
    let shown = |(low, high): &(u16, u16)| {
        if low == high {
            low.to_string()
        } else {
            format!("{low}-{high}")
        }
    };
    ports.iter().map(shown).collect()
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.outcome {
            Outcome::Intercepted => "intercepted",
            Outcome::NotIntercepted => "not intercepted",
            Outcome::Refused => "refused",
        };
        write!(f, "{}: {word}", self.pod)?;
        if let Some(reason) = &self.reason {
            write!(f, ": {reason}")?;
        }
        if let Some(policy) = &self.policy {
            write!(f, ", {policy}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = |id: Option<u32>| id.map_or_else(|| "-".to_owned(), |id| id.to_string());
        write!(
            f,
            "proxy uid {} gid {}, outbound to {}, inbound to {}",
            id(self.uid),
            id(self.gid),
            self.outbound_port,
            self.inbound_port
        )?;
        if self.dns_port != 0 {
            write!(f, ", DNS to {}", self.dns_port)?;
        }
        let networks = |all: &[IpNet]| all.iter().map(IpNet::to_string).collect();
        let rule_set: [(&str, Vec<String>); 9] = [
            (
                "inbound only",
                self.included_inbound.clone().unwrap_or_default(),
            ),
            ("inbound but", self.excluded_inbound.clone()),
            ("outbound always", self.included_outbound.clone()),
            ("outbound but", self.excluded_outbound.clone()),
            (
                "only to",
                networks(self.included_networks.as_deref().unwrap_or_default()),
            ),
            ("not to", networks(&self.excluded_networks)),
            ("not from", networks(&self.excluded_sources)),
            ("not by", self.excluded_interfaces.clone()),
            ("from behind", self.virtual_interfaces.clone()),
        ];
        for (label, items) in rule_set.iter().filter(|(_, items)| !items.is_empty()) {
            write!(f, ", {label} {}", items.join(","))?;
        }
        for (annotation, label) in [
            (
                self.included_inbound.as_ref().is_some_and(Vec::is_empty),
                "nothing inbound",
            ),
            (
                self.included_networks.as_ref().is_some_and(Vec::is_empty),
                "to no network",
            ),
            (self.tproxy, "TPROXY"),
            (self.families == Families::Ipv4, "IPv4 alone"),
            (
                self.families == Families::FirstAddress,
                "IPv4 alone if the Pod has an IPv4 address",
            ),
            (self.before_proxy_bypass, "direct until the proxy listens"),
        ] {
            if annotation {
                write!(f, ", {label}")?;
            }
        }
        Ok(())
    }
}
