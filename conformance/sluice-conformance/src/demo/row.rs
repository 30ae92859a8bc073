//! One call and everything it must look like from every side.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use sluice_lab::{
    Caller, Lab,
    backend::Counters,
    proxy::{Hop, INBOUND, OUTBOUND},
};
use sluice_testbed::{agent::call::CallResult, interrupt::Interrupt};

/// The application's port.
pub(crate) const APP: u16 = 8080;
/// The status port, which is never intercepted.
pub(crate) const STATUS: u16 = 15021;

/// Access logs are written when a connection has ended.
const LOGS: Duration = Duration::from_secs(1);
/// Long enough for a log line that should not come.
const SETTLE: Duration = Duration::from_millis(80);

/// The socket and the address that a client uses.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
    /// An `AF_INET6` socket that connects to `::ffff:a.b.c.d`, as Java's do.
    Mapped,
}

/// A proxy that carries the connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Via {
    /// The outbound listener of a Pod.
    Outbound(&'static str),
    /// The inbound listener of a Pod.
    Inbound(&'static str),
}

/// How a call ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The application answers and sees the client's own address.
    SeenAsClient,
    /// The application answers and sees the source that proxies use towards their application.
    SeenAsProxy,
    /// The connection is refused.
    Refused,
}

/// A behaviour.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) caller: Caller,
    /// The Pod that is called.
    pub(crate) to: &'static str,
    pub(crate) port: u16,
    pub(crate) family: Family,
    pub(crate) via: &'static [Via],
    pub(crate) end: End,
    /// The decisions, each with how often it is taken.
    pub(crate) reasons: &'static [(&'static str, u64)],
}

/// A behaviour as it was observed.
#[derive(Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) passed: bool,
    /// Each thing that is not as it should be.
    pub(crate) wrong: Vec<String>,
    pub(crate) caller: String,
    pub(crate) asked: SocketAddr,
    pub(crate) heard: CallResult,
    pub(crate) hops: Vec<Hop>,
    /// Connections that the proxies' listeners accepted, by Envoy's counters.
    pub(crate) accepted: Counters,
    pub(crate) reasons: Option<Counters>,
}

impl Case {
    /// Not observable without interception.
    pub(crate) fn needs_interception(&self) -> bool {
        !self.via.is_empty() || self.end == End::Refused
    }

    /// Makes the call and compares.
    pub(crate) fn run(&self, lab: &Lab, interrupt: &Interrupt) -> Result<Row> {
        let asked = self.address(lab)?;
        let before = (hops(lab)?, lab.backend.counters()?);
        let accepted = accepted(lab)?;
        let heard = lab.call(self.caller, asked)?;
        interrupt.wait(LOGS, || {
            Ok(hops(lab)?.len() >= before.0.len() + self.via.len())
        })?;
        std::thread::sleep(SETTLE);
        let mut carried = fresh(&before.0, hops(lab)?);
        carried.sort_by_key(|hop| hop.listener != OUTBOUND);
        let accepted = difference(&accepted, &self::accepted(lab)?);
        let reasons = match (before.1, lab.backend.counters()?) {
            (Some(before), Some(after)) => Some(difference(&before, &after)),
            _ => None,
        };
        let mut wrong = Vec::new();
        self.check_call(lab, asked, &heard, &mut wrong)?;
        self.check_hops(lab, asked, &carried, &mut wrong)?;
        self.check_accepted(&accepted, &mut wrong);
        self.check_reasons(reasons.as_ref(), &mut wrong);
        Ok(Row {
            name: self.name.to_owned(),
            passed: wrong.is_empty(),
            wrong,
            caller: self.caller_name(),
            asked,
            heard,
            hops: carried,
            accepted,
            reasons,
        })
    }

    fn address(&self, lab: &Lab) -> Result<SocketAddr> {
        let ip = lab.pod(self.to)?.address(self.family != Family::V6)?;
        let ip = match (self.family, ip) {
            (Family::Mapped, IpAddr::V4(v4)) => v4.to_ipv6_mapped().into(),
            _ => ip,
        };
        Ok(SocketAddr::new(ip, self.port))
    }

    /// The address of the caller on the Pods' network.
    fn client(&self, lab: &Lab) -> Result<IpAddr> {
        let v4 = self.family != Family::V6;
        match self.caller {
            Caller::Application(pod) | Caller::Proxy(pod) => lab.pod(pod)?.address(v4),
            Caller::Node => {
                let found = lab.gateways.iter().find(|ip| ip.is_ipv4() == v4).copied();
                found.context("the node lacks an address of a family")
            }
        }
    }

    fn caller_name(&self) -> String {
        match self.caller {
            Caller::Application(pod) => format!("app in {pod}"),
            Caller::Proxy(pod) => format!("proxy in {pod}"),
            Caller::Node => "node".to_owned(),
        }
    }

    fn check_call(
        &self,
        lab: &Lab,
        asked: SocketAddr,
        heard: &CallResult,
        wrong: &mut Vec<String>,
    ) -> Result<()> {
        if self.end == End::Refused {
            if heard.errno.as_deref() != Some("ECONNREFUSED") {
                wrong.push(format!("not refused: {}", outcome(heard)));
            }
            return Ok(());
        }
        let Some(greeting) = &heard.greeting else {
            wrong.push(format!("no answer: {}", outcome(heard)));
            return Ok(());
        };
        expect(wrong, "status", &heard.status, &Some(200));
        expect(
            wrong,
            "getpeername at the client",
            &heard.peer,
            &Some(asked),
        );
        expect(wrong, "Pod that answered", &greeting.pod.as_str(), &self.to);
        let source = match self.end {
            End::SeenAsProxy if self.family == Family::V6 => Ipv6Addr::from_bits(6).into(),
            End::SeenAsProxy => Ipv4Addr::new(127, 0, 0, 6).into(),
            _ => self.client(lab)?,
        };
        expect(
            wrong,
            "source that the server saw",
            &greeting.source.ip(),
            &source,
        );
        Ok(())
    }

    fn check_hops(
        &self,
        lab: &Lab,
        asked: SocketAddr,
        carried: &[Hop],
        wrong: &mut Vec<String>,
    ) -> Result<()> {
        let expected: Vec<_> = self.via.iter().map(|via| via.names()).collect();
        let seen: Vec<_> = carried
            .iter()
            .map(|hop| (hop.pod.as_str(), hop.listener.as_str()))
            .collect();
        expect(wrong, "proxies that carried it", &seen, &expected);
        let original = SocketAddr::new(asked.ip().to_canonical(), asked.port());
        let client = self.client(lab)?;
        for hop in carried {
            let at = format!("at the {} listener of {}", hop.listener, hop.pod);
            expect(
                wrong,
                &format!("original destination {at}"),
                &hop.original,
                &original,
            );
            expect(wrong, &format!("client {at}"), &hop.client.ip(), &client);
        }
        Ok(())
    }

    /// Envoy counts each connection that it accepts, also if the connection fails later.
    fn check_accepted(&self, accepted: &Counters, wrong: &mut Vec<String>) {
        let name = |via: &Via| {
            let (pod, listener) = via.names();
            (format!("{listener} listener of {pod}"), 1)
        };
        let expected = self.via.iter().map(name).collect();
        expect(
            wrong,
            "connections that proxies accepted",
            accepted,
            &expected,
        );
    }

    /// Only decisions about this call: a reason that starts otherwise counts a mechanism.
    fn check_reasons(&self, reasons: Option<&Counters>, wrong: &mut Vec<String>) {
        let Some(reasons) = reasons else { return };
        let decisions = reasons.iter().filter(|(reason, _)| {
            let local = reason.as_str() == "inbound_local";
            (reason.starts_with("outbound_") || reason.starts_with("inbound_")) && !local
        });
        let seen: BTreeMap<_, _> = decisions
            .map(|(name, count)| (name.as_str(), *count))
            .collect();
        let expected = self.reasons.iter().copied().collect();
        expect(wrong, "decisions", &seen, &expected);
    }
}

impl Via {
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Outbound(pod) => (pod, OUTBOUND),
            Self::Inbound(pod) => (pod, INBOUND),
        }
    }
}

fn expect<T: PartialEq + std::fmt::Debug>(
    wrong: &mut Vec<String>,
    what: &str,
    seen: &T,
    expected: &T,
) {
    if seen != expected {
        wrong.push(format!("{what}: {seen:?}, expected {expected:?}"));
    }
}

fn outcome(heard: &CallResult) -> String {
    match (&heard.errno, &heard.greeting) {
        (Some(errno), _) => errno.clone(),
        (None, Some(greeting)) => format!("{} answered", greeting.pod),
        (None, None) => "the connection was closed without an answer".to_owned(),
    }
}

/// For each Pod, the connections of its proxy.
fn hops(lab: &Lab) -> Result<Vec<Hop>> {
    let hops: Result<Vec<_>> = lab.pods.iter().map(sluice_lab::Pod::hops).collect();
    Ok(hops?.into_iter().flatten().collect())
}

/// The accepted connections of every proxy.
fn accepted(lab: &Lab) -> Result<Counters> {
    let counts: Result<Vec<_>> = lab.pods.iter().map(sluice_lab::Pod::accepted).collect();
    Ok(counts?.into_iter().flatten().collect())
}

/// The connections after `before`; each Pod's list only grows at its end.
fn fresh(before: &[Hop], after: Vec<Hop>) -> Vec<Hop> {
    let mut known: BTreeMap<String, usize> = BTreeMap::new();
    for hop in before {
        *known.entry(hop.pod.clone()).or_default() += 1;
    }
    let mut is_new = |hop: &Hop| match known.get_mut(&hop.pod) {
        Some(left) if *left > 0 => {
            *left -= 1;
            false
        }
        _ => true,
    };
    after.into_iter().filter(|hop| is_new(hop)).collect()
}

fn difference(before: &Counters, after: &Counters) -> Counters {
    let grown = after.iter().map(|(reason, count)| {
        (
            reason.clone(),
            count.saturating_sub(before.get(reason).copied().unwrap_or(0)),
        )
    });
    grown.filter(|(_, count)| *count > 0).collect()
}
