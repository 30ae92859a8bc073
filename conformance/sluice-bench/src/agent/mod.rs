//! Agents of the benchmark inside namespaces: hidden commands of this binary.

mod bench_client;
pub(crate) mod bench_result;
pub(crate) mod bench_server;
pub(crate) mod churn;
mod grpc;
mod idle_conns;
mod min_proxy;
mod syscall_loop;

use anyhow::Result;
use clap::Subcommand;

/// The hidden subcommands.
#[derive(Subcommand)]
pub(crate) enum Job {
    /// Act as the server of the benchmark.
    #[command(hide = true)]
    BenchServer(bench_server::BenchServer),
    /// Act as the minimal proxy of the benchmark.
    #[command(hide = true)]
    MinProxy(min_proxy::MinProxy),
    /// Act as a client of the benchmark.
    #[command(hide = true)]
    BenchClient(bench_client::BenchClient),
    /// Act as a client of the benchmark that calls by gRPC.
    #[command(hide = true)]
    GrpcClient(grpc::GrpcClient),
    /// Act as a client of the benchmark that opens short connections.
    #[command(hide = true)]
    Churn(churn::Churn),
    /// Act as a client of the benchmark that leaves its connections open.
    #[command(hide = true)]
    IdleConns(idle_conns::IdleConns),
    /// Make one system call many times.
    #[command(hide = true)]
    SyscallLoop(syscall_loop::SyscallLoop),
    /// An agent of the test bed.
    #[command(flatten)]
    Testbed(sluice_testbed::agent::Job),
}

impl Job {
    /// Does it.
    pub(crate) fn run(self) -> Result<()> {
        match self {
            Self::BenchServer(bench_server) => bench_server.run(),
            Self::MinProxy(min_proxy) => min_proxy.run(),
            Self::BenchClient(bench_client) => bench_client.run(),
            Self::GrpcClient(grpc_client) => grpc_client.run(),
            Self::Churn(churn) => churn.run(),
            Self::IdleConns(idle_conns) => idle_conns.run(),
            Self::SyscallLoop(syscall_loop) => syscall_loop.run(),
            Self::Testbed(job) => job.run(),
        }
    }
}
