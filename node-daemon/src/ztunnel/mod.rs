//! Istio's ambient mode without istio-cni: the daemon is the agent that sends Pods to ztunnel.
//!
//! ztunnel connects to a socket of the daemon and gets the Pods of the node, each with the descriptor
//! of its network namespace. It opens its listeners in that namespace. The protocol is ZDS
//! ([`zds`]).
//!
//! The Pod manager's registry is the desired state. Each connection converges to it ([`session`]), so
//! a restart of either side needs no further state.

mod connection;
mod server;
mod session;
mod zds;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use sluice_api::{AddRequest, Attachment, ZtunnelView};
use tokio::{sync::watch, time::timeout};
use tracing::warn;

use crate::{
    netns,
    pods::{self, Pods, Uid, Workloads},
};
use server::Error as SocketError;

/// Timeout for ztunnel to serve a new Pod: less than the plugin's total of 5 s.
const ADD_TIMEOUT: Duration = Duration::from_secs(3);

/// The connected ztunnels, and the Pods that they serve.
#[derive(Clone, Debug)]
pub(crate) struct Ztunnels(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    socket: PathBuf,
    state: Mutex<State>,
    /// Changes with every change of the state.
    changed: watch::Sender<()>,
    /// The number of the manager's answers: its thread counts them.
    reads: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    desired: Workloads,
    /// The read of the manager that `desired` is from.
    read: u64,
    /// The results of ADD messages, by uid.
    added: BTreeMap<Uid, Added>,
    /// The connections with a hello, in their order.
    connections: Vec<u64>,
    /// The number of all connections so far.
    accepted: u64,
}

/// The latest result of an ADD message for a Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Added {
    connection: u64,
    netns: netns::Id,
    result: Result<(), String>,
}

/// ztunnel does not serve a Pod.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// No ztunnel is connected.
    #[error("no ztunnel is connected at {}", socket.display())]
    Absent {
        /// The socket that it connects to.
        socket: PathBuf,
    },
    /// ztunnel did not answer.
    #[error("ztunnel did not confirm the Pod within {} seconds", ADD_TIMEOUT.as_secs())]
    Timeout,
    /// ztunnel returned an error.
    #[error("ztunnel cannot serve the Pod: {error}")]
    Failed {
        /// ztunnel's text.
        error: String,
    },
    /// The Pod has no uid, by which ztunnel would know it.
    #[error("the runtime did not pass the Pod's uid, and no API server provides it")]
    NoUid,
    /// The Pod manager.
    #[error(transparent)]
    Pods(#[from] pods::Error),
}

impl Ztunnels {
    /// Serves ztunnel at a socket.
    ///
    /// # Errors
    ///
    /// If the socket cannot be created.
    pub(crate) fn serve(socket: &Path) -> Result<Self, SocketError> {
        let listener = server::bind(socket)?;
        let ztunnels = Self(Arc::new(Shared {
            socket: socket.into(),
            state: Mutex::default(),
            changed: watch::channel(()).0,
            reads: AtomicU64::new(0),
        }));
        tokio::spawn(server::accept(listener, ztunnels.clone()));
        Ok(ztunnels)
    }

    /// Applies the Pod manager's registry. Answers of the manager that arrive late are older, and are
    /// discarded.
    pub(crate) async fn refresh(&self, pods: &Pods) -> Result<(), pods::Error> {
        let shared = Arc::clone(&self.0);
        let number = move || 1 + shared.reads.fetch_add(1, Ordering::Relaxed);
        let (read, workloads) = pods.workloads(number).await?;
        self.change(|state| {
            if state.read < read {
                state.read = read;
                state.added.retain(|uid, _| workloads.contains_key(uid));
                state.desired = workloads;
            }
        });
        Ok(())
    }

    /// Waits until ztunnel serves a Pod that the manager enrolled.
    ///
    /// # Errors
    ///
    /// If ztunnel is absent, silent, or returns an error. The Pod must then not run.
    pub(crate) async fn add(&self, pods: &Pods, request: &AddRequest) -> Result<(), Error> {
        let uid = &request.pod.uid;
        if uid.is_empty() {
            return Err(Error::NoUid);
        }
        let mut changes = self.0.changed.subscribe();
        self.refresh(pods).await?;
        let confirmed = async {
            loop {
                if let Some(result) = self.result(uid) {
                    return result;
                }
                if changes.changed().await.is_err() {
                    return Ok(());
                }
            }
        };
        match timeout(ADD_TIMEOUT, confirmed).await {
            Ok(result) => result.map_err(|error| Error::Failed { error }),
            Err(_) if self.state().connections.is_empty() => Err(Error::Absent {
                socket: self.0.socket.clone(),
            }),
            Err(_) => Err(Error::Timeout),
        }
    }

    /// Deletes an attachment whose Pod ztunnel does not serve.
    pub(crate) async fn roll_back(&self, pods: &Pods, attachment: Attachment) {
        let deleted = pods.del(attachment).await;
        if let Err(error) = deleted {
            warn!(%error, "failed to roll back an ADD");
        }
        if let Err(error) = self.refresh(pods).await {
            warn!(%error, "failed to read the pods for ztunnel");
        }
    }

    /// The connections, for the status.
    pub(crate) fn view(&self) -> ZtunnelView {
        let state = self.state();
        ZtunnelView {
            socket: self.0.socket.display().to_string(),
            connections: state.connections.len(),
            workloads: state.desired.len(),
            failed: state
                .added
                .values()
                .filter(|one| one.result.is_err())
                .count(),
        }
    }

    /// The latest result of an ADD message for a Pod that is desired now.
    fn result(&self, uid: &str) -> Option<Result<(), String>> {
        let state = self.state();
        let added = state.added.get(uid)?;
        let wanted = state.desired.get(uid)?;
        (added.netns == wanted.netns).then(|| added.result.clone())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state());
        self.0.changed.send_replace(());
        result
    }
}

impl State {
    /// Whether a connection is the one that new Pods are sent to.
    fn is_latest(&self, connection: u64) -> bool {
        self.connections.last() == Some(&connection)
    }
}
