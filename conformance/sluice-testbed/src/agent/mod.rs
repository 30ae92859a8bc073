//! Agents of the lab inside its namespaces: hidden commands of this binary.

pub mod call;
pub mod echo_server;
mod exec;
pub mod load_gen;
pub mod probe;
pub mod serve;
mod validate;

use std::{fs, path::Path, process::Command};

use anyhow::Result;
use clap::Subcommand;

/// The hidden subcommands.
#[derive(Subcommand)]
pub enum Job {
    /// Start a program in a network namespace, in a cgroup, as a user.
    #[command(hide = true)]
    Exec(exec::Exec),
    /// Act as the application of a Pod.
    #[command(hide = true)]
    Serve(serve::Serve),
    /// Check that traffic is redirected, as Istio does before a Pod starts.
    #[command(hide = true)]
    Validate(validate::Validate),
    /// Act as a client: one connection, one request.
    #[command(hide = true)]
    Call(call::Call),
    /// Act as many clients, for a while.
    #[command(hide = true)]
    LoadGen(load_gen::LoadGen),
    /// Act as the proxy, the application or a server of the suite.
    #[command(hide = true)]
    EchoServer(echo_server::EchoServer),
    /// Act as a client of the suite: many connections.
    #[command(hide = true)]
    Probe,
}

impl Job {
    /// Does it.
    pub fn run(self) -> Result<()> {
        match self {
            Self::Exec(exec) => exec.run(),
            Self::Validate(validate) => validate.run(),
            Self::Serve(serve) => serve.run(),
            Self::Call(call) => call.run(),
            Self::LoadGen(load_gen) => load_gen.run(),
            Self::EchoServer(echo_server) => echo_server.run(),
            Self::Probe => probe::run(),
        }
    }
}

/// The namespace, the cgroup and the user of a process of the lab.
#[derive(Clone, Copy, Default)]
pub struct ExecContext<'a> {
    /// Its network namespace, if not ours.
    pub netns: Option<&'a Path>,
    /// Its cgroup, if not ours.
    pub cgroup: Option<&'a Path>,
    /// Its user, and its group unless that is named, if not root.
    pub user: Option<u32>,
    /// Its group.
    pub group: Option<u32>,
    /// It may accept connections to addresses that are not the host's.
    pub transparent: bool,
}

impl ExecContext<'_> {
    /// A command that runs `program` there. It ends when this process ends.
    pub fn command(&self, program: &Path) -> Result<Command> {
        let mut command = Command::new(fs::canonicalize("/proc/self/exe")?);
        command.arg("exec");
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
    pub fn own(&self) -> Result<Command> {
        self.command(&fs::canonicalize("/proc/self/exe")?)
    }
}
