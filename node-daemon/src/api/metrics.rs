//! The daemon's metrics, in the `OpenMetrics` text format.

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
use sluice_api::{FindingKind, PodName, text};

use super::{error::Error, process};
use crate::{
    pods::{AuditSummary, MetricsSnapshot},
    refusals::Refusals,
};

/// The maximum number of Pods that have a series of their own.
const POD_SERIES: usize = 1000;

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
        let pods = Family::<[Label; 1], Gauge>::default();
        for (meshed, count) in [(true, snapshot.meshed), (false, snapshot.bypassed)] {
            let label = ("meshed", meshed.to_string());
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            pods.get_or_create(&[label]).set(count);
        }
        let pending = gauge(snapshot.pending);
        let repairs = snapshot.repairs.iter();
        let repairs = counters(
            "type",
            repairs.map(|(repair, count)| (repair.label(), count)),
        );
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

        let mut registry = Registry::with_prefix("sluice");
        register_reasons(&mut registry, snapshot);
        registry.register(
            "attachments",
            "Attachments, by whether their traffic is intercepted",
            pods,
        );
        let help = "Meshed Pods whose network namespace is not known yet";
        registry.register("pending_pods", help, pending);
        if pod_series {
            register_pods(&mut registry, snapshot);
        }
        let help = "Meshed Pods whose proxy does not listen; their connections are refused";
        registry.register(
            "pods_without_listener",
            help,
            gauge(snapshot.without_listener),
        );
        let refused = refusals.counts();
        let refused = counters("reason", refused.map(|(one, count)| (one.label(), count)));
        registry.register("refused_adds", "Refused ADDs", refused);
        registry.register(
            "build_info",
            "Version of the daemon and of the maps' layout",
            build(),
        );
        let help = "Programs of other owners at Sluice's hooks, by whether they run before Sluice";
        registry.register("foreign_programs", help, foreign);
        registry.register("repairs", "State that the daemon repaired", repairs);
        registry.register("api_requests", "Answered requests", self.requests.clone());
        let help = "Failed requests, by CNI error code";
        registry.register("api_errors", help, self.api_errors.clone());
        let help = "Time from a request's header to its answer";
        registry.register("api_request_duration_seconds", help, self.seconds.clone());
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
}

/// The counters of the kernel programs.
fn register_reasons(registry: &mut Registry, snapshot: &MetricsSnapshot) {
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
}

/// The series of single Pods.
fn register_pods(registry: &mut Registry, snapshot: &MetricsSnapshot) {
    for (name, help, counts) in [
        (
            "pod_alias_fallbacks",
            "Connections beyond a Pod's share of the map 'destinations'",
            &snapshot.alias_fallbacks,
        ),
        (
            "pod_foreign_uses",
            "Denials of the proxy's ports to processes that are not the proxy",
            &snapshot.foreign_uses,
        ),
    ] {
        registry.register(name, help, of_pods(counts));
    }
}

/// The series of the Pods with the highest values.
fn of_pods(counts: &[(PodName, u64)]) -> Family<[Label; 2], Counter> {
    let mut counts: Vec<_> = counts.iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let series = Family::<[Label; 2], Counter>::default();
    for (pod, count) in counts.into_iter().take(POD_SERIES) {
        // The encoder writes label values unescaped.
        let labels = [
            ("namespace", text::label(&pod.namespace)),
            ("pod", text::label(&pod.name)),
        ];
        series.get_or_create(&labels).inc_by(*count);
    }
    series
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

fn gauge(count: usize) -> Gauge {
    let gauge = Gauge::default();
    gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
    gauge
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

/// The latest audit, if there was one.
fn register_audit(registry: &mut Registry, audit: &AuditSummary) {
    let Some(at) = audit.at else {
        return;
    };
    let findings = Family::<[Label; 1], Gauge>::default();
    for kind in FindingKind::ALL {
        let count = audit.findings.get(&kind).copied().unwrap_or_default();
        let label = ("kind", kind.label().to_owned());
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        findings.get_or_create(&[label]).set(count);
    }
    let connections = Gauge::<i64>::default();
    connections.set(i64::try_from(audit.connections).unwrap_or(i64::MAX));
    let seconds = Gauge::<f64, AtomicU64>::default();
    seconds.set(audit.took.as_secs_f64());
    let timestamp = Gauge::<f64, AtomicU64>::default();
    let since_1970 = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    timestamp.set(since_1970.as_secs_f64());
    let help = "Connections past the proxy, against the rules";
    registry.register("audit_findings", help, findings);
    let help = "TCP connections of meshed Pods";
    registry.register("audit_connections", help, connections);
    registry.register(
        "audit_duration_seconds",
        "Duration of the latest audit",
        seconds,
    );
    let help = "End of the latest audit, in seconds since 1970";
    registry.register("audit_timestamp_seconds", help, timestamp);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use sluice_abi::Reason;
    use sluice_api::ApiError;

    use super::*;
    use crate::{
        bpf::ForeignProgram,
        pods::{Repair, Repairs},
        refusals::{Refusal, Subject},
    };

    fn foreign_program(id: u32) -> ForeignProgram {
        ForeignProgram {
            hook: "connect4",
            id,
            name: "cil_sock4_conn".into(),
            uid: 0,
            cgroup: "/sys/fs/cgroup".into(),
            runs_first: false,
        }
    }

    /// One scrape of all metrics.
    fn measured(pod_series: bool) -> String {
        let metrics = Metrics::new();
        metrics.count("/v1/add", 200, Duration::from_millis(3));
        metrics.count_error("/v1/add", 102);
        let mut repairs = Repairs::default();
        repairs.count(Repair::Hooks);
        let pod = PodName {
            namespace: "shop".into(),
            name: "a\"\n\\\u{1b}\u{202e}".into(),
            uid: String::new(),
        };
        let snapshot = MetricsSnapshot {
            reasons: vec![(Reason::OutboundToProxy, 7), (Reason::ListenerAdded, 3)],
            meshed: 2,
            bypassed: 1,
            pending: 3,
            alias_fallbacks: vec![(pod.clone(), 5)],
            foreign_uses: vec![(pod, 4)],
            without_listener: 4,
            repairs,
            foreign_programs: vec![foreign_program(3), foreign_program(4)],
        };
        let audit = AuditSummary {
            findings: [(FindingKind::Bypass, 2)].into(),
            connections: 9,
            took: Duration::from_millis(4),
            at: Some(UNIX_EPOCH),
        };
        let refusals = Refusals::default();
        let api_error = ApiError {
            code: 100,
            message: String::new(),
            details: String::new(),
        };
        let pod = PodName::default();
        refusals.record(&Subject::named(pod), Refusal::PodSettings, api_error);
        metrics
            .encode(&snapshot, &audit, &refusals, pod_series)
            .unwrap()
    }

    #[test]
    fn everything_measured_is_written() {
        let text = measured(true);
        for line in [
            "sluice_decisions_total{reason=\"outbound_to_proxy\"} 7",
            "sluice_datapath_events_total{reason=\"listener_added\"} 3",
            "sluice_attachments{meshed=\"true\"} 2",
            "sluice_attachments{meshed=\"false\"} 1",
            "sluice_pending_pods 3",
            r#"sluice_pod_alias_fallbacks_total{namespace="shop",pod="a\"\\n\\\\u{1b}\\u{202e}"} 5"#,
            "sluice_audit_findings{kind=\"bypass\"} 2",
            "sluice_audit_findings{kind=\"proxy_user\"} 0",
            "sluice_audit_connections 9",
            "sluice_audit_duration_seconds 0.004",
            r#"sluice_foreign_programs{hook="connect4",program="cil_sock4_conn",order="after"} 2"#,
            "sluice_repairs_total{type=\"hooks\"} 1",
            "sluice_repairs_total{type=\"stale_netns\"} 0",
            "sluice_api_requests_total{path=\"/v1/add\",code=\"200\"} 1",
            "sluice_api_errors_total{path=\"/v1/add\",code=\"102\"} 1",
            "sluice_api_request_duration_seconds_count{path=\"/v1/add\"} 1",
            "sluice_api_request_duration_seconds_bucket{le=\"0.005\",path=\"/v1/add\"} 1",
            "sluice_refused_adds_total{reason=\"pod_settings\"} 1",
            "sluice_refused_adds_total{reason=\"kernel\"} 0",
            "sluice_pods_without_listener 4",
            "# TYPE process_cpu_seconds counter",
            "# TYPE process_start_time_seconds gauge",
            "# EOF",
        ] {
            assert!(
                text.lines().any(|one| one == line),
                "{line} is not in\n{text}"
            );
        }
    }

    #[test]
    fn series_of_pods_can_be_switched_off() {
        assert!(measured(true).contains("sluice_pod_"));
        assert!(!measured(false).contains("sluice_pod_"));
    }

    #[test]
    fn classic_format_names_counters_with_suffix() {
        let open = measured(true);
        let page = classic(&open);
        assert!(
            page.contains("\n# TYPE sluice_decisions_total counter\n"),
            "{page}"
        );
        assert!(
            page.contains("# HELP sluice_decisions_total Decisions"),
            "{page}"
        );
        assert!(
            page.contains("\n# TYPE sluice_attachments gauge\n"),
            "{page}"
        );
        assert!(!page.contains("# EOF"));
        let samples = |text: &str| text.lines().filter(|line| !line.starts_with('#')).count();
        assert_eq!(samples(&page), samples(&open));
    }

    #[test]
    fn metrics_page_lists_every_metric() {
        let text = measured(true);
        let metric = |line: &str| {
            let (name, kind) = line.strip_prefix("# TYPE ")?.split_once(' ')?;
            let suffix = if kind == "counter" { "_total" } else { "" };
            Some(format!("{name}{suffix}"))
        };
        let page = crate::docs::page("reference/metrics.md");
        let listed = crate::docs::listed(&crate::docs::section(&page, "# Metrics"));
        let listed = listed
            .into_iter()
            .filter(|name| name.starts_with("sluice_") || name.starts_with("process_"));
        assert_eq!(
            listed.collect::<BTreeSet<_>>(),
            text.lines().filter_map(metric).collect()
        );
    }
}
