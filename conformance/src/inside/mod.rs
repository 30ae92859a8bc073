//! What the lab runs inside its namespaces: this binary again, under a hidden name.

pub(crate) mod attack;
pub(crate) mod call;
pub(crate) mod churn;
pub(crate) mod drive;
pub(crate) mod echo;
mod enter;
mod hold;
pub(crate) mod listen;
pub(crate) mod load;
pub(crate) mod probe;
pub(crate) mod relay;
mod repeat;
pub(crate) mod serve;
mod validate;

use std::{fs, path::Path, process::Command};

use anyhow::Result;
use clap::Subcommand;

/// The hidden subcommands.
#[derive(Subcommand)]
pub(crate) enum Job {
    /// Start a program in a network namespace, in a cgroup, as a user.
    #[command(hide = true)]
    Enter(enter::Enter),
    /// Be the application of a Pod.
    #[command(hide = true)]
    Serve(serve::Serve),
    /// Check that traffic is diverted, as Istio does before a Pod starts.
    #[command(hide = true)]
    Validate(validate::Validate),
    /// Be a client: one connection, one request.
    #[command(hide = true)]
    Call(call::Call),
    /// Be many clients, for a while.
    #[command(hide = true)]
    Load(load::Load),
    /// Be the proxy, the application or a server of the suite.
    #[command(hide = true)]
    Listen(listen::Listen),
    /// Be a client of the suite: many connections.
    #[command(hide = true)]
    Probe,
    /// Be an attacker in a Pod: many attempts.
    #[command(hide = true)]
    Intrude,
    /// Be the server of the benchmark.
    #[command(hide = true)]
    Echo(echo::Echo),
    /// Be the minimal proxy of the benchmark.
    #[command(hide = true)]
    Relay(relay::Relay),
    /// Be a client of the benchmark.
    #[command(hide = true)]
    Drive(drive::Drive),
    /// Be a client of the benchmark that opens short connections.
    #[command(hide = true)]
    Churn(churn::Churn),
    /// Be a client of the benchmark that leaves its connections open.
    #[command(hide = true)]
    Hold(hold::Hold),
    /// Make one system call many times.
    #[command(hide = true)]
    Repeat(repeat::Repeat),
}

impl Job {
    /// Does it.
    pub(crate) fn run(self) -> Result<()> {
        match self {
            Self::Enter(enter) => enter.run(),
            Self::Validate(validate) => validate.run(),
            Self::Serve(serve) => serve.run(),
            Self::Call(call) => call.run(),
            Self::Load(load) => load.run(),
            Self::Listen(listen) => listen.run(),
            Self::Probe => probe::run(),
            Self::Intrude => attack::run(),
            Self::Echo(echo) => echo.run(),
            Self::Relay(relay) => relay.run(),
            Self::Drive(drive) => drive.run(),
            Self::Churn(churn) => churn.run(),
            Self::Hold(hold) => hold.run(),
            Self::Repeat(repeat) => repeat.run(),
        }
    }
}

/// Where a process of the lab lives, and as whom.
#[derive(Clone, Copy, Default)]
pub(crate) struct Place<'a> {
    /// Its network namespace, if not ours.
    pub(crate) netns: Option<&'a Path>,
    /// Its cgroup, if not ours.
    pub(crate) cgroup: Option<&'a Path>,
    /// Its user, and its group unless that is named, if not root.
    pub(crate) user: Option<u32>,
    /// Its group.
    pub(crate) group: Option<u32>,
    /// It may accept connections to addresses that are not the host's.
    pub(crate) transparent: bool,
}

impl Place<'_> {
    /// A command that runs `program` there. It ends when this process ends.
    pub(crate) fn command(&self, program: &Path) -> Result<Command> {
        let mut command = Command::new(fs::canonicalize("/proc/self/exe")?);
        command.arg("enter");
        if let Some(netns) = self.netns {
            command.arg("--netns").arg(netns);
        }
        if let Some(cgroup) = self.cgroup {
            command.arg("--cgroup").arg(cgroup);
        }
        if let Some(user) = self.user {
            command.arg("--user").arg(user.to_string());
        }
        if let Some(group) = self.group {
            command.arg("--group").arg(group.to_string());
        }
        if self.transparent {
            command.arg("--transparent");
        }
        command.arg("--").arg(program);
        Ok(command)
    }

    /// A command that runs this binary there.
    pub(crate) fn own(&self) -> Result<Command> {
        self.command(&fs::canonicalize("/proc/self/exe")?)
    }
}
