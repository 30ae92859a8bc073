//! The audit: proof that no connection of a meshed Pod bypasses its proxy against the rules.
//!
//! Every TCP socket of every meshed Pod is judged by the functions that decide about new connections.
//! The manager only describes the Pods; the sockets are read in other threads, one Pod after the other.

mod judge;
mod owners;
mod pass;

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use serde::Deserialize;
use sluice_abi::Endpoint;
use sluice_api::{
    AuditRequest, AuditResponse, ConnectionView, Connections, ConnectionsRequest, Finding,
    FindingKind, PodName,
};
use tokio::{sync::Notify, task::spawn_blocking};
use tracing::{info, warn};

use super::{Error, Pods, error::one_line};
use crate::netns::{ProcessTable, Side};
use judge::Path;
pub(super) use pass::Target;
use pass::{Connection, Examined, Keep};

/// The limits of listed findings and connections.
const FINDINGS: usize = 1000;
const CONNECTIONS: usize = 4096;

/// The fate of a new Pod's connections that bypass the proxy against the rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum OnEnrol {
    /// They stay.
    #[default]
    Keep,
    /// They are reset.
    Reset,
}

/// Audits the node's Pods. A shared handle.
#[derive(Clone)]
pub(crate) struct Auditor(Arc<Shared>);

struct Shared {
    pods: Pods,
    on_enrol: OnEnrol,
    /// The namespaces that an earlier round saw. One audit runs at a time.
    turn: tokio::sync::Mutex<HashSet<u64>>,
    last: Mutex<Summary>,
    enrolled: Notify,
}

/// The result of the latest periodic audit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    /// The number of findings of each kind.
    pub(crate) findings: BTreeMap<FindingKind, u64>,
    /// The number of connections.
    pub(crate) connections: u64,
    /// The duration.
    pub(crate) took: Duration,
    /// The end; `None` before the first audit.
    pub(crate) at: Option<SystemTime>,
}

/// One audit in progress.
#[derive(Default)]
struct Report {
    response: AuditResponse,
    counts: BTreeMap<FindingKind, u64>,
}

impl Auditor {
    /// An auditor. `enrolled` are the Pods of an earlier daemon: they are not new.
    pub(crate) fn new(pods: Pods, on_enrol: OnEnrol, enrolled: Vec<u64>) -> Self {
        Self(Arc::new(Shared {
            pods,
            on_enrol,
            turn: tokio::sync::Mutex::new(enrolled.into_iter().collect()),
            last: Mutex::default(),
            enrolled: Notify::new(),
        }))
    }

    /// The handle of the Pods.
    pub(crate) fn pods(&self) -> &Pods {
        &self.0.pods
    }

    /// The result of the latest periodic audit.
    pub(crate) fn last(&self) -> Summary {
        let last = self.0.last.lock();
        last.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The periodic audit of all Pods. Ends the findings of new Pods if the node is configured so.
    pub(crate) async fn round(&self) -> Result<(), Error> {
        let Shared {
            pods,
            on_enrol,
            turn,
            last,
            ..
        } = &*self.0;
        let mut known = turn.lock().await;
        let begin = Instant::now();
        let cookies = pods.meshed(None).await?;
        let processes = process_table().await?;
        let mut report = Report::default();
        for cookie in &cookies {
            let reset = *on_enrol == OnEnrol::Reset && !known.contains(cookie);
            report.add(pods, *cookie, &processes, reset).await?;
        }
        *known = cookies.into_iter().collect();
        let summary = Summary {
            findings: report.counts,
            connections: report.response.connections,
            took: begin.elapsed(),
            at: Some(SystemTime::now()),
        };
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        let count: u64 = summary.findings.values().sum();
        if summary.findings != last.findings
            && let Some(first) = report.response.findings.first()
        {
            let (pod, rule, peer) = (&first.pod, &first.rule, first.peer);
            warn!(
                count, pod, rule, %peer,
                "connections bypass the sidecar; 'sluiced audit' lists them, and 'sluiced audit --kill' ends them"
            );
        }
        *last = summary;
        Ok(())
    }

    /// Reports that Pods may have been enrolled.
    pub(crate) fn note_enrolled(&self) {
        self.0.enrolled.notify_one();
    }

    /// Ends the findings of new Pods, whenever there are some, if the node is configured so. Otherwise
    /// never returns.
    pub(crate) async fn reset_enrolled(&self) -> Result<(), Error> {
        let Shared {
            pods,
            on_enrol,
            turn,
            enrolled,
            ..
        } = &*self.0;
        if *on_enrol == OnEnrol::Keep {
            return std::future::pending().await;
        }
        enrolled.notified().await;
        let mut known = turn.lock().await;
        let cookies = pods.meshed(None).await?;
        let new: Vec<_> = (cookies.iter().copied())
            .filter(|cookie| !known.contains(cookie))
            .collect();
        let processes = process_table().await?;
        let mut report = Report::default();
        for cookie in new {
            report.add(pods, cookie, &processes, true).await?;
        }
        *known = cookies.into_iter().collect();
        Ok(())
    }

    /// An audit on demand.
    pub(crate) async fn audit(&self, request: AuditRequest) -> Result<AuditResponse, Error> {
        let Shared { pods, turn, .. } = &*self.0;
        let _turn = turn.lock().await;
        let begin = Instant::now();
        let cookies = pods.meshed(request.pod).await?;
        let processes = process_table().await?;
        let mut report = Report::default();
        for cookie in cookies {
            report.add(pods, cookie, &processes, request.kill).await?;
        }
        report.response.millis = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(report.response)
    }

    /// The connections of all Pods, or of one.
    pub(crate) async fn connections(
        &self,
        request: ConnectionsRequest,
    ) -> Result<Connections, Error> {
        let Shared { pods, turn, .. } = &*self.0;
        let _turn = turn.lock().await;
        let cookies = pods.meshed(request.pod).await?;
        let processes = process_table().await?;
        let mut listed = Connections::default();
        for cookie in cookies {
            let Some(target) = pods.target(cookie).await? else {
                continue;
            };
            let processes = Arc::clone(&processes);
            let name = name(&target.pod);
            let examined = spawn_blocking(move || target.examine(&processes, Keep::All)).await;
            let Ok(Some(examined)) = examined.map_err(|_| Error::Stopping)? else {
                continue;
            };
            let (mut kept, total) = (examined.kept, examined.connections);
            kept.truncate(CONNECTIONS - listed.connections.len());
            listed.more += total - kept.len() as u64;
            let ends = kept.iter().map(Connection::client_and_server).collect();
            let details = pods.details(cookie, ends).await?;
            let views = kept.iter().zip(details);
            (listed.connections).extend(views.map(|(one, details)| one.view(&name, details)));
        }
        Ok(listed)
    }
}

/// The state of a connection in the programs' maps.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Details {
    /// The destination of its alias address.
    pub(super) to: Option<Endpoint>,
    /// Whether sockmap redirection carries it.
    pub(super) accelerated: bool,
}

impl Report {
    async fn add(
        &mut self,
        pods: &Pods,
        cookie: u64,
        processes: &Arc<ProcessTable>,
        kill: bool,
    ) -> Result<(), Error> {
        let Some(target) = pods.target(cookie).await? else {
            return Ok(());
        };
        let pod = name(&target.pod);
        let processes = Arc::clone(processes);
        let work = spawn_blocking(move || {
            let examined = target.examine(&processes, Keep::Findings);
            examined.map(|found| found.map(|found| (kill.then(|| end(&found)), found)))
        });
        match work.await.map_err(|_| Error::Stopping)? {
            Ok(None) => {}
            Ok(Some((ended, found))) => self.note(&pod, found, ended),
            Err(error) => {
                let error = one_line(&error);
                self.response.problems.push(format!("Pod {pod}: {error}"));
            }
        }
        Ok(())
    }

    fn note(&mut self, pod: &str, found: Examined, ended: Option<Result<usize, String>>) {
        let response = &mut self.response;
        response.pods += 1;
        response.connections += found.connections;
        response.more += found.beyond;
        if found.truncated {
            response.problems.push(format!(
                "Pod {pod}: too many processes or descriptors; the owners of some sockets are unknown"
            ));
        }
        let is_ended = matches!(&ended, Some(Ok(_)));
        match ended {
            Some(Ok(count @ 1..)) => info!(pod, count, "connections past the sidecar ended"),
            Some(Err(error)) => response.problems.push(format!("Pod {pod}: {error}")),
            _ => {}
        }
        for one in found.kept {
            let Some(finding) = one.finding(pod, is_ended) else {
                continue;
            };
            *self.counts.entry(finding.kind).or_default() += 1;
            if response.findings.len() < FINDINGS {
                response.findings.push(finding);
            } else {
                response.more += 1;
            }
        }
    }
}

/// Ends the findings. Returns their number.
fn end(found: &Examined) -> Result<usize, String> {
    for one in &found.kept {
        let done = found.netns.destroy(one.socket.id());
        done.map_err(|error| one_line(&error))?;
    }
    Ok(found.kept.len())
}

async fn process_table() -> Result<Arc<ProcessTable>, Error> {
    let table = spawn_blocking(ProcessTable::read).await;
    table.map(Arc::new).map_err(|_| Error::Stopping)
}

fn name(pod: &PodName) -> String {
    format!("{}/{}", pod.namespace, pod.name)
}

impl Connection {
    fn finding(&self, pod: &str, ended: bool) -> Option<Finding> {
        let (kind, rule) = match self.path {
            Path::Bypass(rule) => (FindingKind::Bypass, rule),
            Path::Impostor(rule) => (FindingKind::ProxyUser, rule),
            Path::Proxied | Path::Direct(_) => return None,
        };
        let Self {
            socket, process, ..
        } = self;
        Some(Finding {
            pod: pod.to_owned(),
            kind,
            accepted: self.side == Side::Server,
            rule: rule.label().to_owned(),
            local: socket.local.into(),
            peer: socket.remote.into(),
            uid: socket.uid,
            pid: process.as_ref().map(|one| one.pid),
            process: process.as_ref().map(|one| one.name.clone()),
            age_ms: socket.quiet_ms.into(),
            ended,
        })
    }

    /// Both ends, the client's first.
    fn client_and_server(&self) -> (Endpoint, Endpoint) {
        match self.side {
            Side::Client => (self.socket.local, self.socket.remote),
            Side::Server => (self.socket.remote, self.socket.local),
        }
    }

    fn view(&self, pod: &str, details: Details) -> ConnectionView {
        let Self {
            socket, process, ..
        } = self;
        let (path, rule) = match self.path {
            Path::Proxied => ("sidecar", ""),
            Path::Direct(rule) => ("direct", rule.label()),
            Path::Bypass(rule) => (FindingKind::Bypass.label(), rule.label()),
            Path::Impostor(rule) => (FindingKind::ProxyUser.label(), rule.label()),
        };
        let is_redirected = self.side == Side::Client && self.path == Path::Proxied;
        let peer = if is_redirected {
            details.to
        } else {
            Some(socket.remote)
        };
        ConnectionView {
            pod: pod.to_owned(),
            accepted: self.side == Side::Server,
            local: socket.local.into(),
            peer: peer.map(Into::into),
            path: path.to_owned(),
            rule: rule.to_owned(),
            accelerated: details.accelerated,
            // The kernel counts the acknowledgement of a SYN as one byte.
            sent: socket
                .bytes
                .0
                .saturating_sub(u64::from(self.side == Side::Client)),
            received: socket.bytes.1,
            uid: socket.uid,
            pid: process.as_ref().map(|one| one.pid),
            process: process.as_ref().map(|one| one.name.clone()),
        }
    }
}
