//! The daemon put together: socket, kernel side, owner of the Pods, server.

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tracing::info;
use tracing_subscriber::EnvFilter;

use crate::{
    api::{self, Socket},
    bpf::Datapath,
    cgroup,
    config::{Behaviour, OnExit, Run},
    pods,
};

/// Serves until SIGTERM or SIGINT. Nothing is left behind then.
pub(crate) fn run(config: Run) -> anyhow::Result<()> {
    let behaviour = Behaviour::read(config.config.as_deref())?;
    let filter: EnvFilter = config.log.parse().context("--log cannot be understood")?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    let cgroup = config.cgroup.map_or_else(cgroup::find, Ok)?;
    // One thread: the work that blocks is done by the owner of the Pods.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        // First the socket, and with it the lock: of two daemons only one touches the kernel.
        let socket = Socket::bind(&config.socket)?;
        let datapath = Datapath::attach(&cgroup)?;
        info!(cgroup = %cgroup.display(), programs = datapath.programs().join(" "), "attached");
        let (pods, owner) = pods::start(datapath)?;
        info!(socket = %config.socket.display(), "ready");
        api::serve(&socket, pods, async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        })
        .await;
        info!(data_path = ?behaviour.on_exit, "stopping");
        match behaviour.on_exit {
            // There is nothing yet that could outlive the daemon.
            OnExit::Keep | OnExit::Detach => owner.join(),
        }
        Ok(())
    })
}
