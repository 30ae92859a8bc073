//! The listed cases: one behaviour each, the rules that it shows, and the expected outcome.

mod dns;
mod forwarded;
mod host;
mod inbound;
mod interfaces;
mod meshes;
mod node_wide;
mod outbound;
mod owner;
mod refusal;
mod services;
mod sockets;
mod transparent;

use serde::Serialize;
use sluice_lab::pod_annotations::PodAnnotations;
use sluice_testbed::{agent::probe::Way, cni::AddressPlan};

use crate::suite::{
    conn_spec::{ConnSpec, Family, Origin, Server, Service, Source, Target},
    fixture::Asked,
    observation::{DNS, INBOUND, OUTBOUND, Observation},
};

/// A group of cases and its name.
pub(crate) const GROUPS: [(&str, &[Case]); 13] = [
    ("inbound", inbound::CASES),
    ("outbound", outbound::CASES),
    ("services", services::CASES),
    ("owner", owner::CASES),
    ("dns", dns::CASES),
    ("sockets", sockets::CASES),
    ("host", host::CASES),
    ("transparent", transparent::CASES),
    ("interfaces", interfaces::CASES),
    ("forwarded", forwarded::CASES),
    ("node-wide", node_wide::CASES),
    ("meshes", meshes::CASES),
    ("refusal", refusal::CASES),
];

/// Every case, with its group.
pub(crate) fn all() -> impl Iterator<Item = (&'static str, &'static Case)> {
    GROUPS
        .into_iter()
        .flat_map(|(group, cases)| cases.iter().map(move |case| (group, case)))
}

/// A behaviour.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// Rules that it shows, as `docs/reference/rules.md` numbers them, separated by `, `.
    pub(crate) source: &'static str,
    pub(crate) settings: fn() -> PodAnnotations,
    pub(crate) from: Origin,
    pub(crate) bound: Source,
    pub(crate) to: Target,
    pub(crate) port: u16,
    pub(crate) way: Way,
    /// It holds for each of these.
    pub(crate) families: &'static [Family],
    pub(crate) expect: Expect,
}

/// The expected outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Expect {
    /// The proxy's outbound listener accepts, and reads the destination.
    Outbound,
    /// The proxy's inbound listener accepts, and reads the destination.
    Inbound,
    /// The proxy's resolver replies with the address of the queried one.
    Dns,
    /// The destination itself answers.
    Direct,
    /// The application answers, and sees the address of the proxy's client.
    KeptSource,
    /// Refused at once, as without a listener.
    Refused,
    /// The Pod is not admitted to the network, and the reason names these.
    NotAdmitted(&'static [&'static str]),
}

pub(crate) const EVERY: &[Family] = &Family::ALL;
pub(crate) const BOTH: &[Family] = &[Family::V4, Family::V6];
pub(crate) const V4: &[Family] = &[Family::V4];
pub(crate) const V6: &[Family] = &[Family::V6];

/// A call from the application to a server beyond the node, unless a case says otherwise.
pub(crate) const OUT: Case = Case {
    name: "",
    source: "",
    settings: PodAnnotations::default,
    from: Origin::Application,
    bound: Source::Any,
    to: Target::Outside(Server::One),
    port: 80,
    way: Way::Tcp,
    families: EVERY,
    expect: Expect::Outbound,
};

/// A call from a Pod that is not meshed, unless a case says otherwise.
pub(crate) const IN: Case = Case {
    from: Origin::Peer,
    to: Target::Pod,
    port: 8080,
    families: EVERY,
    expect: Expect::Inbound,
    ..OUT
};

impl Case {
    /// Its connections, one for each family.
    pub(crate) fn asks(&self) -> Vec<ConnSpec> {
        let ask = |family: &Family| ConnSpec {
            from: self.from,
            source: self.bound,
            to: self.to,
            family: *family,
            port: self.port,
            way: self.way,
        };
        self.families.iter().map(ask).collect()
    }

    /// Differences between the observation and the expectation.
    pub(crate) fn check(&self, ask: ConnSpec, asked: &Asked, view: &Observation) -> Vec<String> {
        let mut wrong = self.expect.check(ask, asked, view);
        if self.expect == Expect::Outbound {
            wrong.extend(self.foreign_source(ask, view));
        }
        if let Some(rule) = &view.unexplained {
            wrong.push(format!("{:?}: explained by the rule {rule}", ask.family));
        }
        wrong
    }

    /// A proxy knows its Pod by the address, which a loopback address would hide. Under rules it is
    /// the one that the route prefers.
    fn foreign_source(&self, ask: ConnSpec, view: &Observation) -> Option<String> {
        let beyond = matches!(
            ask.to,
            Target::Peer | Target::Node | Target::Outside(_) | Target::Service(_)
        );
        let by_second = ask.to == Target::Outside(Server::Three)
            && (self.settings)().address_plan == AddressPlan::Side;
        let own = |source: &String| {
            if self.from == Origin::Behind {
                return source.starts_with("behind");
            }
            source.starts_with("pod") && source.starts_with("pod-side") == by_second
        };
        let foreign = beyond && !view.source.as_ref().is_some_and(own);
        foreign.then(|| {
            let (family, source) = (ask.family, &view.source);
            format!("{family:?}: source {source:?} is not the one that the Pod has there")
        })
    }
}

impl Expect {
    /// Not observable without interception.
    pub(crate) fn needs_interception(self) -> bool {
        self != Self::Direct
    }

    /// Compares everything but the source.
    fn check(self, ask: ConnSpec, asked: &Asked, view: &Observation) -> Vec<String> {
        let Asked {
            peer,
            original,
            server: reached,
        } = asked;
        let mut wrong = Vec::new();
        let mut expect = |what: &str, seen: &Option<String>, expected: Option<&str>| {
            if seen.as_deref() != expected {
                let show = |value: Option<&str>| value.unwrap_or("–").to_owned();
                let (seen, expected) = (show(seen.as_deref()), show(expected));
                wrong.push(format!(
                    "{:?}: {what} {seen}, expected {expected}",
                    ask.family
                ));
            }
        };
        let accepted = match self {
            Self::Outbound => Some(OUTBOUND),
            Self::Inbound => Some(INBOUND),
            Self::Dns => Some(DNS.0),
            Self::Direct | Self::KeptSource => Some(server(ask.to)),
            Self::Refused | Self::NotAdmitted(_) => None,
        };
        expect("accepted by", &view.accepted_by, accepted);
        if accepted.is_none() {
            expect("errno", &view.errno, Some("ECONNREFUSED"));
            return wrong;
        }
        expect("errno", &view.errno, None);
        expect("getpeername", &view.peer, Some(peer));
        if let Self::Outbound | Self::Inbound = self {
            expect("original destination", &view.original, Some(original));
            let own = view
                .local
                .as_deref()
                .map(|local| local.trim_start_matches("::ffff:"));
            expect("source", &view.source, own);
        }
        if let Self::Direct | Self::KeptSource = self {
            expect("address reached", &view.reached, Some(reached));
        }
        if self == Self::KeptSource {
            let client = if ask.family.v4() { "peer4" } else { "peer6" };
            expect("source", &view.source, Some(client));
        }
        wrong
    }
}

/// The name of the server at a target.
fn server(target: Target) -> &'static str {
    match target {
        Target::Peer => "peer",
        Target::Behind => "behind",
        Target::Node => "node",
        Target::Outside(_) | Target::Service(Service::One | Service::Two) => "outside",
        _ => "application",
    }
}
