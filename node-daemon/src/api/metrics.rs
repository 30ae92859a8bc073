//! The daemon's metrics, in the `OpenMetrics` text format.

mod pods;

use std::{
    fmt::Write as _,
    sync::atomic::AtomicU64,
    time::{Duration, UNIX_EPOCH},
};

use prometheus_client::{
    encoding::text::{encode_eof, encode_registry},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use sluice_abi::{ABI_VERSION, ReasonKind};
use sluice_api::{FindingKind, text};

use super::{error::Error, process};
use crate::{
    log::dropped_lines,
    pods::{AuditSummary, MetricsSnapshot},
    refusals::Refusals,
};

type Label = (&'static str, String);

/// Upper bounds in seconds. An ADD takes about 10 ms, most of it in rtnetlink.
const BUCKETS: [f64; 9] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 10.0];

/// The counters of the API. All other values are read from their source at each scrape.
#[derive(Clone, Debug)]
pub(super) struct Metrics {
    requests: Family<[Label; 2], Counter>,
    api_errors: Family<[Label; 2], Counter>,
    seconds: Family<[Label; 1], Histogram, fn() -> Histogram>,
}

impl Metrics {
    pub(super) fn new() -> Self {
        Self {
            requests: Family::default(),
            api_errors: Family::default(),
            seconds: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
        }
    }

    /// Counts an answered request.
    pub(super) fn count(&self, path: &'static str, code: u16, took: Duration) {
        let path = ("path", path.to_owned());
        let labels = [path.clone(), ("code", code.to_string())];
        self.requests.get_or_create(&labels).inc();
        self.seconds
            .get_or_create(&[path])
            .observe(took.as_secs_f64());
    }

    /// Counts an error by its CNI code: an HTTP status stands for several codes.
    pub(super) fn count_error(&self, path: &'static str, code: u32) {
        let labels = [("path", path.to_owned()), ("code", code.to_string())];
        self.api_errors.get_or_create(&labels).inc();
    }

    /// The page. Without `pod_series`, no Pod has a series of its own.
    pub(super) fn encode(
        &self,
        snapshot: &MetricsSnapshot,
        audit: &AuditSummary,
        refusals: &Refusals,
        pod_series: bool,
    ) -> Result<String, Error> {
        let mut registry = Registry::with_prefix("sluice");
        register_datapath(&mut registry, snapshot);
        register_attachments(&mut registry, snapshot);
        if pod_series {
            pods::register(&mut registry, snapshot);
        }
        register_daemon(&mut registry, snapshot);
        self.register_requests(&mut registry, refusals);
        register_audit(&mut registry, audit);
        let mut own = Registry::default();
        process::register(&mut own);
        let mut page = String::new();
        encode_registry(&mut page, &registry)
            .and_then(|()| encode_registry(&mut page, &own))
            .and_then(|()| encode_eof(&mut page))
            .map_err(|error| Error::Answer(error.to_string()))?;
        Ok(page)
    }

    fn register_requests(&self, registry: &mut Registry, refusals: &Refusals) {
        registry.register("api_requests", "Answered requests", self.requests.clone());
        let help = "Failed requests, by CNI error code";
        registry.register("api_errors", help, self.api_errors.clone());
        let help = "Time from a request's header to its answer";
        registry.register("api_request_duration_seconds", help, self.seconds.clone());
        let refused = refusals.counts();
        let refused = counters("reason", refused.map(|(one, count)| (one.label(), count)));
        registry.register("refused_adds", "Refused ADDs", refused);
    }
}

/// The counters of the kernel programs, and the programs that run beside them.
fn register_datapath(registry: &mut Registry, snapshot: &MetricsSnapshot) {
    let of = |kind: ReasonKind| {
        let reasons = snapshot.reasons.iter();
        let reasons = reasons.filter(move |(reason, _)| reason.kind() == kind);
        counters(
            "reason",
            reasons.map(|(reason, count)| (reason.label(), *count)),
        )
    };
    let help = "Decisions of the kernel programs";
    registry.register("decisions", help, of(ReasonKind::Decision));
    let help = "Events of the kernel programs as they carry decisions out";
    registry.register("datapath_events", help, of(ReasonKind::Event));
    let foreign = Family::<[Label; 3], Gauge>::default();
    for program in &snapshot.foreign_programs {
        let order = if program.runs_first {
            "before"
        } else {
            "after"
        };
        let labels = [
            ("hook", program.hook.to_owned()),
            ("program", text::label(&program.name)),
            ("order", order.to_owned()),
        ];
        foreign.get_or_create(&labels).inc();
    }
    let help = "Programs of other owners at Sluice's hooks, by whether they run before Sluice";
    registry.register("foreign_programs", help, foreign);
}

/// The attachments, and the Pods that need attention.
fn register_attachments(registry: &mut Registry, snapshot: &MetricsSnapshot) {
    let attachments = [("true", snapshot.meshed), ("false", snapshot.bypassed)];
    registry.register(
        "attachments",
        "Attachments, by whether their traffic is intercepted",
        gauges("meshed", attachments.into_iter()),
    );
    let help = "Meshed Pods whose network namespace is not known yet";
    registry.register("pending_pods", help, gauge(snapshot.pending));
    let help = "Meshed Pods whose proxy does not listen; their connections are refused";
    let without_listener = gauge(snapshot.without_listener);
    registry.register("pods_without_listener", help, without_listener);
}

/// The daemon itself: its version, its repairs and its log.
fn register_daemon(registry: &mut Registry, snapshot: &MetricsSnapshot) {
    let help = "Version of the daemon and of the maps' layout";
    registry.register("build_info", help, build());
    let repairs = snapshot.repairs.iter();
    let repairs = repairs.map(|(repair, count)| (repair.label(), count));
    let help = "State that the daemon repaired";
    registry.register("repairs", help, counters("type", repairs));
    let dropped = Counter::<u64>::default();
    dropped.inc_by(dropped_lines());
    let help = "Log lines dropped because the reader of the log stalled";
    registry.register("dropped_log_lines", help, dropped);
}

/// The latest audit, if there was one.
fn register_audit(registry: &mut Registry, audit: &AuditSummary) {
    let Some(at) = audit.at else {
        return;
    };
    let findings = FindingKind::ALL.into_iter().map(|kind| {
        let count = audit.findings.get(&kind).copied();
        (kind.label(), count.unwrap_or_default())
    });
    let seconds = Gauge::<f64, AtomicU64>::default();
    seconds.set(audit.took.as_secs_f64());
    let timestamp = Gauge::<f64, AtomicU64>::default();
    let since_1970 = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    timestamp.set(since_1970.as_secs_f64());
    let help = "Connections past the proxy, against the rules";
    registry.register("audit_findings", help, gauges("kind", findings));
    let help = "TCP connections of meshed Pods";
    registry.register("audit_connections", help, gauge(audit.connections));
    registry.register(
        "audit_duration_seconds",
        "Duration of the latest audit",
        seconds,
    );
    let help = "End of the latest audit, in seconds since 1970";
    registry.register("audit_timestamp_seconds", help, timestamp);
}

fn build() -> Family<[Label; 2], Gauge> {
    let build = Family::<[Label; 2], Gauge>::default();
    let labels = [
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("abi", ABI_VERSION.to_string()),
    ];
    build.get_or_create(&labels).set(1);
    build
}

/// Counters with one label.
fn counters(
    name: &'static str,
    values: impl Iterator<Item = (&'static str, u64)>,
) -> Family<[Label; 1], Counter> {
    let family = Family::<[Label; 1], Counter>::default();
    for (value, count) in values {
        let label = (name, value.to_owned());
        family.get_or_create(&[label]).inc_by(count);
    }
    family
}

/// Gauges with one label.
fn gauges<N: TryInto<i64>>(
    name: &'static str,
    values: impl Iterator<Item = (&'static str, N)>,
) -> Family<[Label; 1], Gauge> {
    let family = Family::<[Label; 1], Gauge>::default();
    for (value, count) in values {
        let label = (name, value.to_owned());
        family.get_or_create(&[label]).set(saturating(count));
    }
    family
}

fn gauge(count: impl TryInto<i64>) -> Gauge {
    let gauge = Gauge::default();
    gauge.set(saturating(count));
    gauge
}

fn saturating(count: impl TryInto<i64>) -> i64 {
    count.try_into().unwrap_or(i64::MAX)
}

/// The page in Prometheus' older text format (0.0.4), for collectors without `OpenMetrics`: there,
/// metadata names a counter with its suffix.
pub(super) fn classic(page: &str) -> String {
    let mut counters = std::collections::BTreeSet::new();
    for line in page.lines() {
        let words = line
            .strip_prefix("# TYPE ")
            .and_then(|rest| rest.split_once(' '));
        counters.extend(
            words
                .filter(|(_, kind)| *kind == "counter")
                .map(|(name, _)| name),
        );
    }
    let mut lines = String::with_capacity(page.len());
    for line in page.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some(kind @ ("HELP" | "TYPE")), Some(name), Some(rest)) => {
                let suffix = if counters.contains(name) {
                    "_total"
                } else {
                    ""
                };
                let _ = writeln!(lines, "# {kind} {name}{suffix} {rest}");
            }
            (Some("#"), ..) => {}
            _ => {
                lines.push_str(line);
                lines.push('\n');
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests;
