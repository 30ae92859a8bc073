//! What the daemon measures, in the `OpenMetrics` text format.

use std::time::Duration;

use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use super::error::Error;
use crate::pods::Reading;

type Label = (&'static str, String);

/// Upper bounds in seconds. An admit takes some 10 ms, of which most are spent in rtnetlink.
const BUCKETS: [f64; 9] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 10.0];

/// What is counted here. The rest is read where it is when somebody asks.
#[derive(Clone, Debug)]
pub(super) struct Metrics {
    requests: Family<[Label; 2], Counter>,
    refusals: Family<[Label; 2], Counter>,
    seconds: Family<[Label; 1], Histogram, fn() -> Histogram>,
}

impl Metrics {
    pub(super) fn new() -> Self {
        Self {
            requests: Family::default(),
            refusals: Family::default(),
            seconds: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
        }
    }

    /// Counts a request that was answered.
    pub(super) fn count(&self, path: &'static str, code: u16, took: Duration) {
        let path = ("path", path.to_owned());
        let labels = [path.clone(), ("code", code.to_string())];
        self.requests.get_or_create(&labels).inc();
        self.seconds
            .get_or_create(&[path])
            .observe(took.as_secs_f64());
    }

    /// Counts a refusal by its CNI code: an HTTP status stands for several of them.
    pub(super) fn refuse(&self, path: &'static str, code: u32) {
        let labels = [("path", path.to_owned()), ("code", code.to_string())];
        self.refusals.get_or_create(&labels).inc();
    }

    pub(super) fn encode(&self, reading: &Reading) -> Result<String, Error> {
        let decisions = Family::<[Label; 1], Counter>::default();
        for (reason, count) in &reading.decisions {
            let label = ("reason", reason.label().to_owned());
            decisions.get_or_create(&[label]).inc_by(*count);
        }
        let pods = Family::<[Label; 1], Gauge>::default();
        for (meshed, count) in [(true, reading.meshed), (false, reading.left_alone)] {
            let label = ("meshed", meshed.to_string());
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            pods.get_or_create(&[label]).set(count);
        }
        let awaited = Gauge::<i64>::default();
        awaited.set(i64::try_from(reading.awaited).unwrap_or(i64::MAX));
        let repairs = Family::<[Label; 1], Counter>::default();
        for (repair, count) in reading.repairs.iter() {
            let label = ("what", repair.label().to_owned());
            repairs.get_or_create(&[label]).inc_by(count);
        }

        let mut registry = Registry::with_prefix("sluice");
        registry.register("decisions", "Decisions of the kernel programs", decisions);
        registry.register("pods", "Attachments of Pods that were looked at", pods);
        let help = "Meshed Pods of which only the addresses are known";
        registry.register("awaited_pods", help, awaited);
        registry.register("repairs", "What was put right unasked", repairs);
        registry.register("api_requests", "Answered requests", self.requests.clone());
        let help = "Refused requests, by the CNI code of the refusal";
        registry.register("refusals", help, self.refusals.clone());
        let help = "Time from a request's header to its answer";
        registry.register("api_request_seconds", help, self.seconds.clone());
        let mut text = String::new();
        encode(&mut text, &registry).map_err(|error| Error::Answer(error.to_string()))?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use sluice_abi::Reason;

    use super::*;
    use crate::pods::{Repair, Repairs};

    /// Everything, measured once.
    fn measured() -> String {
        let metrics = Metrics::new();
        metrics.count("/v1/admit", 200, Duration::from_millis(3));
        metrics.refuse("/v1/admit", 102);
        let mut repairs = Repairs::default();
        repairs.count(Repair::Hooks);
        let reading = Reading {
            decisions: vec![(Reason::OutboundToProxy, 7)],
            meshed: 2,
            left_alone: 1,
            awaited: 3,
            repairs,
        };
        metrics.encode(&reading).unwrap()
    }

    #[test]
    fn everything_measured_is_written() {
        let text = measured();
        for line in [
            "sluice_decisions_total{reason=\"outbound_to_proxy\"} 7",
            "sluice_pods{meshed=\"true\"} 2",
            "sluice_pods{meshed=\"false\"} 1",
            "sluice_awaited_pods 3",
            "sluice_repairs_total{what=\"hooks\"} 1",
            "sluice_repairs_total{what=\"ended\"} 0",
            "sluice_api_requests_total{path=\"/v1/admit\",code=\"200\"} 1",
            "sluice_refusals_total{path=\"/v1/admit\",code=\"102\"} 1",
            "sluice_api_request_seconds_count{path=\"/v1/admit\"} 1",
            "sluice_api_request_seconds_bucket{le=\"0.005\",path=\"/v1/admit\"} 1",
            "# EOF",
        ] {
            assert!(
                text.lines().any(|one| one == line),
                "{line} is not in\n{text}"
            );
        }
    }

    #[test]
    fn metrics_page_lists_every_metric() {
        let text = measured();
        let metric = |line: &str| {
            let (name, kind) = line.strip_prefix("# TYPE ")?.split_once(' ')?;
            let suffix = if kind == "counter" { "_total" } else { "" };
            Some(format!("{name}{suffix}"))
        };
        let page = crate::docs::page("reference/metrics.md");
        let listed = crate::docs::listed(&crate::docs::section(&page, "# Metrics"));
        let listed = listed
            .into_iter()
            .filter(|name| name.starts_with("sluice_"));
        assert_eq!(
            listed.collect::<BTreeSet<_>>(),
            text.lines().filter_map(metric).collect()
        );
    }
}
