//! The Pods: who they are, what is to be done with them, and the kernel's state that does it.
//!
//! One thread owns all of it. Requests reach it through [`Pods`], one after the other.

mod acceleration;
mod addresses;
mod alias_routes;
mod apply;
mod bypass;
mod decision;
mod error;
mod evidence;
mod explain;
#[cfg(fuzzing)]
pub(crate) mod fuzz;
mod manager;
mod mesh;
mod pending_dels;
mod plan;
mod policy;
mod repair_metrics;
mod rule_set;
mod source_addr;
mod store;
mod survey;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
    thread::{Builder, JoinHandle},
    time::Duration,
};

use daemon_api::{
    AddRequest, AddResponse, Attachment, Check, DelResponse, ExplainRequest, ExplainResponse,
    GcRequest, Manifest, PodName, PodView, Status,
};
use tokio::sync::{mpsc, oneshot};

use crate::{
    bpf::{Datapath, Pins},
    config::OnExit,
    netns::Netns,
};
pub(crate) use acceleration::Acceleration;
use apply::PASSTHROUGH;
pub(crate) use decision::{Decision, decide};
pub(crate) use error::{Error, HAND_OVER};
pub(crate) use manager::MetricsSnapshot;
use manager::PodManager;
pub(crate) use mesh::{Mesh, Meshes};
pub(crate) use pending_dels::PendingDels;
pub(crate) use policy::MissingAnnotations;
pub(crate) use repair_metrics::{Repair, Repairs};
pub(crate) use store::{Record, RecordId, Store};
use survey::Survey;

/// Requests that may wait for the owner. The socket admits fewer connections than that.
const WAITING: usize = 128;

/// What people say of a Pod in its manifest.
pub(crate) type Annotations = BTreeMap<String, String>;

/// A Pod of this node of which a list tells.
#[derive(Clone, Debug)]
pub(crate) struct ListedPod {
    /// Its name.
    pub(crate) pod: PodName,
    /// Of every family.
    pub(crate) addresses: Vec<IpAddr>,
    /// All of them.
    pub(crate) annotations: Annotations,
    /// The rest of the manifest.
    pub(crate) manifest: Option<Manifest>,
}

type Work = Box<dyn FnOnce(&mut PodManager) + Send>;

/// The way to the owner of the Pods.
#[derive(Clone, Debug)]
pub(crate) struct Pods {
    manager: mpsc::Sender<Work>,
}

/// The owner's thread.
pub(crate) struct Thread(JoinHandle<PodManager>);

impl Thread {
    /// Waits until the owner has ended, which it does when the last [`Pods`] is dropped; then does
    /// with the data path what is wanted. Whether that was done.
    pub(crate) fn join(self, on_exit: OnExit) -> bool {
        let Ok(manager) = self.0.join() else {
            tracing::error!("the pod manager thread panicked");
            return false;
        };
        if on_exit == OnExit::Keep {
            return true;
        }
        let (pins, store, records) = manager.into_parts();
        let detached = detach(pins, &store, &records);
        match &detached {
            Ok(removed) => tracing::info!(pins = removed.len(), "detached"),
            Err(error) => {
                tracing::error!(error = error::one_line(error), "detach incomplete");
            }
        }
        detached.is_ok()
    }
}

/// What the daemon before this one left.
pub(crate) struct StartupState {
    /// Programs, links and maps.
    pub(crate) datapath: Datapath,
    /// Where records are kept.
    pub(crate) store: Store,
    /// The records.
    pub(crate) records: Vec<(RecordId, Record)>,
    /// What the plugin left.
    pub(crate) pending_dels: PendingDels,
    /// The node's own.
    pub(crate) node_policy: NodePolicy,
}

/// What holds for every Pod of the node, unless its annotations say otherwise.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NodePolicy {
    /// Whose sidecars the Pods carry.
    pub(crate) mesh: &'static Mesh,
    /// What becomes of a Pod of which nobody tells.
    pub(crate) missing_annotations: MissingAnnotations,
    /// Which connections go from socket to socket.
    pub(crate) acceleration: Acceleration,
}

/// Takes over every Pod, and starts the owner.
///
/// # Errors
///
/// If the kernel's tables cannot be read, or no thread can be made.
pub(crate) fn start(startup_state: StartupState) -> anyhow::Result<(Pods, Thread)> {
    let mut manager = PodManager::restore(startup_state)?;
    manager.replay_pending_dels();
    manager.adopt(Survey::of(&manager.brief()));
    let (sender, mut work) = mpsc::channel::<Work>(WAITING);
    // Work inside namespaces and system calls block: they must not hold up the socket.
    let thread = Builder::new().name("pods".into()).spawn(move || {
        while let Some(work) = work.blocking_recv() {
            work(&mut manager);
        }
        manager
    })?;
    Ok((Pods { manager: sender }, Thread(thread)))
}

/// Ends the data path: removes every hook, then what the Pods were given, then the records. Tells
/// which pins it removed.
///
/// # Errors
///
/// If a pin or a record cannot be removed. All of it can be tried again.
pub(crate) fn detach(
    pins: Pins,
    store: &Store,
    records: &[(RecordId, Record)],
) -> Result<Vec<PathBuf>, Error> {
    let removed = pins.remove_all()?;
    for (record_id, record) in records {
        // A namespace that is gone took everything with it.
        if let Ok(netns) = Netns::open(Path::new(&record.request.netns))
            && Some(netns.id()) == record.netns
        {
            netns.install_local_routes(alias_routes::NETWORKS.into(), Vec::new())?;
            if record.passthrough {
                netns.remove_from_loopback(PASSTHROUGH)?;
            }
        }
        store.remove(*record_id)?;
    }
    Ok(removed)
}

impl Pods {
    /// Takes a Pod in, or notes that it is to be left alone.
    pub(crate) async fn add(&self, request: AddRequest) -> Result<AddResponse, Error> {
        self.ask(move |manager| manager.add(request)).await?
    }

    /// Lets an attachment go.
    pub(crate) async fn del(&self, attachment: Attachment) -> Result<DelResponse, Error> {
        self.ask(move |manager| manager.del(&attachment)).await?
    }

    /// Compares the kernel's state with what it should be.
    pub(crate) async fn check(&self, check: Check) -> Result<(), Error> {
        self.ask(move |manager| match check {
            Check::Reported(request) => manager.check_reported(&request),
            Check::Unreported(attachment) => manager.check(&attachment),
        })
        .await?
    }

    /// Lets every attachment of a network go that is not listed.
    pub(crate) async fn gc(&self, request: GcRequest) -> Result<DelResponse, Error> {
        self.ask(move |manager| manager.gc(&request)).await?
    }

    /// Finds Pods that nobody reported, and mends what was lost.
    pub(crate) async fn resync(&self) -> Result<(), Error> {
        let survey = self.survey().await?;
        self.ask(|manager| manager.resync(survey)).await
    }

    /// Takes in what a list of this node's Pods tells of.
    pub(crate) async fn set_listed(&self, listed: Vec<ListedPod>) -> Result<(), Error> {
        self.ask(|manager| manager.note_list(listed)).await?;
        let survey = self.survey().await?;
        self.ask(|manager| manager.expect(survey)).await
    }

    /// Takes in the Pods whose network namespace the kernel has named.
    pub(crate) async fn resolve_pending(&self) -> Result<(), Error> {
        let survey = self.survey().await?;
        self.ask(|manager| {
            manager.adopt(survey);
            manager.resolve_pending();
        })
        .await
    }

    /// Looks at the node's network namespaces. The owner serves requests meanwhile.
    async fn survey(&self) -> Result<Survey, Error> {
        let brief = self.ask(|manager| manager.brief()).await?;
        let survey = tokio::task::spawn_blocking(move || Survey::of(&brief));
        survey.await.map_err(|_| Error::Stopping)
    }

    /// What would become of a connection.
    pub(crate) async fn explain(&self, question: ExplainRequest) -> Result<ExplainResponse, Error> {
        self.ask(move |manager| manager.explain(&question)).await?
    }

    /// Lets the programs tell of their decisions for a while. The names of the Pods that are
    /// watched, by their network namespaces' cookies.
    pub(crate) async fn enable_events(
        &self,
        pod: Option<String>,
        time: Duration,
    ) -> Result<BTreeMap<u64, String>, Error> {
        self.ask(move |manager| manager.enable_events(pod.as_deref(), time))
            .await?
    }

    /// How the daemon is.
    pub(crate) async fn status(&self) -> Result<Status, Error> {
        self.ask(|manager| manager.status()).await?
    }

    /// Every Pod.
    pub(crate) async fn list(&self) -> Result<Vec<PodView>, Error> {
        self.ask(|manager| manager.list()).await?
    }

    /// What is measured.
    pub(crate) async fn read(&self) -> Result<MetricsSnapshot, Error> {
        self.ask(|manager| manager.read()).await?
    }

    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut PodManager) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        let work: Work = Box::new(move |manager| {
            // Whoever asked may have gone; the work is done all the same.
            let _ = reply.send(question(manager));
        });
        self.manager.send(work).await.map_err(|_| Error::Stopping)?;
        answer.await.map_err(|_| Error::Stopping)
    }
}
