//! A decision on a Pod, as people and other programs read it.

use std::fmt;

use daemon_api::Manifest;
use ipnet::IpNet;
use serde::Serialize;

use super::{
    Annotations, Rules,
    aside::Pattern,
    policy::{self, Inbound, Ports, Settings, Subject, UserSource, Verdict},
};

/// What becomes of a Pod, and why.
#[derive(Debug, Serialize)]
pub(crate) struct Decision {
    /// Whose decision it is: kind, namespace and name.
    pod: String,
    /// The node's mesh.
    mesh: String,
    #[serde(rename = "decision")]
    outcome: Outcome,
    /// Why the Pod is not intercepted, or refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// How it is intercepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    settings: Option<Shown>,
}

/// What becomes of a Pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Outcome {
    Intercepted,
    NotIntercepted,
    Refused,
}

/// Settings in words. Ports are numbers or ranges, networks have their prefix length.
#[derive(Debug, Serialize)]
struct Shown {
    uid: Option<u32>,
    gid: Option<u32>,
    user_from: UserSource,
    outbound_port: u16,
    inbound_port: u16,
    dns_port: u16,
    /// Inbound ports that are the proxy's, if not all are.
    #[serde(skip_serializing_if = "Option::is_none")]
    included_inbound: Option<Vec<String>>,
    excluded_inbound: Vec<String>,
    included_outbound: Vec<String>,
    excluded_outbound: Vec<String>,
    /// Networks that are the proxy's, if not all are.
    #[serde(skip_serializing_if = "Option::is_none")]
    included_networks: Option<Vec<IpNet>>,
    excluded_networks: Vec<IpNet>,
    /// Networks from which connections enter past the proxy.
    excluded_sources: Vec<IpNet>,
    excluded_interfaces: Vec<String>,
    tproxy: bool,
    ipv6: bool,
}

/// Decides on a Pod, with its manifest or by its annotations alone.
pub(crate) fn decide(
    rules: &Rules,
    pod: String,
    annotations: &Annotations,
    manifest: Option<&Manifest>,
) -> Decision {
    let subject = Subject {
        annotations: Some(annotations),
        manifest,
    };
    let (outcome, reason, settings) = match policy::decide(rules, subject) {
        Ok(Verdict::Mesh(settings)) => (Outcome::Intercepted, None, Some(Shown::of(&settings))),
        Ok(Verdict::LeaveAlone(reason)) => (Outcome::NotIntercepted, Some(reason.to_owned()), None),
        Err(error) => (Outcome::Refused, Some(error.to_string()), None),
    };
    Decision {
        pod,
        mesh: rules.mesh.name.clone(),
        outcome,
        reason,
        settings,
    }
}

impl Shown {
    fn of(settings: &Settings) -> Self {
        let known = |id: u32| (id != u32::MAX).then_some(id);
        let (included_inbound, excluded_inbound) = match &settings.inbound {
            Inbound::AllBut(excluded) => (None, ports(excluded)),
            Inbound::Only(included) => (Some(ports(included)), Vec::new()),
        };
        Self {
            uid: known(settings.uid),
            gid: known(settings.gid),
            user_from: settings.user_from,
            outbound_port: settings.ports.outbound,
            inbound_port: settings.ports.inbound,
            dns_port: settings.ports.dns,
            included_inbound,
            excluded_inbound,
            included_outbound: ports(&settings.included_outbound),
            excluded_outbound: ports(&settings.excluded_outbound),
            included_networks: settings.networks.clone(),
            excluded_networks: settings.excluded_networks.clone(),
            excluded_sources: settings.excluded_sources.clone(),
            excluded_interfaces: settings
                .excluded_interfaces
                .iter()
                .map(Pattern::to_string)
                .collect(),
            tproxy: settings.transparent,
            ipv6: !settings.bypasses_ipv6(),
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
        if let Some(settings) = &self.settings {
            write!(f, ", {settings}")?;
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
        let lists: [(&str, Vec<String>); 8] = [
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
        ];
        for (label, items) in lists.iter().filter(|(_, items)| !items.is_empty()) {
            write!(f, ", {label} {}", items.join(","))?;
        }
        for (said, label) in [
            (
                self.included_inbound.as_ref().is_some_and(Vec::is_empty),
                "nothing inbound",
            ),
            (
                self.included_networks.as_ref().is_some_and(Vec::is_empty),
                "to no network",
            ),
            (self.tproxy, "TPROXY"),
            (!self.ipv6, "IPv4 alone"),
        ] {
            if said {
                write!(f, ", {label}")?;
            }
        }
        Ok(())
    }
}
