//! Tests of the metrics page.

use std::collections::BTreeSet;

use sluice_abi::Reason;
use sluice_api::{ApiError, PodCounters, PodName};

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
        foreign_uses: vec![(pod.clone(), 4)],
        pod_counters: vec![(
            pod,
            PodCounters {
                outbound_to_proxy: 6,
                refused: 1,
                ..PodCounters::default()
            },
        )],
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
        r#"sluice_pod_decisions_total{namespace="shop",pod="a\"\\n\\\\u{1b}\\u{202e}",result="outbound_to_proxy"} 6"#,
        r#"sluice_pod_decisions_total{namespace="shop",pod="a\"\\n\\\\u{1b}\\u{202e}",result="inbound_direct"} 0"#,
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
        "sluice_dropped_log_lines_total 0",
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
