//! The Pods: who they are, what is to be done with them, and the kernel's state that does it.
//!
//! One thread owns all of it. Requests reach it through [`Pods`], one after the other.

mod acceleration;
mod addresses;
mod aside;
mod decision;
mod enrol;
mod error;
mod evidence;
mod explain;
#[cfg(fuzzing)]
pub(crate) mod fuzz;
mod lists;
mod meetings;
mod mesh;
mod owner;
mod plan;
mod policy;
mod repair;
mod sources;
mod store;
mod survey;
mod tombstones;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
    thread::{Builder, JoinHandle},
    time::Duration,
};

use daemon_api::{
    Admit, Admitted, Attachment, Check, Collect, Explanation, Manifest, PodName, PodView, Question,
    Retired, Status,
};
use tokio::sync::{mpsc, oneshot};

use crate::{
    bpf::{Datapath, Pins},
    config::OnExit,
    netns::Netns,
};
pub(crate) use acceleration::Acceleration;
pub(crate) use decision::{Decision, decide};
use enrol::PASSTHROUGH;
pub(crate) use error::{Error, HAND_OVER};
pub(crate) use mesh::{Mesh, Meshes};
use owner::Owner;
pub(crate) use owner::Reading;
pub(crate) use policy::WhenUnknown;
pub(crate) use repair::{Repair, Repairs};
pub(crate) use store::{Record, Slot, Store};
use survey::Survey;
pub(crate) use tombstones::Tombstones;

/// Requests that may wait for the owner. The socket admits fewer connections than that.
const WAITING: usize = 128;

/// What people say of a Pod in its manifest.
pub(crate) type Annotations = BTreeMap<String, String>;

/// A Pod of this node of which a list tells.
#[derive(Clone, Debug)]
pub(crate) struct Expected {
    /// Its name.
    pub(crate) pod: PodName,
    /// Of every family.
    pub(crate) addresses: Vec<IpAddr>,
    /// All of them.
    pub(crate) annotations: Annotations,
    /// The rest of the manifest.
    pub(crate) manifest: Option<Manifest>,
}

type Work = Box<dyn FnOnce(&mut Owner) + Send>;

/// The way to the owner of the Pods.
#[derive(Clone, Debug)]
pub(crate) struct Pods {
    owner: mpsc::Sender<Work>,
}

/// The owner's thread.
pub(crate) struct Thread(JoinHandle<Owner>);

impl Thread {
    /// Waits until the owner has ended, which it does when the last [`Pods`] is dropped; then does
    /// with the data path what is wanted. Whether that was done.
    pub(crate) fn join(self, on_exit: OnExit) -> bool {
        let Ok(owner) = self.0.join() else {
            tracing::error!("the owner of the Pods ended by a panic");
            return false;
        };
        if on_exit == OnExit::Keep {
            return true;
        }
        let (pins, store, records) = owner.into_parts();
        let detached = detach(pins, &store, &records);
        match &detached {
            Ok(removed) => tracing::info!(pins = removed.len(), "detached"),
            Err(error) => {
                tracing::error!(error = error::one_line(error), "not detached completely");
            }
        }
        detached.is_ok()
    }
}

/// What the daemon before this one left.
pub(crate) struct Inheritance {
    /// Programs, links and maps.
    pub(crate) datapath: Datapath,
    /// Where records are kept.
    pub(crate) store: Store,
    /// The records.
    pub(crate) records: Vec<(Slot, Record)>,
    /// What the plugin left.
    pub(crate) tombstones: Tombstones,
    /// The node's own.
    pub(crate) rules: Rules,
}

/// What holds for every Pod of the node, unless its annotations say otherwise.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// Whose sidecars the Pods carry.
    pub(crate) mesh: &'static Mesh,
    /// What becomes of a Pod of which nobody tells.
    pub(crate) when_unknown: WhenUnknown,
    /// Which connections go from socket to socket.
    pub(crate) acceleration: Acceleration,
}

/// Takes over every Pod, and starts the owner.
///
/// # Errors
///
/// If the kernel's tables cannot be read, or no thread can be made.
pub(crate) fn start(inheritance: Inheritance) -> anyhow::Result<(Pods, Thread)> {
    let mut owner = Owner::restore(inheritance)?;
    owner.bury();
    owner.adopt(Survey::of(&owner.brief()));
    let (sender, mut work) = mpsc::channel::<Work>(WAITING);
    // Work inside namespaces and system calls block: they must not hold up the socket.
    let thread = Builder::new().name("pods".into()).spawn(move || {
        while let Some(work) = work.blocking_recv() {
            work(&mut owner);
        }
        owner
    })?;
    Ok((Pods { owner: sender }, Thread(thread)))
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
    records: &[(Slot, Record)],
) -> Result<Vec<PathBuf>, Error> {
    let removed = pins.remove_all()?;
    for (slot, record) in records {
        // A namespace that is gone took everything with it.
        if let Ok(netns) = Netns::open(Path::new(&record.request.netns))
            && Some(netns.id()) == record.netns
        {
            netns.lay(meetings::NETWORKS.into(), Vec::new())?;
            if record.passthrough {
                netns.remove_from_loopback(PASSTHROUGH)?;
            }
        }
        store.remove(*slot)?;
    }
    Ok(removed)
}

impl Pods {
    /// Takes a Pod in, or notes that it is to be left alone.
    pub(crate) async fn admit(&self, request: Admit) -> Result<Admitted, Error> {
        self.ask(move |owner| owner.admit(request)).await?
    }

    /// Lets an attachment go.
    pub(crate) async fn retire(&self, attachment: Attachment) -> Result<Retired, Error> {
        self.ask(move |owner| owner.retire(&attachment)).await?
    }

    /// Compares the kernel's state with what it should be.
    pub(crate) async fn check(&self, check: Check) -> Result<(), Error> {
        self.ask(move |owner| match check {
            Check::Reported(request) => owner.check_reported(&request),
            Check::Unreported(attachment) => owner.check(&attachment),
        })
        .await?
    }

    /// Lets every attachment of a network go that is not listed.
    pub(crate) async fn collect(&self, request: Collect) -> Result<Retired, Error> {
        self.ask(move |owner| owner.collect(&request)).await?
    }

    /// Finds Pods that nobody reported, and mends what was lost.
    pub(crate) async fn keep_up(&self) -> Result<(), Error> {
        let survey = self.survey().await?;
        self.ask(|owner| owner.resync(survey)).await
    }

    /// Takes in what a list of this node's Pods tells of.
    pub(crate) async fn expect(&self, listed: Vec<Expected>) -> Result<(), Error> {
        self.ask(|owner| owner.note_list(listed)).await?;
        let survey = self.survey().await?;
        self.ask(|owner| owner.expect(survey)).await
    }

    /// Takes in the Pods whose network namespace the kernel has named.
    pub(crate) async fn learn(&self) -> Result<(), Error> {
        let survey = self.survey().await?;
        self.ask(|owner| {
            owner.adopt(survey);
            owner.learn();
        })
        .await
    }

    /// Looks at the node's network namespaces. The owner serves requests meanwhile.
    async fn survey(&self) -> Result<Survey, Error> {
        let brief = self.ask(|owner| owner.brief()).await?;
        let survey = tokio::task::spawn_blocking(move || Survey::of(&brief));
        survey.await.map_err(|_| Error::Stopping)
    }

    /// What would become of a connection.
    pub(crate) async fn explain(&self, question: Question) -> Result<Explanation, Error> {
        self.ask(move |owner| owner.explain(&question)).await?
    }

    /// Lets the programs tell of their decisions for a while. The names of the Pods that are
    /// watched, by their network namespaces' cookies.
    pub(crate) async fn watch(
        &self,
        pod: Option<String>,
        time: Duration,
    ) -> Result<BTreeMap<u64, String>, Error> {
        self.ask(move |owner| owner.watch(pod.as_deref(), time))
            .await?
    }

    /// How the daemon is.
    pub(crate) async fn status(&self) -> Result<Status, Error> {
        self.ask(|owner| owner.status()).await?
    }

    /// Every Pod.
    pub(crate) async fn list(&self) -> Result<Vec<PodView>, Error> {
        self.ask(|owner| owner.list()).await?
    }

    /// What is measured.
    pub(crate) async fn read(&self) -> Result<Reading, Error> {
        self.ask(|owner| owner.read()).await?
    }

    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Owner) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        let work: Work = Box::new(move |owner| {
            // Whoever asked may have gone; the work is done all the same.
            let _ = reply.send(question(owner));
        });
        self.owner.send(work).await.map_err(|_| Error::Stopping)?;
        answer.await.map_err(|_| Error::Stopping)
    }
}
