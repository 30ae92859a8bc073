//! What the lab runs inside its namespaces: this binary again, under a hidden name.

pub(crate) mod attack;
pub(crate) mod bench_client;
pub(crate) mod bench_server;
pub(crate) mod call;
pub(crate) mod churn;
pub(crate) mod echo_server;
mod exec;
mod flood;
mod idle_conns;
pub(crate) mod load_gen;
pub(crate) mod min_proxy;
pub(crate) mod probe;
pub(crate) mod serve;
pub(crate) mod sniff;
mod syscall_loop;
mod validate;

use std::{fs, path::Path, process::Command};

use anyhow::Result;
use clap::Subcommand;

/// The hidden subcommands.
#[derive(Subcommand)]
pub(crate) enum Job {
    /// Start a program in a network namespace, in a cgroup, as a user.
    #[command(hide = true)]
    Exec(exec::Exec),
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
    LoadGen(load_gen::LoadGen),
    /// Be the proxy, the application or a server of the suite.
    #[command(hide = true)]
    EchoServer(echo_server::EchoServer),
    /// Be a client of the suite: many connections.
    #[command(hide = true)]
    Probe,
    /// Be an attacker in a Pod: many attempts.
    #[command(hide = true)]
    Intrude,
    /// Be an attacker in a Pod: many destinations.
    #[command(hide = true)]
    Flood(flood::Flood),
    /// Be a witness on the node: packets with a route.
    #[command(hide = true)]
    Sniff,
    /// Be the server of the benchmark.
    #[command(hide = true)]
    BenchServer(bench_server::BenchServer),
    /// Be the minimal proxy of the benchmark.
    #[command(hide = true)]
    MinProxy(min_proxy::MinProxy),
    /// Be a client of the benchmark.
    #[command(hide = true)]
    BenchClient(bench_client::BenchClient),
    /// Be a client of the benchmark that opens short connections.
    #[command(hide = true)]
    Churn(churn::Churn),
    /// Be a client of the benchmark that leaves its connections open.
    #[command(hide = true)]
    IdleConns(idle_conns::IdleConns),
    /// Make one system call many times.
    #[command(hide = true)]
    SyscallLoop(syscall_loop::SyscallLoop),
}

impl Job {
    /// Does it.
    pub(crate) fn run(self) -> Result<()> {
        match self {
            Self::Exec(exec) => exec.run(),
            Self::Validate(validate) => validate.run(),
            Self::Serve(serve) => serve.run(),
            Self::Call(call) => call.run(),
            Self::LoadGen(load_gen) => load_gen.run(),
            Self::EchoServer(echo_server) => echo_server.run(),
            Self::Probe => probe::run(),
            Self::Intrude => attack::run(),
            Self::Flood(flood) => flood.run(),
            Self::Sniff => sniff::run(),
            Self::BenchServer(bench_server) => bench_server.run(),
            Self::MinProxy(min_proxy) => min_proxy.run(),
            Self::BenchClient(bench_client) => bench_client.run(),
            Self::Churn(churn) => churn.run(),
            Self::IdleConns(idle_conns) => idle_conns.run(),
            Self::SyscallLoop(syscall_loop) => syscall_loop.run(),
        }
    }
}

/// Where a process of the lab lives, and as whom.
#[derive(Clone, Copy, Default)]
pub(crate) struct ExecContext<'a> {
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

impl ExecContext<'_> {
    /// A command that runs `program` there. It ends when this process ends.
    pub(crate) fn command(&self, program: &Path) -> Result<Command> {
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
    pub(crate) fn own(&self) -> Result<Command> {
        self.command(&fs::canonicalize("/proc/self/exe")?)
    }
}
