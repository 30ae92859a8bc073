//! The daemon put together: socket, kernel side, owner of the Pods, server.

use std::{io::IsTerminal as _, time::Duration};

use anyhow::Context as _;
use daemon_api::text;
use nix::sys::utsname::uname;
use sluice_abi::{Event, Layout};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Instant, MissedTickBehavior, sleep},
};
use tracing::{debug, info, warn};
use tracing_subscriber::{EnvFilter, field::MakeExt as _, fmt::format::debug_fn};

use crate::{
    api::{self, Desk, Socket},
    bpf::{Datapath, Pins, Ring},
    cgroup,
    config::{Behaviour, OnExit, Places, Run},
    journal::Journal,
    kube::{Cluster, successor},
    memory,
    pods::{self, Acceleration, Inheritance, Mesh, Pods, Rules, Store, Tombstones},
    privileges,
};

/// Between two rounds of upkeep.
const ROUND: Duration = Duration::from_secs(30);

/// Between two looks at namespaces that the kernel has named, at least.
const LEARN_PAUSE: Duration = Duration::from_secs(1);

/// netlink-packet-route warns of every attribute that a newer kernel made longer.
const QUIET: &str = "netlink_packet_route=error";

/// Serves until SIGTERM or SIGINT. What becomes of the data path then, the configuration says.
pub(crate) fn run(config: Run) -> anyhow::Result<()> {
    memory::give_back_large_blocks();
    privileges::reduce()?;
    let behaviour = Behaviour::read(config.config.as_deref())?;
    let mesh = Mesh::choose(&behaviour.mesh, behaviour.meshes, behaviour.ipv6)?;
    let log = format!("{QUIET},{}", config.log);
    let filter: EnvFilter = log.parse().context("--log cannot be understood")?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .fmt_fields(
            debug_fn(|writer, field, value| text::field(writer, field.name(), value))
                .delimited(" "),
        )
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
        let Places { bpffs, state } = &config.places;
        let (acceleration, layout) = acceleration(behaviour.acceleration)?;
        let mut datapath = Datapath::open(Pins::open(bpffs)?, &cgroup, layout)?;
        let (learned, events) = (datapath.learned()?, datapath.events()?);
        info!(cgroup = %cgroup.display(), programs = datapath.programs()?.len(), "attached");
        let (store, records) = Store::open(state)?;
        let inheritance = Inheritance {
            datapath,
            store,
            records,
            tombstones: Tombstones::beside(&config.socket),
            rules: Rules {
                mesh,
                when_unknown: behaviour.when_unknown,
                acceleration,
            },
        };
        let (pods, owner) = pods::start(inheritance)?;
        info!(socket = %config.socket.display(), "ready");
        let cluster = Cluster::new(behaviour.kubeconfig);
        let journal = Journal::default();
        let upkeep = [
            tokio::spawn(keep_up(pods.clone())),
            tokio::spawn(follow(learned, pods.clone())),
            tokio::spawn(listen(events, journal.clone())),
            tokio::spawn(look_up(cluster.clone(), pods.clone())),
        ];
        let mut last = false;
        let desk = Desk::new(pods, cluster, journal, behaviour.proxy_user);
        api::serve(&socket, desk, async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            // Until that is known, Pods are served.
            if let Some(set) = &behaviour.daemon_set {
                last = !successor::is_expected(set).await;
            }
        })
        .await;
        let on_exit = if last {
            OnExit::Detach
        } else {
            behaviour.on_exit
        };
        info!(data_path = ?on_exit, "stopping");
        for task in upkeep {
            task.abort();
            drop(task.await);
        }
        if owner.join(on_exit) && last {
            socket.bid_farewell()?;
        }
        Ok(())
    })
}

/// What this kernel allows of it, and what the programs must know of the kernel then.
fn acceleration(wanted: Acceleration) -> anyhow::Result<(Acceleration, Option<Layout>)> {
    if wanted == Acceleration::Off {
        return Ok((Acceleration::Off, None));
    }
    let kernel = uname().context("uname")?;
    Ok(
        match Acceleration::layout(&kernel.release().to_string_lossy()) {
            Ok(layout) => (wanted, Some(layout)),
            Err(reason) => {
                warn!("{reason}");
                (Acceleration::Off, None)
            }
        },
    )
}

/// Takes in what the API server knows of the Pods that run already.
async fn look_up(cluster: Cluster, pods: Pods) {
    let node = std::env::var("NODE_NAME").or_else(|_| {
        let host = uname()?.nodename().to_string_lossy().to_lowercase();
        Ok::<_, nix::Error>(host)
    });
    if let Ok(node) = node
        && let Ok(listed) = cluster.pods_of(&node).await
        && pods.expect(listed).await.is_err()
    {
        debug!("stopped before the list came");
    }
}

/// Takes in what the kernel finds, until the owner ends. Anybody who gives a namespace the address of
/// an awaited Pod causes this, so it may take a small part of the time at most.
async fn follow(mut learned: Ring<u64>, pods: Pods) {
    while learned.next().await.is_ok() {
        let begin = Instant::now();
        if pods.learn().await.is_err() {
            return;
        }
        sleep(LEARN_PAUSE.max(10 * begin.elapsed())).await;
    }
}

/// Notes what the programs tell.
async fn listen(mut events: Ring<Event>, journal: Journal) {
    while let Ok(events) = events.next().await {
        journal.add(events);
    }
}

/// Until the owner ends.
async fn keep_up(pods: Pods) {
    let mut rounds = tokio::time::interval_at(Instant::now() + ROUND, ROUND);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        rounds.tick().await;
        if pods.keep_up().await.is_err() {
            return;
        }
    }
}
