//! The Pods of the node: their registry, policy and kernel state.
//!
//! One thread owns all of them. Requests reach it one at a time, through [`Pods`].

mod acceleration;
mod addresses;
mod alias_routes;
mod apply;
mod audit;
mod bypass;
mod decision;
mod error;
mod evidence;
mod explain;
mod features;
mod foreign_log;
#[cfg(fuzzing)]
pub(crate) mod fuzz;
mod manager;
mod mesh;
mod own_addrs;
mod pending_dels;
mod plan;
mod policy;
mod repair_metrics;
mod rerouting;
mod rule_set;
mod settings;
mod silent;
mod source_addr;
mod store;
mod survey;
mod workload;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    thread::{Builder, JoinHandle},
    time::Duration,
};

use nix::sys::signal::SigSet;
use serde::Deserialize;
use sluice_abi::Endpoint;
use sluice_api::{
    AddRequest, AddResponse, Attachment, Check, DelResponse, ExplainRequest, ExplainResponse,
    GcRequest, Manifest, PodName, PodView, Status,
};
use tokio::sync::{mpsc, oneshot};
use tracing::debug;

use crate::{
    bpf::{Datapath, Pins, RunTime},
    netns::{self, Netns, ReservedPorts},
};
pub(crate) use acceleration::Acceleration;
pub(crate) use audit::{Auditor, OnEnrol, Summary as AuditSummary};
use audit::{Details, Target};
pub(crate) use decision::{Decision, decide};
pub(crate) use error::{Error, HAND_OVER, one_line};
pub(crate) use features::{allow_all, describe as describe_features};
pub(crate) use manager::MetricsSnapshot;
use manager::PodManager;
pub(crate) use mesh::{Error as MeshError, Mesh, Meshes, Selection};
pub(crate) use pending_dels::PendingDels;
pub(crate) use policy::MissingAnnotations;
pub(crate) use repair_metrics::{Repair, Repairs};
pub(crate) use settings::{FamilyChoice, IstioValues, LinkerdValues, NodeValues};
use source_addr::PASSTHROUGH;
pub(crate) use store::{Record, RecordId, Store};
use survey::Survey;
pub(crate) use workload::{Uid, Workload, Workloads};

/// The queue length of requests to the manager. The socket admits fewer connections.
const WAITING: usize = 128;

/// The annotations of a Pod's manifest.
pub(crate) type Annotations = BTreeMap<String, String>;

/// A Pod of this node in a list of the API server.
#[derive(Clone, Debug)]
pub(crate) struct ListedPod {
    /// Its name.
    pub(crate) pod: PodName,
    /// Its addresses of both families.
    pub(crate) addresses: Vec<IpAddr>,
    /// All its annotations.
    pub(crate) annotations: Annotations,
    /// The rest of the manifest.
    pub(crate) manifest: Option<Manifest>,
}

type Work = Box<dyn FnOnce(&mut PodManager) + Send>;

/// The handle that sends requests to the Pod manager.
#[derive(Clone, Debug)]
pub(crate) struct Pods {
    manager: mpsc::Sender<Work>,
}

/// The fate of the data path when the daemon stops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum OnExit {
    /// It stays, and the next daemon adopts it.
    #[default]
    Keep,
    /// It is removed: Pods bypass their sidecars.
    Detach,
}

/// The thread of the Pod manager.
pub(crate) struct Thread(JoinHandle<PodManager>);

impl Thread {
    /// Waits for the manager, which ends when the last [`Pods`] is dropped, and then handles the
    /// data path as requested. `true` if that succeeded.
    pub(crate) fn join(self, on_exit: OnExit) -> bool {
        let Ok(manager) = self.0.join() else {
            tracing::error!("the pod manager thread panicked");
            return false;
        };
        if on_exit == OnExit::Keep {
            return true;
        }
        let (pins, store, records, pending_dels) = manager.into_parts();
        let detached = detach(pins, &store, &records, &pending_dels);
        match &detached {
            Ok(removed) => tracing::info!(pins = removed.len(), "detached"),
            Err(error) => {
                tracing::error!(error = error::one_line(error), "detach incomplete");
            }
        }
        detached.is_ok()
    }
}

/// The state that the previous daemon left.
pub(crate) struct StartupState {
    /// Programs, links and maps.
    pub(crate) datapath: Datapath,
    /// The directory of records.
    pub(crate) store: Store,
    /// The records.
    pub(crate) records: Vec<(RecordId, Record)>,
    /// The pending DELs of the plugin.
    pub(crate) pending_dels: PendingDels,
    /// The policy of the node.
    pub(crate) node_policy: NodePolicy,
}

/// The policy of every Pod of the node, unless its annotations override it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NodePolicy {
    /// The mesh of the Pods.
    pub(crate) mesh: &'static Mesh,
    /// The policy for Pods whose annotations are unavailable.
    pub(crate) missing_annotations: MissingAnnotations,
    /// The connections that are accelerated.
    pub(crate) acceleration: Acceleration,
}

/// Adopts every Pod, and starts the manager's thread.
///
/// # Errors
///
/// If the kernel's maps cannot be read, or the thread cannot be spawned.
pub(crate) fn start(startup_state: StartupState) -> anyhow::Result<(Pods, Thread)> {
    let restore = || {
        let mut manager = PodManager::restore(startup_state)?;
        manager.replay_pending_dels();
        manager.adopt(Survey::of_processes(&manager.brief()));
        Ok(manager)
    };
    // The main thread cannot enter the Pods' namespaces.
    let mut manager = netns::in_new_thread(restore)
        .map_err(Error::from)
        .flatten()
        .map_err(explain)?;
    let (sender, mut work) = mpsc::channel::<Work>(WAITING);
    // Namespace changes and system calls block: they must not delay the socket.
    let thread = Builder::new().name("pods".into()).spawn(move || {
        // The main thread handles signals. One in this thread would interrupt the kernel's verifier.
        let _always = SigSet::all().thread_block();
        loop {
            if work.is_empty() {
                manager.prepare_next();
            }
            let Some(work) = work.blocking_recv() else {
                break;
            };
            work(&mut manager);
        }
        manager
    })?;
    Ok((Pods { manager: sender }, Thread(thread)))
}

/// Adds the remedy to an error of a takeover.
fn explain(error: Error) -> anyhow::Error {
    let is_shortage = error.is_shortage();
    let error = anyhow::Error::new(error);
    if !is_shortage {
        return error;
    }
    error.context(
        "the machine lacks descriptors, memory or threads to take over the Pods, which stay as they are: raise the \
         daemon's limits (open files, memory, processes), then start it again",
    )
}

/// Ends the data path: removes every hook, then the changes inside the Pods, then the records.
/// Returns the removed pins.
///
/// # Errors
///
/// If a pin or a record cannot be removed. The call may be repeated.
pub(crate) fn detach(
    pins: Pins,
    store: &Store,
    records: &[(RecordId, Record)],
    pending_dels: &PendingDels,
) -> Result<Vec<PathBuf>, Error> {
    let removed = pins.remove_all()?;
    let detach_pod = |(record_id, record): &(RecordId, Record)| -> Result<(), Error> {
        // The kernel removed everything inside a namespace that is gone.
        if let Ok(netns) = Netns::open(Path::new(&record.request.netns))
            && Some(netns.id()) == record.netns
        {
            netns.install_local_routes(&alias_routes::NETWORKS, &[])?;
            netns.remove_source_routing(record.switches)?;
            netns.remove_rerouting()?;
            if let Err(error) = netns.reserve(record.reserved, ReservedPorts::NONE) {
                debug!(
                    error = one_line(&error),
                    "failed to release ports of the proxy"
                );
            }
            if record.passthrough {
                netns.remove_from_loopback(PASSTHROUGH)?;
            }
        }
        Ok(store.remove(*record_id)?)
    };
    // The main thread cannot enter the Pods' namespaces.
    netns::in_new_thread(|| records.iter().try_for_each(detach_pod))??;
    pending_dels.end();
    Ok(removed)
}

impl Pods {
    /// Enrolls a Pod, or records that it is not intercepted.
    pub(crate) async fn add(&self, request: AddRequest) -> Result<AddResponse, Error> {
        self.ask(move |manager| manager.add(request)).await?
    }

    /// Deletes an attachment.
    pub(crate) async fn del(&self, attachment: Attachment) -> Result<DelResponse, Error> {
        self.ask(move |manager| manager.del(&attachment)).await?
    }

    /// The Pods that ztunnel serves. `first` runs before the manager reads them, in its thread: its
    /// results have the order of the reads.
    pub(crate) async fn workloads<T: Send + 'static>(
        &self,
        first: impl FnOnce() -> T + Send + 'static,
    ) -> Result<(T, Workloads), Error> {
        self.ask(|manager| (first(), manager.view().workloads()))
            .await
    }

    /// Compares the kernel state with the desired state.
    pub(crate) async fn check(&self, check: Check) -> Result<(), Error> {
        self.ask(move |manager| match check {
            Check::Reported(request) => manager.view().check_reported(&request),
            Check::Unreported(attachment) => manager.view().check(&attachment),
        })
        .await?
    }

    /// Deletes every attachment of a network that is not in the request.
    pub(crate) async fn gc(&self, request: GcRequest) -> Result<DelResponse, Error> {
        self.ask(move |manager| manager.gc(&request)).await?
    }

    /// Adopts running Pods without a report, and repairs lost state.
    pub(crate) async fn resync(&self) -> Result<(), Error> {
        let survey = self.survey().await?;
        self.ask(|manager| manager.resync(survey)).await
    }

    /// Attaches programs to new virtual interfaces. `true` if a Pod may have some.
    pub(crate) async fn follow_virtual_interfaces(&self) -> Result<bool, Error> {
        self.ask(|manager| manager.follow_virtual_interfaces(false))
            .await
    }

    /// Attaches programs to new children of the root cgroup.
    pub(crate) async fn attach_new_cgroups(&self) -> Result<(), Error> {
        self.ask(PodManager::attach_new_cgroups).await
    }

    /// Applies a list of this node's Pods.
    pub(crate) async fn set_listed(&self, listed: Vec<ListedPod>) -> Result<(), Error> {
        self.ask(|manager| manager.note_list(listed)).await?;
        let survey = self.survey().await?;
        self.ask(|manager| manager.expect(survey)).await
    }

    /// Enrolls the pending Pods whose netns the kernel programs have found.
    pub(crate) async fn resolve_pending(&self) -> Result<(), Error> {
        let survey = self.survey().await?;
        self.ask(|manager| {
            manager.adopt(survey);
            manager.resolve_pending();
        })
        .await
    }

    /// Logs the processes that were denied a port of a proxy.
    pub(crate) async fn report_foreign(&self) -> Result<(), Error> {
        self.ask(PodManager::report_foreign).await
    }

    /// Surveys the node's namespaces. The manager serves requests meanwhile.
    async fn survey(&self) -> Result<Survey, Error> {
        let brief = self.ask(|manager| manager.brief()).await?;
        let survey = tokio::task::spawn_blocking(move || Survey::of(&brief));
        survey.await.map_err(|_| Error::Stopping)
    }

    /// Explains the decision on a connection.
    pub(crate) async fn explain(&self, question: ExplainRequest) -> Result<ExplainResponse, Error> {
        self.ask(move |manager| manager.view().explain(&question))
            .await?
    }

    /// Enables the events of the programs for a while. Returns the names of the watched Pods by
    /// netns cookie.
    pub(crate) async fn enable_events(
        &self,
        pod: Option<String>,
        time: Duration,
    ) -> Result<BTreeMap<u64, String>, Error> {
        self.ask(move |manager| manager.enable_events(pod.as_deref(), time))
            .await?
    }

    /// The netns cookies of all meshed Pods, or of one.
    async fn meshed(&self, pod: Option<String>) -> Result<Vec<u64>, Error> {
        self.ask(move |manager| manager.view().meshed(pod.as_deref()))
            .await?
    }

    /// The description of a meshed Pod for an audit.
    async fn target(&self, cookie: u64) -> Result<Option<Target>, Error> {
        self.ask(move |manager| manager.view().target(cookie))
            .await?
    }

    /// The state of connections in the programs' maps.
    async fn details(
        &self,
        cookie: u64,
        connections: Vec<(Endpoint, Endpoint)>,
    ) -> Result<Vec<Details>, Error> {
        self.ask(move |manager| manager.view().details(cookie, &connections))
            .await?
    }

    /// Enables the kernel's statistics of programs until the descriptor is closed.
    pub(crate) async fn enable_stats(&self) -> Result<OwnedFd, Error> {
        self.ask(|_| Datapath::enable_stats())
            .await?
            .map_err(Into::into)
    }

    /// The runs of the programs.
    pub(crate) async fn run_times(&self) -> Result<Vec<RunTime>, Error> {
        self.ask(|manager| manager.run_times()).await?
    }

    /// The daemon's status.
    pub(crate) async fn status(&self) -> Result<Status, Error> {
        self.ask(manager::PodManager::status).await?
    }

    /// Answers when the manager's thread has done all earlier work.
    pub(crate) async fn ping(&self) -> Result<(), Error> {
        self.ask(|_| ()).await
    }

    /// Changes the policy for later ADDs without annotations.
    pub(crate) async fn set_missing_annotations(
        &self,
        policy: MissingAnnotations,
    ) -> Result<(), Error> {
        self.ask(move |manager| manager.set_missing_annotations(policy))
            .await
    }

    /// The Pods whose proxy does not listen, by netns cookie.
    pub(crate) async fn without_listener(&self) -> Result<BTreeSet<u64>, Error> {
        self.ask(|manager| manager.view().without_listener())
            .await?
    }

    /// Every Pod.
    pub(crate) async fn list(&self) -> Result<Vec<PodView>, Error> {
        self.ask(|manager| manager.list()).await?
    }

    /// The values of the metrics.
    pub(crate) async fn read(&self) -> Result<MetricsSnapshot, Error> {
        self.ask(|manager| manager.read()).await?
    }

    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut PodManager) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        let work: Work = Box::new(move |manager| {
            // The requester may be gone; the request is carried out in any case.
            let _ = reply.send(question(manager));
        });
        self.manager.send(work).await.map_err(|_| Error::Stopping)?;
        answer.await.map_err(|_| Error::Stopping)
    }
}
