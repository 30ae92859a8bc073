//! Answers requests: each acts on the Pods, or reads the state of the daemon.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use sluice_abi::Event;
use sluice_api::{
    AddRequest, AddResponse, DelResponse, Events, EventsRequest, MAX_MEASURE_SECONDS, ProgramRuns,
    ProgramsRequest, Status,
};
use tokio::{sync::watch, time::sleep};

use super::{
    attempt::Attempt,
    error::Error,
    metrics::Metrics,
    monitor,
    respond::Answer,
    routes::{Asked, Route},
};
use crate::{
    config::{Config, ProxyUser},
    event_log::EventLog,
    kube::Cluster,
    pods::{Auditor, Pods},
    refusals::Refusals,
    ztunnel::Ztunnels,
};

/// Long-poll timeout for events; after it the answer is empty.
const EVENTS_WAIT: Duration = Duration::from_secs(10);
/// The mesh whose namespaces select Pods without an annotation on them.
const OSM: &str = "osm";

/// The objects that requests act on.
#[derive(Clone)]
pub(crate) struct Handler {
    pods: Pods,
    auditor: Auditor,
    cluster: Cluster,
    event_log: EventLog,
    refusals: Refusals,
    config: watch::Receiver<Config>,
    /// The number of ADDs with annotations of the runtime, and without.
    adds: Arc<[AtomicU64; 2]>,
    /// The ztunnels of the node, if the daemon is their agent.
    ztunnels: Option<Ztunnels>,
    pub(super) metrics: Metrics,
}

/// The parts of a handler.
pub(crate) struct Sources {
    pub(crate) auditor: Auditor,
    pub(crate) cluster: Cluster,
    pub(crate) event_log: EventLog,
    pub(crate) refusals: Refusals,
    /// The configuration in use.
    pub(crate) config: watch::Receiver<Config>,
    /// The ztunnels of the node, if the daemon is their agent.
    pub(crate) ztunnels: Option<Ztunnels>,
}

impl Handler {
    /// A handler without any requests so far.
    pub(crate) fn new(sources: Sources) -> Self {
        let Sources {
            auditor,
            cluster,
            event_log,
            refusals,
            config,
            ztunnels,
        } = sources;
        Self {
            pods: auditor.pods().clone(),
            auditor,
            cluster,
            event_log,
            refusals,
            config,
            adds: Arc::default(),
            ztunnels,
            metrics: Metrics::new(),
        }
    }

    /// Answers a request of an authorized peer.
    pub(super) async fn answer(&self, asked: Asked) -> Result<Answer, Error> {
        let Self { pods, .. } = self;
        let route = asked.route();
        match route {
            Route::Add => {
                let added = self.add(asked.decode()?).await?;
                self.auditor.note_enrolled();
                Answer::json(&added)
            }
            Route::Del => Answer::json(&self.deleted(pods.del(asked.decode()?).await?).await?),
            Route::Check => {
                pods.check(asked.decode()?).await?;
                Ok(Answer::Nothing)
            }
            Route::Gc => Answer::json(&self.deleted(pods.gc(asked.decode()?).await?).await?),
            Route::Explain => Answer::json(&pods.explain(asked.decode()?).await?),
            Route::Events => Answer::json(&self.events(asked.decode()?).await?),
            Route::Audit => Answer::json(&self.auditor.audit(asked.decode()?).await?),
            Route::Connections => Answer::json(&self.auditor.connections(asked.decode()?).await?),
            Route::Programs => Answer::json(&self.measure(asked.decode()?).await?),
            Route::Status => Answer::json(&self.status().await?),
            Route::Pods => Answer::json(&pods.list().await?),
            Route::Refused => Answer::json(&self.refusals.latest()),
            Route::Healthz | Route::Readyz | Route::Metrics => self.observe(route).await,
        }
    }

    /// Answers a request that changes nothing and that any peer may make.
    pub(super) async fn observe(&self, route: Route) -> Result<Answer, Error> {
        let Self { pods, metrics, .. } = self;
        match route {
            Route::Readyz => match self.status().await? {
                status if status.ready => Ok(Answer::Text("ready\n")),
                Status { problems, .. } => Err(Error::NotReady { problems }),
            },
            Route::Metrics => {
                let pod_series = self.config.borrow().pod_metrics;
                let page = metrics.encode(
                    &pods.read().await?,
                    &self.auditor.last(),
                    &self.refusals,
                    pod_series,
                );
                page.map(Answer::Metrics)
            }
            // The manager's thread answers: a thread that hangs is not alive.
            _ => {
                pods.ping().await?;
                Ok(Answer::Text("alive\n"))
            }
        }
    }

    /// The decisions since `cursor`. Keeps the programs' events enabled until the next request, and
    /// for a while longer.
    async fn events(&self, EventsRequest { cursor, pod }: EventsRequest) -> Result<Events, Error> {
        let only = pod.is_some();
        let names = self.pods.enable_events(pod, 2 * EVENTS_WAIT).await?;
        let batch = self.event_log.wait_after(cursor, EVENTS_WAIT).await;
        let watched =
            |(_, event): &&(SystemTime, Event)| !only || names.contains_key(&event.cookie);
        let silent = match &*batch.events {
            [] => BTreeSet::new(),
            _ => self.pods.without_listener().await?,
        };
        let view =
            |(time, event): &(SystemTime, Event)| monitor::view(*time, event, &names, &silent);
        Ok(Events {
            next: batch.next,
            dropped: batch.dropped,
            events: batch.events.iter().filter(watched).map(view).collect(),
        })
    }

    /// Enrolls a Pod. A refused one is recorded.
    async fn add(&self, request: AddRequest) -> Result<AddResponse, Error> {
        let attempt = Attempt::begin(&self.refusals, &request);
        let outcome = self.enroll(request).await;
        attempt.end(&outcome);
        outcome
    }

    /// The status of the Pod manager and of ztunnel, and the counts of the API itself.
    async fn status(&self) -> Result<Status, Error> {
        let mut status = self.pods.status().await?;
        let [with, without] = &*self.adds;
        status.adds_with_annotations = with.load(Ordering::Relaxed);
        status.adds_without_annotations = without.load(Ordering::Relaxed);
        status.ztunnel = self.ztunnels.as_ref().map(Ztunnels::view);
        if let Some(ztunnel) = &status.ztunnel
            && ztunnel.connections == 0
        {
            let socket = &ztunnel.socket;
            status.problems.push(format!(
                "no ztunnel is connected at {socket}: ADDs of ambient Pods fail (does the ztunnel \
                 DaemonSet run on this node, with that socket?)"
            ));
        }
        Ok(status)
    }

    /// Measures the programs. The kernel's statistics cost each run about 20 ns, only meanwhile.
    async fn measure(&self, request: ProgramsRequest) -> Result<Vec<ProgramRuns>, Error> {
        let seconds = request.seconds.clamp(1, MAX_MEASURE_SECONDS);
        let stats = self.pods.enable_stats().await?;
        let before = self.pods.run_times().await?;
        sleep(Duration::from_secs(seconds)).await;
        let after = self.pods.run_times().await?;
        drop(stats);
        let mut runs: Vec<_> = after
            .into_iter()
            .map(|one| monitor::since(one, &before))
            .collect();
        runs.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        Ok(runs)
    }

    /// Withdraws deleted Pods from ztunnel. DEL does not wait for it.
    async fn deleted(&self, deleted: DelResponse) -> Result<DelResponse, Error> {
        if let Some(ztunnels) = &self.ztunnels {
            ztunnels.refresh(&self.pods).await?;
        }
        Ok(deleted)
    }

    /// Asks the API server here, where the wait blocks no other request.
    async fn enroll(&self, mut request: AddRequest) -> Result<AddResponse, Error> {
        // Labels and containers come from the API server alone.
        request.manifest = None;
        let Some(ztunnels) = &self.ztunnels else {
            return self.add_by_annotations(request).await;
        };
        self.cluster
            .fetch_annotations(&mut request)
            .await
            .map_err(Error::NoLabels)?;
        let added = self.pods.add(request.clone()).await?;
        if added.meshed {
            if let Err(error) = ztunnels.add(&self.pods, &request).await {
                ztunnels.roll_back(&self.pods, request.attachment).await;
                return Err(error.into());
            }
            let cluster = self.cluster.clone();
            tokio::spawn(async move { cluster.annotate_enrolled(&request.pod).await });
        }
        Ok(added)
    }

    async fn add_by_annotations(&self, mut request: AddRequest) -> Result<AddResponse, Error> {
        let is_missing = request.annotations.is_none();
        self.adds[usize::from(is_missing)].fetch_add(1, Ordering::Relaxed);
        let may_count = may_be_meshed(&request, &self.config.borrow());
        if is_missing || may_count {
            let asked = match self.cluster.fetch_annotations(&mut request).await {
                Err(source) if !is_missing => return Err(Error::NoManifest(source)),
                asked => asked,
            };
            return match (asked, self.pods.add(request).await) {
                (Err(source), Err(error)) if error.is_unknown() => Err(Error::Unknown(source)),
                (_, added) => Ok(added?),
            };
        }
        Ok(self.pods.add(request).await?)
    }
}

/// Whether the manifest may change the decision on a Pod with these annotations. Open Service Mesh's
/// injector leaves none on a Pod that its Kubernetes namespace selects.
fn may_be_meshed(request: &AddRequest, config: &Config) -> bool {
    let is_unmarked =
        (request.annotations.as_ref()).is_some_and(sluice_api::has_no_sidecar_annotation);
    config.proxy_user == ProxyUser::PodSpec && (!is_unmarked || config.mesh == OSM)
}
