//! Connections that must end at the proxy, and the observations that count as a bypass.

use std::{collections::BTreeMap, net::IpAddr, net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context as _, Result};
use sluice_lab::{pod_annotations::PodAnnotations, servers};
use sluice_testbed::{
    agent::{ExecContext, probe::Way},
    interrupt::Interrupt,
    process::{Process, output},
};

use crate::{
    attack::{
        Outcome, Saw,
        agent::{Got, Route, Trick, Try, sniff::ROUTED},
    },
    suite::{
        conn_spec::{ConnSpec, Family, Origin, Server, Source, Target},
        fixture::Fixture,
        observation::{DNS, INBOUND, OUTBOUND},
        test_pod::TestPod,
    },
};

const LIMIT: Duration = Duration::from_secs(10);

/// The destination of the attacker.
#[derive(Clone, Copy)]
pub(crate) enum Goal {
    /// A host that the lab knows.
    At(Target),
    /// The Pod's link-local address, which no CNI plugin reports.
    LinkLocal,
    /// This address.
    Ip(&'static str),
}

/// A connection of an attacker.
#[derive(Clone, Copy)]
pub(crate) struct Net {
    pub(crate) from: Origin,
    pub(crate) trick: Trick,
    pub(crate) to: Goal,
    pub(crate) family: Family,
    pub(crate) port: u16,
    pub(crate) source: Source,
    pub(crate) pod: Kind,
    /// Why Sluice lets it pass.
    pub(crate) reason: Option<&'static str>,
}

/// The Pod that is attacked, or from which the attacker connects.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Its sidecar runs.
    Plain,
    /// Its sidecar also takes DNS.
    Dns,
    /// Its sidecar does not run yet.
    WithoutSidecar,
}

/// A `connect()` by an unprivileged process to port 80 of a server beyond the node.
pub(crate) const V4: Net = Net {
    from: Origin::Application,
    trick: Trick::Tcp,
    to: Goal::At(Target::Outside(Server::One)),
    family: Family::V4,
    port: 80,
    source: Source::Any,
    pod: Kind::Plain,
    reason: None,
};
/// The same in IPv6.
pub(crate) const V6: Net = Net {
    family: Family::V6,
    ..V4
};
/// The same to a v4-mapped address.
pub(crate) const MAPPED: Net = Net {
    family: Family::Mapped,
    ..V4
};

impl Net {
    pub(crate) const fn from(self, from: Origin) -> Self {
        Self { from, ..self }
    }

    pub(crate) const fn by(self, trick: Trick) -> Self {
        Self { trick, ..self }
    }

    pub(crate) const fn to(self, to: Goal) -> Self {
        Self { to, ..self }
    }

    pub(crate) const fn at(self, port: u16) -> Self {
        Self { port, ..self }
    }

    pub(crate) const fn bound(self, source: Source) -> Self {
        Self { source, ..self }
    }

    pub(crate) const fn passing(self, reason: &'static str) -> Self {
        Self {
            reason: Some(reason),
            ..self
        }
    }

    pub(crate) const fn with_dns(self) -> Self {
        Self {
            pod: Kind::Dns,
            ..self
        }
    }

    pub(crate) const fn without_sidecar(self) -> Self {
        Self {
            pod: Kind::WithoutSidecar,
            ..self
        }
    }
}

/// Makes all of them, in one Pod of each kind.
pub(crate) fn attempt(
    stage: &mut Fixture,
    nets: &[&Net],
    interrupt: &Interrupt,
) -> Result<Vec<Saw>> {
    let mut saw: Vec<Option<Saw>> = vec![None; nets.len()];
    for pod in [Kind::Plain, Kind::Dns, Kind::WithoutSidecar] {
        let chosen: Vec<usize> = (0..nets.len())
            .filter(|one| nets[*one].pod == pod)
            .collect();
        if chosen.is_empty() {
            continue;
        }
        let settings = PodAnnotations {
            dns: pod == Kind::Dns,
            proxy: pod != Kind::WithoutSidecar,
            ..PodAnnotations::default()
        };
        let test_pod = stage.admit(settings, interrupt)?;
        let batch = Batch {
            nets,
            chosen: &chosen,
        };
        let outcome = connect(stage, &test_pod, &batch, &mut saw, interrupt);
        test_pod.remove(&stage.lab)?;
        outcome?;
    }
    Ok(saw.into_iter().flatten().collect())
}

/// The attempts that concern one Pod.
struct Batch<'a> {
    nets: &'a [&'a Net],
    chosen: &'a [usize],
}

fn connect(
    stage: &Fixture,
    test_pod: &TestPod,
    batch: &Batch<'_>,
    saw: &mut [Option<Saw>],
    interrupt: &Interrupt,
) -> Result<()> {
    // Attempts with a route are apart: what the witness sees belongs to them.
    let mut groups = BTreeMap::<_, Vec<usize>>::new();
    for one in batch.chosen {
        let net = batch.nets[*one];
        let route = net.route().map(|how| (how, net.family.v4()));
        groups.entry((net.from, route)).or_default().push(*one);
    }
    for ((origin, route), group) in groups {
        let tries = group
            .iter()
            .map(|one| batch.nets[*one].resolve(stage, test_pod))
            .collect::<Result<Vec<Try>>>()?;
        let attempt = || -> Result<Vec<Got>> { stage.client(test_pod, origin, "intrude", &tries) };
        let (got, routed) = match route {
            Some((_, v4)) => witnessed(stage, v4, interrupt, attempt)?,
            None => (attempt()?, false),
        };
        for (one, got) in group.into_iter().zip(got) {
            saw[one] = Some(if routed {
                Saw::routed(&got)
            } else {
                judge(origin, &got)
            });
        }
    }
    Ok(())
}

/// Runs attempts beside a witness on the node's links; whether a packet with a route left a Pod.
fn witnessed<R>(
    stage: &Fixture,
    v4: bool,
    interrupt: &Interrupt,
    attempt: impl FnOnce() -> Result<R>,
) -> Result<(R, bool)> {
    let mut command = stage.lab.within(None).own()?;
    let log = stage.lab.file("witness.log");
    let mut witness = Process::start("the witness", command.arg("sniff"), &log)?;
    servers::wait(&mut witness, interrupt)?;
    let got = attempt()?;
    let routed = witness.log().contains(ROUTED[usize::from(!v4)]);
    witness.stop()?;
    Ok((got, routed))
}

impl Net {
    /// How the attempt sets a route, if it does.
    fn route(&self) -> Option<Route> {
        match self.trick {
            Trick::Route(how) => Some(how),
            _ => None,
        }
    }

    pub(super) fn resolve(&self, stage: &Fixture, test_pod: &TestPod) -> Result<Try> {
        let target = match self.to {
            Goal::At(target) => target,
            _ => Target::Pod,
        };
        let ask = ConnSpec {
            from: self.from,
            source: self.source,
            to: target,
            family: self.family,
            port: self.port,
            way: Way::Tcp,
        };
        let plain = stage
            .attempt(test_pod, ask)
            .context("the Pod lacks an address of the family")?;
        let foreign = matches!(self.trick, Trick::Freebind | Trick::Transparent);
        let elsewhere: IpAddr = if self.family.v4() {
            [203, 0, 113, 77].into()
        } else {
            [0x2001, 0xdb8, 2, 0, 0, 0, 0, 77].into()
        };
        Ok(Try {
            to: match self.to {
                Goal::At(_) => plain.to,
                Goal::LinkLocal => SocketAddr::new(link_local(test_pod.netns.path())?, self.port),
                Goal::Ip(ip) => SocketAddr::new(ip.parse()?, self.port),
            },
            source: plain.source.or(foreign.then_some(elsewhere)),
            trick: self.trick,
            hop: Server::Two.address(self.family.v4()),
            elsewhere: stage.elsewhere().to_owned(),
        })
    }
}

/// The address that the kernel gave `eth0`.
fn link_local(netns: &Path) -> Result<IpAddr> {
    let place = ExecContext {
        netns: Some(netns),
        ..ExecContext::default()
    };
    let show = [
        "-6", "-o", "address", "show", "dev", "eth0", "scope", "link",
    ];
    let text = output(place.command(Path::new("ip"))?.args(show), LIMIT)?;
    let address = text
        .split_whitespace()
        .find_map(|word| word.strip_suffix("/64"));
    Ok(address.context("eth0 has no link-local address")?.parse()?)
}

impl Saw {
    /// The witness saw a packet that followed the route.
    fn routed(got: &Got) -> Self {
        let end = got.errno.as_deref().or(got.by.as_deref());
        Self {
            outcome: Outcome::Passed,
            detail: format!(
                "a packet left for the first hop ({})",
                end.unwrap_or_default()
            ),
        }
    }
}

/// From inside, an answer of the peer means that the sidecar was bypassed; from outside, one of the
/// application.
fn judge(origin: Origin, got: &Got) -> Saw {
    let unsupported = [
        "EPROTONOSUPPORT",
        "ESOCKTNOSUPPORT",
        "EAFNOSUPPORT",
        "EOPNOTSUPP",
        "ENOPROTOOPT",
    ];
    let (outcome, detail) = match (&got.by, &got.errno) {
        (Some(by), _) => {
            let proxies: &[&str] = if origin.inside() {
                &[OUTBOUND, INBOUND, DNS.0, "application"]
            } else {
                &[INBOUND, "peer", "node", "outside"]
            };
            let stopped = proxies.contains(&by.as_str());
            let outcome = if stopped {
                Outcome::Stopped
            } else {
                Outcome::Passed
            };
            (outcome, by.clone())
        }
        (None, Some(errno)) if unsupported.contains(&errno.as_str()) => {
            (Outcome::NotApplicable, errno.clone())
        }
        (None, errno) => (Outcome::Stopped, errno.clone().unwrap_or_default()),
    };
    Saw { outcome, detail }
}
