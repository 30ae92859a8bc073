//! The routes of the API.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::{
    Method, Request,
    body::{Bytes, Incoming},
};
use serde::de::DeserializeOwned;
use sluice_abi::{Event, Reason};
use sluice_api::{
    AddRequest, AddResponse, DelResponse, EventView, Events, EventsRequest, MAX_BODY,
    MAX_MEASURE_SECONDS, ProgramRuns, ProgramsRequest, Status, path,
};
use tokio::time::{sleep, timeout};

use super::{error::Error, metrics::Metrics, respond::Answer};
use crate::{
    bpf::RunTime,
    config::ProxyUser,
    event_log::EventLog,
    kube::Cluster,
    pods::{Auditor, Pods},
    ztunnel::Ztunnels,
};

/// Timeout for the whole body.
pub(super) const BODY: Duration = Duration::from_secs(5);

/// Long-poll timeout for events; after it the answer is empty.
const EVENTS_WAIT: Duration = Duration::from_secs(10);

/// The routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Add,
    Del,
    Check,
    Gc,
    Explain,
    Events,
    Audit,
    Connections,
    Programs,
    Status,
    Pods,
    Healthz,
    Readyz,
    Metrics,
}

const ROUTES: [(&str, Method, Route); 14] = [
    (path::ADD, Method::POST, Route::Add),
    (path::DEL, Method::POST, Route::Del),
    (path::CHECK, Method::POST, Route::Check),
    (path::GC, Method::POST, Route::Gc),
    (path::EXPLAIN, Method::POST, Route::Explain),
    (path::EVENTS, Method::POST, Route::Events),
    (path::AUDIT, Method::POST, Route::Audit),
    (path::CONNECTIONS, Method::POST, Route::Connections),
    (path::PROGRAMS, Method::POST, Route::Programs),
    (path::STATUS, Method::GET, Route::Status),
    (path::PODS, Method::GET, Route::Pods),
    (path::HEALTHZ, Method::GET, Route::Healthz),
    (path::READYZ, Method::GET, Route::Readyz),
    (path::METRICS, Method::GET, Route::Metrics),
];

/// The path as a metric's label: a known one, or `other`.
pub(super) fn label(path: &str) -> &'static str {
    ROUTES
        .iter()
        .find(|(known, ..)| *known == path)
        .map_or("other", |(known, ..)| known)
}

/// The route of a request.
fn find(path: &str, method: &Method) -> Result<Route, Error> {
    let (path, allowed, route) = ROUTES
        .iter()
        .find(|(known, ..)| *known == path)
        .ok_or_else(|| Error::NotFound {
            path: path.to_owned(),
        })?;
    if method == allowed {
        return Ok(*route);
    }
    Err(Error::Method {
        path,
        allowed: allowed.clone(),
    })
}

/// A request that has arrived.
pub(super) struct Asked {
    route: Route,
    /// Empty for a `GET`.
    body: Bytes,
}

/// The objects that requests act on.
#[derive(Clone)]
pub(crate) struct Handler {
    pods: Pods,
    auditor: Auditor,
    cluster: Cluster,
    event_log: EventLog,
    proxy_user: ProxyUser,
    /// The number of ADDs with annotations of the runtime, and without.
    adds: Arc<[AtomicU64; 2]>,
    /// The ztunnels of the node, if the daemon is their agent.
    ztunnels: Option<Ztunnels>,
    pub(super) metrics: Metrics,
}

impl Handler {
    /// A handler without any requests so far.
    pub(crate) fn new(
        auditor: Auditor,
        cluster: Cluster,
        event_log: EventLog,
        proxy_user: ProxyUser,
        ztunnels: Option<Ztunnels>,
    ) -> Self {
        Self {
            pods: auditor.pods().clone(),
            auditor,
            cluster,
            event_log,
            proxy_user,
            adds: Arc::default(),
            ztunnels,
            metrics: Metrics::new(),
        }
    }

    /// Answers a request of an authorized peer.
    pub(super) async fn answer(&self, asked: Asked) -> Result<Answer, Error> {
        let Self { pods, metrics, .. } = self;
        let Asked { route, body } = asked;
        match route {
            Route::Add => {
                let added = self.add(decode(&body)?).await?;
                self.auditor.note_enrolled();
                Answer::json(&added)
            }
            Route::Del => Answer::json(&self.deleted(pods.del(decode(&body)?).await?).await?),
            Route::Check => {
                pods.check(decode(&body)?).await?;
                Ok(Answer::Nothing)
            }
            Route::Gc => Answer::json(&self.deleted(pods.gc(decode(&body)?).await?).await?),
            Route::Explain => Answer::json(&pods.explain(decode(&body)?).await?),
            Route::Events => Answer::json(&self.events(decode(&body)?).await?),
            Route::Audit => Answer::json(&self.auditor.audit(decode(&body)?).await?),
            Route::Connections => Answer::json(&self.auditor.connections(decode(&body)?).await?),
            Route::Programs => Answer::json(&self.measure(decode(&body)?).await?),
            Route::Status => Answer::json(&self.status().await?),
            Route::Pods => Answer::json(&pods.list().await?),
            Route::Healthz => Ok(Answer::Text("alive\n")),
            Route::Readyz => match self.status().await? {
                status if status.ready => Ok(Answer::Text("ready\n")),
                Status { problems, .. } => Err(Error::NotReady { problems }),
            },
            Route::Metrics => metrics
                .encode(&pods.read().await?, &self.auditor.last())
                .map(Answer::Metrics),
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
        let view = |(time, event): &(SystemTime, Event)| view(*time, event, &names);
        Ok(Events {
            next: batch.next,
            dropped: batch.dropped,
            events: batch.events.iter().filter(watched).map(view).collect(),
        })
    }

    /// The Pod manager's status, ztunnel's, and what the API itself has counted.
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
        let mut runs: Vec<_> = after.into_iter().map(|one| since(one, &before)).collect();
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
    async fn add(&self, mut request: AddRequest) -> Result<AddResponse, Error> {
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
        if is_missing || (self.proxy_user == ProxyUser::PodSpec && may_be_meshed(&request)) {
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

/// Whether a mesh may intercept the Pod, judged by its annotations.
fn may_be_meshed(request: &AddRequest) -> bool {
    !(request.annotations.as_ref()).is_some_and(sluice_api::has_no_sidecar_annotation)
}

/// The runs of a program since the first measurement. A program that was replaced has another id.
fn since(now: RunTime, before: &[RunTime]) -> ProgramRuns {
    let earlier = before.iter().find(|one| one.id == now.id);
    let (runs, time) = earlier.map_or((0, Duration::ZERO), |one| (one.runs, one.time));
    ProgramRuns {
        name: now.name,
        id: now.id,
        runs: now.runs.saturating_sub(runs),
        nanos: u64::try_from(now.time.saturating_sub(time).as_nanos()).unwrap_or(u64::MAX),
    }
}

fn view(time: SystemTime, event: &Event, names: &BTreeMap<u64, String>) -> EventView {
    let since_1970 = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let reason = Reason::ALL.iter().find(|one| **one as u32 == event.reason);
    let of_caller = |id: u32| (event.uid != Event::NO_UID).then_some(id);
    let unknown = || format!("cookie {}", event.cookie);
    EventView {
        time: u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX),
        pod: names.get(&event.cookie).cloned().unwrap_or_else(unknown),
        uid: of_caller(event.uid),
        gid: of_caller(event.gid),
        from: event.from.into(),
        to: event.to.into(),
        rule: reason.map_or("unknown", |reason| reason.label()).to_owned(),
    }
}

impl Asked {
    /// Finds the route, and reads the body if the route has one.
    pub(super) async fn read(request: Request<Incoming>) -> Result<Self, Error> {
        let route = find(request.uri().path(), request.method())?;
        let body = if request.method() == Method::POST {
            read(request.into_body()).await?
        } else {
            Bytes::new()
        };
        Ok(Self { route, body })
    }

    pub(super) fn route(&self) -> Route {
        self.route
    }
}

async fn read(body: Incoming) -> Result<Bytes, Error> {
    let body = Limited::new(body, MAX_BODY).collect();
    let body = timeout(BODY, body).await.map_err(|_| Error::BodyTimeout {
        seconds: BODY.as_secs(),
    })?;
    let whole = body.map_err(|error| {
        if error.is::<LengthLimitError>() {
            Error::TooLarge
        } else {
            Error::Body(error)
        }
    })?;
    Ok(whole.to_bytes())
}

fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(body).map_err(Error::Json)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sluice_api::{AddRequest, Attachment, PodAddress, PodName};

    use super::*;

    fn add(name: String, ip: std::net::IpAddr) -> AddRequest {
        AddRequest {
            attachment: Attachment {
                network: "pods".to_owned(),
                container_id: name.clone(),
                ifname: "eth0".to_owned(),
            },
            netns: "/run/netns/pod".to_owned(),
            addresses: vec![PodAddress {
                ip,
                interface: "eth0".to_owned(),
            }],
            pod: PodName::default(),
            annotations: Some([(name.clone(), name)].into()),
            manifest: None,
        }
    }

    proptest! {
        #[test]
        fn bodies_of_any_kind_are_read_or_refused(body in prop::collection::vec(any::<u8>(), 0..300)) {
            let _either = decode::<AddRequest>(&body);
        }

        #[test]
        fn a_body_is_read_as_it_was_written_and_refused_if_it_is_cut(
            name in ".*",
            ip: std::net::IpAddr,
            cut: prop::sample::Index,
        ) {
            let written = add(name, ip);
            let body = serde_json::to_vec(&written).unwrap();
            prop_assert_eq!(&decode::<AddRequest>(&body).unwrap(), &written);
            let refused = decode::<AddRequest>(&body[..cut.index(body.len())]).unwrap_err();
            prop_assert_eq!(refused.status(), 400);
        }
    }

    #[test]
    fn every_path_takes_one_method() {
        for (path, method, route) in ROUTES {
            assert_eq!(find(path, &method).unwrap(), route);
            let refused = find(path, &Method::PUT).unwrap_err();
            assert_eq!(refused.status(), 405);
            assert_eq!(label(path), path);
        }
    }

    #[test]
    fn unknown_paths_share_a_label() {
        assert_eq!(find("/v2/add", &Method::POST).unwrap_err().status(), 404);
        assert_eq!(label("/v2/add"), "other");
    }
}
