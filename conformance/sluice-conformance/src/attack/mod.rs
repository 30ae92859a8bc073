//! Attempts to get past the sidecar and into the daemon, on rules and on Sluice. The table says
//! where Sluice is stronger, the same, or weaker.

pub(crate) mod agent;
mod cases;
mod daemon;
mod neighbours;
mod net;
mod pod;
mod report;
mod request;
mod swap;

use anyhow::{Result, ensure};
use clap::Args;
use nix::unistd::Uid;
use serde::Serialize;
use sluice_lab::{Binaries, backend::BackendKind, mesh::Mesh};
use sluice_testbed::{interrupt::Interrupt, terminal::step};

use crate::{
    attack::{daemon::Deed, net::Net, pod::Script, report::Report},
    suite::{fixture::Fixture, subject::Subject},
};

/// Which attempts to make.
#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    binaries: Binaries,
    /// Only attempts whose name contains this.
    #[arg(long, default_value = "")]
    case: String,
    /// Print the attempts, run nothing.
    #[arg(long)]
    list: bool,
    /// Print JSON instead of the table.
    #[arg(long)]
    json: bool,
}

/// The attacker of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Attacker {
    /// A process of a meshed Pod without privilege.
    Process,
    /// Root in a container of a meshed Pod, with the runtime's default capabilities.
    ContainerRoot,
    /// The same with a view of the host's `/proc`.
    HostProc,
    /// A Pod that is not meshed.
    Neighbour,
    /// A host on the same network.
    Host,
    /// A local user of the node without privilege.
    LocalUser,
    /// An author of a Pod's annotations.
    Annotations,
    /// A compromised sidecar.
    Sidecar,
    /// A runtime, or a compromised plugin, that reports a false namespace.
    Runtime,
}

/// The outcome of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Outcome {
    /// The attacker did not reach the goal.
    Stopped,
    /// The attacker reached the goal.
    Passed,
    /// The subject has no such part, or the kernel lacks the feature.
    NotApplicable,
}

/// How Sluice compares with the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Verdict {
    Stronger,
    Same,
    Weaker,
    /// The rules have no such part to attack.
    Own,
}

/// One attempt.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) who: Attacker,
    pub(crate) what: &'static str,
    pub(crate) act: Act,
    /// Why Sluice lets it pass: no socket hook can stop it, or the sidecar's rules mean it. Without
    /// a reason, Sluice must stop it.
    pub(crate) reason: Option<&'static str>,
}

/// The form of an attempt.
#[derive(Clone, Copy)]
pub(crate) enum Act {
    /// A connection.
    Net(Net),
    /// A program in a meshed Pod.
    Script(Script),
    /// Something done to the daemon.
    Daemon(Deed),
}

/// The observation of one attempt on one subject.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Saw {
    pub(crate) outcome: Outcome,
    /// The answering server, the error, or the output of a command.
    pub(crate) detail: String,
}

impl Options {
    /// Whether every attempt ended as it must.
    pub(crate) fn run(&self) -> Result<bool> {
        let cases: Vec<&Case> = cases::all()
            .filter(|case| case.name.contains(&self.case))
            .collect();
        ensure!(!cases.is_empty(), "no attempt is called {:?}", self.case);
        if self.list {
            for case in cases {
                println!("{:<46} {:?}: {}", case.name, case.who, case.what);
            }
            return Ok(true);
        }
        ensure!(
            Uid::effective().is_root(),
            "needs root, to make namespaces and load BPF programs"
        );
        let interrupt = Interrupt::install()?;
        let mut left = Vec::new();
        let mut seen = Vec::new();
        for backend in [BackendKind::Iptables, BackendKind::Sluice] {
            let what = format!("{} attempts on {}", cases.len(), backend.name());
            let (saw, remains) = step(&what, || self.attack(backend, &cases, &interrupt))?;
            seen.push(saw);
            left.extend(remains);
        }
        let report = Report::new(&cases, &seen, left);
        report.print(self.json)?;
        Ok(report.holds())
    }

    fn attack(
        &self,
        backend: BackendKind,
        cases: &[&Case],
        interrupt: &Interrupt,
    ) -> Result<(Vec<Saw>, Vec<String>)> {
        let (binaries, subject) = (self.binaries.resolve()?, Subject::alone(backend));
        let mut stage = Fixture::build(binaries, &subject, Mesh::Istio, interrupt)?;
        let saw = attempts(&mut stage, cases, interrupt);
        // The first error is the one to report; the lab goes in any case.
        let left = stage.remove();
        Ok((saw?, left))
    }
}

/// All attempts on one subject, in the order of the cases.
fn attempts(stage: &mut Fixture, cases: &[&Case], interrupt: &Interrupt) -> Result<Vec<Saw>> {
    let nets: Vec<&Net> = cases
        .iter()
        .filter_map(|case| match &case.act {
            Act::Net(net) => Some(net),
            Act::Script(_) | Act::Daemon(_) => None,
        })
        .collect();
    let mut connections = net::attempt(stage, &nets, interrupt)?.into_iter();
    let scripts = cases.iter().filter_map(|case| match &case.act {
        Act::Script(script) => Some(script),
        Act::Net(_) | Act::Daemon(_) => None,
    });
    let scripts: Vec<&Script> = scripts.collect();
    let mut scripts = pod::attempt(stage, &scripts, interrupt)?.into_iter();
    let mut saw = Vec::new();
    for case in cases {
        interrupt.check()?;
        saw.push(match &case.act {
            Act::Net(_) => connections.next().unwrap_or_else(Saw::absent),
            Act::Script(_) => scripts.next().unwrap_or_else(Saw::absent),
            Act::Daemon(_) if stage.backend != BackendKind::Sluice => Saw::absent(),
            Act::Daemon(deed) => deed.attempt(stage, interrupt)?,
        });
    }
    Ok(saw)
}

/// The outcome of an attempt that reached its goal, or did not.
fn goal(reached: bool, detail: impl Into<String>) -> Saw {
    let outcome = if reached {
        Outcome::Passed
    } else {
        Outcome::Stopped
    };
    Saw {
        outcome,
        detail: detail.into(),
    }
}

impl Case {
    /// An attempt that Sluice must stop.
    const fn stopped(name: &'static str, who: Attacker, what: &'static str, act: Act) -> Self {
        Self {
            name,
            who,
            what,
            act,
            reason: None,
        }
    }

    /// A connection.
    const fn net(name: &'static str, who: Attacker, what: &'static str, net: Net) -> Self {
        Self {
            reason: net.reason,
            ..Self::stopped(name, who, what, Act::Net(net))
        }
    }
}

impl Saw {
    fn absent() -> Self {
        Self {
            outcome: Outcome::NotApplicable,
            detail: "the subject has no such part".to_owned(),
        }
    }
}
