//! The observations of a connection from all sides, without values that differ from run to run.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use serde::{Deserialize, Serialize};
use sluice_testbed::agent::probe::ProbeResult;

/// The names of a proxy's listeners, and the port of its resolver.
pub(crate) const OUTBOUND: &str = "outbound";
pub(crate) const INBOUND: &str = "inbound";
pub(crate) const DNS: (&str, u16) = ("dns", 15053);

/// Everything observable, with names for addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Observation {
    /// Which socket accepted.
    pub(crate) accepted_by: Option<String>,
    /// The original destination, as a proxy reads it.
    pub(crate) original: Option<String>,
    /// The client's address, as the accepting side sees it.
    pub(crate) source: Option<String>,
    /// The accepting socket's own address, unless it is a proxy's: there it is a way of diverting.
    pub(crate) reached: Option<String>,
    /// The client's peer by `getpeername()`, or by `recvfrom()`.
    pub(crate) peer: Option<String>,
    /// The client's own address.
    pub(crate) local: Option<String>,
    /// The error at the client.
    pub(crate) errno: Option<String>,
    /// If it was refused, then within a second.
    pub(crate) prompt: bool,
    /// The rule that the backend names for the connection, if it leads elsewhere.
    #[serde(default)]
    pub(crate) unexplained: Option<String>,
}

/// The field for a refusal that came at once.
pub(crate) const PACE: &str = "prompt";

/// The fields in which two observations differ, with both values.
pub(crate) type Field = (&'static str, String, String);

/// Names of addresses.
#[derive(Default)]
pub(crate) struct Names(BTreeMap<IpAddr, String>);

impl Names {
    /// One more.
    pub(crate) fn add(&mut self, ip: IpAddr, name: &str) {
        let family = if ip.is_ipv4() { "4" } else { "6" };
        self.0.insert(ip, format!("{name}{family}"));
    }

    /// An address by its name; v4-mapped and IPv4 addresses differ.
    pub(crate) fn ip(&self, ip: IpAddr) -> String {
        let canonical = ip.to_canonical();
        let mapped = if canonical == ip { "" } else { "::ffff:" };
        let name = self.0.get(&canonical).cloned();
        format!("{mapped}{}", name.unwrap_or_else(|| canonical.to_string()))
    }

    /// With the port.
    pub(crate) fn at(&self, at: SocketAddr) -> String {
        format!("[{}]:{}", self.ip(at.ip()), at.port())
    }

    /// Values that are equal in each run. A client's port is not.
    pub(crate) fn view(&self, noticed: &ProbeResult) -> Observation {
        let ProbeResult {
            seen,
            peer,
            local,
            errno,
            prompt,
        } = noticed;
        let by_proxy = seen
            .as_ref()
            .is_some_and(|seen| [OUTBOUND, INBOUND, DNS.0].contains(&seen.by.as_str()));
        let seen = seen.as_ref();
        Observation {
            accepted_by: seen.map(|seen| seen.by.clone()),
            original: seen
                .filter(|_| by_proxy)
                .and_then(|seen| Some(self.at(seen.original?))),
            source: seen.map(|seen| self.ip(seen.source.ip())),
            reached: seen.filter(|_| !by_proxy).map(|seen| self.at(seen.local)),
            peer: peer.map(|peer| self.at(peer)),
            local: local.map(|local| self.ip(local.ip())),
            errno: errno.clone(),
            prompt: *prompt || errno.is_none(),
            unexplained: None,
        }
    }
}

impl Observation {
    /// Differences from another view.
    pub(crate) fn differences(&self, other: &Self) -> Vec<Field> {
        let show = |value: &Option<String>| value.clone().unwrap_or_else(|| "–".to_owned());
        let fields = [
            (
                "accepted by",
                show(&self.accepted_by),
                show(&other.accepted_by),
            ),
            (
                "original destination",
                show(&self.original),
                show(&other.original),
            ),
            ("source seen", show(&self.source), show(&other.source)),
            ("address reached", show(&self.reached), show(&other.reached)),
            ("getpeername", show(&self.peer), show(&other.peer)),
            ("getsockname", show(&self.local), show(&other.local)),
            ("errno", show(&self.errno), show(&other.errno)),
            (
                "explained by",
                show(&self.unexplained),
                show(&other.unexplained),
            ),
            (PACE, self.prompt.to_string(), other.prompt.to_string()),
        ];
        fields
            .into_iter()
            .filter(|(_, one, two)| one != two)
            .collect()
    }
}
