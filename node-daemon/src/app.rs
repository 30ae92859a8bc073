//! Assembles the daemon: socket, kernel side, Pod manager, server.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::sys::{
    resource::{Resource, getrlimit, setrlimit},
    utsname::uname,
};
use sluice_abi::{Event, KernelOffsets};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, sleep},
};
use tracing::{debug, info, warn};

use crate::{
    api::{self, Handler, Socket, Sources, serve_metrics},
    bpf::{Datapath, Options, Pins, Ring},
    cgroup,
    config::{Config, Paths, RunArgs},
    event_log::EventLog,
    kernel::{self, Release},
    kube::{Cluster, EVENTS_QUEUE, daemonset, report_refusals},
    log::{self, Log},
    memory, netns,
    pods::{
        self, Acceleration, Auditor, Mesh, NodePolicy, OnExit, PendingDels, Pods, Selection,
        StartupState, Store, one_line,
    },
    privileges,
    refusals::Refusals,
    reload::{Reload, Signals},
    ztunnel::Ztunnels,
};

/// The resync interval.
const RESYNC_INTERVAL: Duration = Duration::from_secs(30);

/// The minimum interval between two lookups of namespaces that the kernel programs reported.
const LEARN_PAUSE: Duration = Duration::from_secs(1);

/// The interval between two looks for new virtual interfaces, and how many of them pass without a Pod that
/// has some.
const LINKS_PAUSE: Duration = Duration::from_secs(1);
const LINKS_IDLE: u32 = 5;

/// The minimum interval between two rounds for new cgroups.
const CGROUP_PAUSE: Duration = Duration::from_millis(50);

/// Serves until SIGTERM or SIGINT. The configuration decides whether the data path stays then.
pub(crate) fn run(args: RunArgs) -> anyhow::Result<()> {
    memory::tune_malloc();
    privileges::drop_privileges()?;
    let config = Config::read(args.config.as_deref())?;
    let mesh = config.choose_mesh(None)?;
    let filter = args.log.as_ref().unwrap_or(&config.log);
    let log = Log::start(filter, args.log_format)?;
    raise_descriptor_limit();
    // One thread: the Pod manager's thread does all blocking work.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(serve(args, config, mesh, log))
}

/// Raises the limit of open files to its maximum: a takeover opens the network namespace of every Pod, and the
/// usual limit is 1,024.
fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        warn!(%error, "cannot raise the limit of open files");
    }
}

async fn serve(args: RunArgs, config: Config, mesh: &'static Mesh, log: Log) -> anyhow::Result<()> {
    let cgroup = cgroup::choose(args.cgroup.clone())?;
    let mut stop = Stop::catch()?;
    let signals = Signals::catch()?;
    // The socket and its lock come first: only one of two daemons changes the kernel.
    let socket = Socket::bind(&args.socket)?;
    let (rings, auditor, owner) = start_pods(&args, &config, mesh, &cgroup)?;
    let pods = auditor.pods().clone();
    info!(socket = %args.socket.display(), "ready");
    let (cluster, ztunnels) = connect_mesh(mesh, &config, &pods).await?;
    let event_log = EventLog::default();
    let mut upkeep = Upkeep::default();
    upkeep.start(rings, &event_log, &cluster, &auditor);
    upkeep.spawn(resync_loop(pods.clone(), auditor.clone(), ztunnels.clone()));
    upkeep.spawn(attach_to_new_cgroups(cgroup, pods.clone()));
    let refusals = upkeep.report_refusals(&config, &cluster);
    let address = args.metrics_address.or(config.metrics_address);
    let (config, current) = watch::channel(config);
    let handler = Handler::new(Sources {
        auditor,
        cluster,
        event_log,
        refusals,
        config: current.clone(),
        ztunnels,
    });
    if let Some(address) = address {
        upkeep.spawn(serve_metrics(address, handler.clone()));
    }
    upkeep.spawn(signals.handle(Reload {
        path: args.config,
        config,
        flag: args.log,
        log,
        pods,
    }));
    let mut is_last = false;
    // Pods are served until it is known whether a daemon follows.
    api::serve(&socket, handler, async {
        is_last = stop.requested(&current).await;
    })
    .await;
    let on_exit = if is_last {
        OnExit::Detach
    } else {
        current.borrow().on_exit
    };
    info!(data_path = ?on_exit, "stopping");
    upkeep.stop().await;
    if owner.join(on_exit) && is_last {
        socket.write_uninstall_marker()?;
    }
    Ok(())
}

/// The rings that the programs fill.
struct Rings {
    netns_found: Ring<u64>,
    foreign_found: Ring<u64>,
    events: Ring<Event>,
}

/// Opens the kernel side, and starts the Pod manager.
fn start_pods(
    args: &RunArgs,
    config: &Config,
    mesh: &'static Mesh,
    cgroup: &Path,
) -> anyhow::Result<(Rings, Auditor, pods::Thread)> {
    let Paths { bpffs, state } = &args.paths;
    let (acceleration, kernel_offsets) = acceleration(config.acceleration);
    let options = Options {
        kernel_offsets,
        raw_sockets: config.raw_sockets,
        bypassing_node: (mesh.bypasses_node().then(netns::node_cookie)).transpose()?,
    };
    let mut datapath = kernel::open_datapath(Pins::open(bpffs)?, cgroup, options)?;
    let acceleration = limit_acceleration(acceleration, &datapath);
    let rings = Rings {
        netns_found: datapath.netns_found()?,
        foreign_found: datapath.foreign_found()?,
        events: datapath.events()?,
    };
    info!(
        cgroup = %cgroup.display(),
        programs = datapath.programs()?.len(),
        adopted = datapath.programs_are_adopted(),
        "attached"
    );
    let enrolled = datapath.all_netns_entries()?;
    let enrolled = enrolled.into_iter().map(|(cookie, _)| cookie).collect();
    let (store, records) = Store::open(state)?;
    let (pods, owner) = pods::start(StartupState {
        datapath,
        store,
        records,
        pending_dels: PendingDels::beside(&args.socket),
        node_policy: NodePolicy {
            mesh,
            missing_annotations: config.missing_annotations,
            acceleration,
        },
    })?;
    memory::release_freed();
    let auditor = Auditor::new(pods, config.on_enrol, enrolled);
    Ok((rings, auditor, owner))
}

/// The API server, and ztunnel if the daemon is its agent.
async fn connect_mesh(
    mesh: &Mesh,
    config: &Config,
    pods: &Pods,
) -> anyhow::Result<(Cluster, Option<Ztunnels>)> {
    let cluster = Cluster::new(config.kubeconfig.clone());
    if mesh.selection == Selection::Annotation {
        return Ok((cluster, None));
    }
    let socket = &config.ambient.ztunnel_socket;
    let ztunnels = Ztunnels::serve(socket)?;
    info!(socket = %socket.display(), "waiting for ztunnel");
    ztunnels.refresh(pods).await?;
    Ok((cluster.with_namespaces(), Some(ztunnels)))
}

/// The signals that stop the daemon.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    fn catch() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for a signal. `true` if no daemon follows this one.
    async fn requested(&mut self, config: &watch::Receiver<Config>) -> bool {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
        let set = config.borrow().daemon_set.clone();
        match set {
            Some(set) => !daemonset::will_restart(&set).await,
            None => false,
        }
    }
}

/// The tasks beside the socket.
#[derive(Default)]
struct Upkeep(Vec<JoinHandle<()>>);

impl Upkeep {
    fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.push(tokio::spawn(task));
    }

    fn start(&mut self, rings: Rings, event_log: &EventLog, cluster: &Cluster, auditor: &Auditor) {
        let pods = auditor.pods();
        self.spawn(handle_netns_found(
            rings.netns_found,
            pods.clone(),
            auditor.clone(),
        ));
        self.spawn(report_foreign(rings.foreign_found, pods.clone()));
        self.spawn(follow_virtual_interfaces(pods.clone()));
        self.spawn(pump_events(rings.events, event_log.clone()));
        self.spawn(list_node_pods(cluster.clone(), pods.clone()));
    }

    /// Reports refused Pods to the API server if the configuration says so.
    fn report_refusals(&mut self, config: &Config, cluster: &Cluster) -> Refusals {
        if !config.pod_events {
            return Refusals::default();
        }
        let (reports, refused) = mpsc::channel(EVENTS_QUEUE);
        let node = node_name().unwrap_or_default();
        self.spawn(report_refusals(cluster.clone(), node, refused));
        Refusals::reported_to(reports)
    }

    async fn stop(self) {
        for task in self.0 {
            task.abort();
            drop(task.await);
        }
    }
}

/// The name of this node.
fn node_name() -> Option<String> {
    let host = || Some(uname().ok()?.nodename().to_string_lossy().to_lowercase());
    std::env::var("NODE_NAME").ok().or_else(host)
}

/// The acceleration that this kernel supports, and its struct offsets.
fn acceleration(wanted: Acceleration) -> (Acceleration, Option<KernelOffsets>) {
    if wanted == Acceleration::Off {
        return (Acceleration::Off, None);
    }
    match Acceleration::kernel_offsets(&Release::running()) {
        Ok(kernel_offsets) => (wanted, Some(kernel_offsets)),
        Err(reason) => {
            // The default is no wish.
            if wanted == Acceleration::default() {
                info!("{reason}");
            } else {
                warn!("{reason}");
            }
            (Acceleration::Off, None)
        }
    }
}

/// The acceleration that is safe with the features of this kernel. Missing features are logged once, here.
fn limit_acceleration(wanted: Acceleration, datapath: &Datapath) -> Acceleration {
    let found = datapath.features();
    let missing = pods::describe_features(&Release::running(), found);
    for feature in missing.into_iter().filter(|one| !one.found) {
        info!(
            feature = feature.name,
            impact = feature.impact_if_missing,
            "kernel lacks a feature"
        );
    }
    let limited = wanted.limited(pods::allow_all(found));
    if limited != wanted {
        warn!(
            configured = wanted.name(),
            used = limited.name(),
            "acceleration is limited: this kernel cannot detect splice(2) of applications"
        );
    }
    limited
}

/// Applies the API server's list of running Pods.
async fn list_node_pods(cluster: Cluster, pods: Pods) {
    if let Some(node) = node_name()
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

/// Looks for new virtual interfaces, until the manager ends.
async fn follow_virtual_interfaces(pods: Pods) {
    while let Ok(some) = pods.follow_virtual_interfaces().await {
        sleep(LINKS_PAUSE * if some { 1 } else { LINKS_IDLE }).await;
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
        log::report_dropped_lines();
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
