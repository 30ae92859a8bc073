//! The series of single Pods, for a bounded number of Pods.

use prometheus_client::{
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use sluice_api::{PodCounters, PodName, text};

use super::Label;
use crate::pods::MetricsSnapshot;

/// The maximum number of Pods with series in each metric.
const POD_SERIES: usize = 1000;

/// The series of single Pods.
pub(super) fn register(registry: &mut Registry, snapshot: &MetricsSnapshot) {
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
    registry.register(
        "pod_decisions",
        "Decisions about a Pod's connections and DNS queries, by their result",
        pod_decisions(&snapshot.pod_counters),
    );
}

/// The decisions about the Pods with the most.
fn pod_decisions(counters: &[(PodName, PodCounters)]) -> Family<[Label; 3], Counter> {
    let series = Family::<[Label; 3], Counter>::default();
    let sum = |counts: &PodCounters| results(counts).iter().map(|(_, count)| count).sum::<u64>();
    for (pod, counts) in highest(counters, sum) {
        let [namespace, name] = pod_labels(pod);
        for (result, count) in results(counts) {
            let labels = [
                namespace.clone(),
                name.clone(),
                ("result", result.to_owned()),
            ];
            series.get_or_create(&labels).inc_by(count);
        }
    }
    series
}

/// The values of the label `result`, with their counts.
fn results(counts: &PodCounters) -> [(&'static str, u64); 5] {
    let PodCounters {
        outbound_to_proxy,
        outbound_direct,
        inbound_to_proxy,
        inbound_direct,
        refused,
    } = *counts;
    [
        ("outbound_to_proxy", outbound_to_proxy),
        ("outbound_direct", outbound_direct),
        ("inbound_to_proxy", inbound_to_proxy),
        ("inbound_direct", inbound_direct),
        ("refused", refused),
    ]
}

/// The series of the Pods with the highest values.
fn of_pods(counts: &[(PodName, u64)]) -> Family<[Label; 2], Counter> {
    let series = Family::<[Label; 2], Counter>::default();
    for (pod, count) in highest(counts, |count| *count) {
        series.get_or_create(&pod_labels(pod)).inc_by(*count);
    }
    series
}

/// The Pods with the highest values, at most [`POD_SERIES`]. Among equal ones the first by name, so that the
/// same Pods have series in each scrape.
fn highest<T>(pods: &[(PodName, T)], value: impl Fn(&T) -> u64) -> Vec<(&PodName, &T)> {
    let mut pods: Vec<_> = pods.iter().map(|(pod, counted)| (pod, counted)).collect();
    pods.sort_by_key(|(pod, counted)| {
        (std::cmp::Reverse(value(counted)), &pod.namespace, &pod.name)
    });
    pods.truncate(POD_SERIES);
    pods
}

/// The encoder writes label values unescaped.
fn pod_labels(pod: &PodName) -> [Label; 2] {
    [
        ("namespace", text::label(&pod.namespace)),
        ("pod", text::label(&pod.name)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_of_pods_are_bounded() {
        let pod = |index: usize| PodName {
            namespace: "shop".into(),
            name: format!("pod-{index:04}"),
            uid: String::new(),
        };
        let counts = |index: usize| PodCounters {
            inbound_to_proxy: u64::from(index == POD_SERIES),
            ..PodCounters::default()
        };
        let all: Vec<_> = (0..=POD_SERIES)
            .map(|index| (pod(index), counts(index)))
            .collect();
        let names = |from: &[(PodName, PodCounters)]| {
            let listed = highest(from, |counts| counts.inbound_to_proxy);
            listed
                .into_iter()
                .map(|(pod, _)| pod.name.clone())
                .collect::<Vec<_>>()
        };
        let kept = names(&all);
        assert_eq!(kept.len(), POD_SERIES);
        assert_eq!((&*kept[0], &*kept[1]), ("pod-1000", "pod-0000"));
        assert!(!kept.contains(&"pod-0999".to_owned()));
        let mut reversed = all;
        reversed.reverse();
        assert_eq!(names(&reversed), kept);
    }
}
