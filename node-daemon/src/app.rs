//! Assembles the daemon: socket, kernel side, Pod manager, server.

use std::{io::IsTerminal as _, path::PathBuf, time::Duration};

use anyhow::Context as _;
use nix::sys::utsname::uname;
use sluice_abi::{Event, KernelOffsets};
use sluice_api::text;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Instant, MissedTickBehavior, sleep},
};
use tracing::{debug, info, warn};
use tracing_subscriber::{EnvFilter, field::MakeExt as _, fmt::format::debug_fn};

use crate::{
    api::{self, Handler, Socket},
    bpf::{Datapath, Options, Pins, Ring},
    cgroup,
    config::{Ambient, Config, Paths, RunArgs},
    event_log::EventLog,
    kube::{Cluster, daemonset},
    memory,
    pods::{
        self, Acceleration, Auditor, Mesh, NodePolicy, OnExit, PendingDels, Pods, Selection,
        StartupState, Store, one_line,
    },
    privileges,
    ztunnel::{SocketError, Ztunnels},
};

/// The resync interval.
const RESYNC_INTERVAL: Duration = Duration::from_secs(30);

/// The minimum interval between two lookups of namespaces that the kernel programs reported.
const LEARN_PAUSE: Duration = Duration::from_secs(1);

/// The minimum interval between two rounds for new cgroups.
const CGROUP_PAUSE: Duration = Duration::from_millis(50);

/// netlink-packet-route warns of every attribute that a newer kernel extended.
const LOG_QUIET: &str = "netlink_packet_route=error";

/// Serves until SIGTERM or SIGINT. The configuration decides whether the data path stays then.
pub(crate) fn run(args: RunArgs) -> anyhow::Result<()> {
    memory::tune_malloc();
    privileges::drop_privileges()?;
    let daemon_config = Config::read(args.config.as_deref())?;
    let mesh = daemon_config.choose_mesh(None)?;
    let log = format!("{LOG_QUIET},{}", args.log);
    let filter: EnvFilter = log.parse().context("--log is invalid")?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .fmt_fields(
            debug_fn(|writer, field, value| text::field(writer, field.name(), value))
                .delimited(" "),
        )
        .init();
    let cgroup = args.cgroup.map_or_else(cgroup::find, Ok)?;
    // One thread: the Pod manager's thread does all blocking work.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        // The socket and its lock come first: only one of two daemons changes the kernel.
        let socket = Socket::bind(&args.socket)?;
        let Paths { bpffs, state } = &args.paths;
        let (acceleration, kernel_offsets) = acceleration(daemon_config.acceleration)?;
        let options = Options {
            kernel_offsets,
            raw_sockets: daemon_config.raw_sockets,
        };
        let mut datapath = Datapath::open(Pins::open(bpffs)?, &cgroup, options)?;
        let (netns_found, events) = (datapath.netns_found()?, datapath.events()?);
        let foreign_found = datapath.foreign_found()?;
        info!(cgroup = %cgroup.display(), programs = datapath.programs()?.len(), "attached");
        let enrolled = datapath.all_netns_entries()?;
        let enrolled = enrolled.into_iter().map(|(cookie, _)| cookie).collect();
        let (store, records) = Store::open(state)?;
        let startup_state = StartupState {
            datapath,
            store,
            records,
            pending_dels: PendingDels::beside(&args.socket),
            node_policy: NodePolicy {
                mesh,
                missing_annotations: daemon_config.missing_annotations,
                acceleration,
            },
        };
        let (pods, owner) = pods::start(startup_state)?;
        info!(socket = %args.socket.display(), "ready");
        let auditor = Auditor::new(pods.clone(), daemon_config.on_enrol, enrolled);
        let ztunnels = serve_ztunnel(mesh, &daemon_config.ambient)?;
        let mut cluster = Cluster::new(daemon_config.kubeconfig);
        if let Some(ztunnels) = &ztunnels {
            cluster = cluster.with_namespaces();
            ztunnels.refresh(&pods).await?;
        }
        let event_log = EventLog::default();
        let upkeep = [
            tokio::spawn(resync_loop(pods.clone(), auditor.clone(), ztunnels.clone())),
            tokio::spawn(handle_netns_found(
                netns_found,
                pods.clone(),
                auditor.clone(),
            )),
            tokio::spawn(report_foreign(foreign_found, pods.clone())),
            tokio::spawn(pump_events(events, event_log.clone())),
            tokio::spawn(attach_to_new_cgroups(cgroup, pods.clone())),
            tokio::spawn(list_node_pods(cluster.clone(), pods.clone())),
        ];
        let mut last = false;
        // The manager ends with the last handle.
        drop(pods);
        let handler = Handler::new(
            auditor,
            cluster,
            event_log,
            daemon_config.proxy_user,
            ztunnels,
        );
        api::serve(&socket, handler, async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            // Pods are served until the answer is known.
            if let Some(set) = &daemon_config.daemon_set {
                last = !daemonset::will_restart(set).await;
            }
        })
        .await;
        let on_exit = if last {
            OnExit::Detach
        } else {
            daemon_config.on_exit
        };
        info!(data_path = ?on_exit, "stopping");
        for task in upkeep {
            task.abort();
            drop(task.await);
        }
        if owner.join(on_exit) && last {
            socket.write_uninstall_marker()?;
        }
        Ok(())
    })
}

/// The acceleration that this kernel supports, and its struct offsets.
fn acceleration(wanted: Acceleration) -> anyhow::Result<(Acceleration, Option<KernelOffsets>)> {
    if wanted == Acceleration::Off {
        return Ok((Acceleration::Off, None));
    }
    let kernel = uname().context("uname")?;
    Ok(
        match Acceleration::kernel_offsets(&kernel.release().to_string_lossy()) {
            Ok(kernel_offsets) => (wanted, Some(kernel_offsets)),
            Err(reason) => {
                warn!("{reason}");
                (Acceleration::Off, None)
            }
        },
    )
}

/// Applies the API server's list of running Pods.
async fn list_node_pods(cluster: Cluster, pods: Pods) {
    let node = std::env::var("NODE_NAME").or_else(|_| {
        let host = uname()?.nodename().to_string_lossy().to_lowercase();
        Ok::<_, nix::Error>(host)
    });
    if let Ok(node) = node
        && let Ok(listed) = cluster.list_pods_on_node(&node).await
        && pods.set_listed(listed).await.is_err()
    {
        debug!("stopped before the list came");
    }
}

/// Resolves pending Pods from the kernel's reports, until the manager ends. Any process that
/// assigns a pending Pod's address in its netns causes a report, so the rate is limited.
async fn handle_netns_found(mut netns_found: Ring<u64>, pods: Pods, auditor: Auditor) {
    while netns_found.next().await.is_ok() {
        let begin = Instant::now();
        if pods.resolve_pending().await.is_err() {
            return;
        }
        auditor.note_enrolled();
        sleep(LEARN_PAUSE.max(10 * begin.elapsed())).await;
    }
}

/// Logs the processes that were denied a port of a proxy, until the manager ends. Processes in Pods
/// cause the reports, so the rate is limited.
async fn report_foreign(mut foreign_found: Ring<u64>, pods: Pods) {
    while foreign_found.next().await.is_ok() {
        if pods.report_foreign().await.is_err() {
            return;
        }
        sleep(LEARN_PAUSE).await;
    }
}

/// Attaches programs to new children of the root cgroup, such as that of a runtime that is installed
/// later.
async fn attach_to_new_cgroups(root: PathBuf, pods: Pods) {
    let watch = match cgroup::Watch::of(&root) {
        Ok(watch) => watch,
        Err(error) => {
            warn!(
                cgroup = %root.display(), %error,
                "cannot watch for new cgroups; they are found within 30 s"
            );
            return;
        }
    };
    // The first round attaches to cgroups that were created before the watch.
    while pods.attach_new_cgroups().await.is_ok() && watch.changed().await.is_ok() {
        sleep(CGROUP_PAUSE).await;
    }
}

/// Logs the events of the programs.
async fn pump_events(mut events: Ring<Event>, event_log: EventLog) {
    while let Ok(events) = events.next().await {
        event_log.add(events);
    }
}

/// Repairs and audits until the manager ends. The first audit is immediate: it may have to reset
/// connections of Pods that were adopted at the start.
async fn resync_loop(pods: Pods, auditor: Auditor, ztunnels: Option<Ztunnels>) {
    let mut rounds = tokio::time::interval_at(Instant::now() + RESYNC_INTERVAL, RESYNC_INTERVAL);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        if let Err(error) = auditor.round().await {
            debug!(error = one_line(&error), "audit ended early");
        }
        // The audit after a resync includes the Pods that it adopted.
        loop {
            tokio::select! {
                _ = rounds.tick() => break,
                done = auditor.reset_enrolled() => if let Err(error) = done {
                    debug!(error = one_line(&error), "reset of new Pods' connections ended early");
                },
            }
        }
        if pods.resync().await.is_err() {
            return;
        }
        if let Some(ztunnels) = &ztunnels
            && ztunnels.refresh(&pods).await.is_err()
        {
            return;
        }
    }
}

/// Serves ztunnel, if the daemon is its agent.
fn serve_ztunnel(mesh: &Mesh, ambient: &Ambient) -> Result<Option<Ztunnels>, SocketError> {
    if mesh.selection == Selection::Annotation {
        return Ok(None);
    }
    let socket = &ambient.ztunnel_socket;
    let ztunnels = Ztunnels::serve(socket)?;
    info!(socket = %socket.display(), "waiting for ztunnel");
    Ok(Some(ztunnels))
}
