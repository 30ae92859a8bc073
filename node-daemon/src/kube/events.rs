//! Events of refused Pods in the API server: `kubectl describe pod` shows them.
//!
//! The events come from a bounded queue, and an ADD never waits for it.

use std::time::{Duration, SystemTime};

use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
    jiff::Timestamp,
};
use kube::{Api, api::PostParams};
use sluice_api::RefusedAdd;
use tokio::{sync::mpsc, time::timeout};
use tracing::{debug, warn};

use super::pods::{Cluster, Error};
use crate::{limit::LogLimit, refusals};

/// The maximum number of queued events.
pub(crate) const EVENTS_QUEUE: usize = 64;
/// Timeout for one event.
const TIMEOUT: Duration = Duration::from_secs(10);
/// `reason` of the events.
const REASON: &str = "SluiceRefusedPod";
/// The API server accepts messages of this length in bytes (`pkg/apis/core/validation`, `ValidateEvent`).
const MESSAGE: usize = 1024;

/// Creates an Event for each entry of the queue, until the queue is closed.
pub(crate) async fn report_refusals(
    cluster: Cluster,
    node: String,
    mut refused: mpsc::Receiver<RefusedAdd>,
) {
    let mut limit = LogLimit::default();
    while let Some(entry) = refused.recv().await {
        let Some(event) = event(&entry, &node) else {
            continue;
        };
        let created = timeout(TIMEOUT, create(&cluster, event)).await;
        let error = match created.unwrap_or(Err(Error::Timeout)) {
            Ok(()) => continue,
            Err(error) => anyhow::Error::from(error),
        };
        if limit.pass().is_some() {
            warn!(
                pod = %format_args!("{}/{}", entry.pod.namespace, entry.pod.name),
                error = format!("{error:#}"),
                "no Event for a refused pod; the service account needs the verb create for events"
            );
        }
    }
    debug!("events ended");
}

async fn create(cluster: &Cluster, event: Event) -> Result<(), Error> {
    let namespace = event.metadata.namespace.clone().unwrap_or_default();
    let events: Api<Event> = Api::namespaced(cluster.client().await?, &namespace);
    events.create(&PostParams::default(), &event).await?;
    Ok(())
}

/// The Event of a refused Pod. `None` if the runtime does not name the Pod.
fn event(entry: &RefusedAdd, node: &str) -> Option<Event> {
    let RefusedAdd { pod, count, .. } = entry;
    if pod.namespace.is_empty() || pod.name.is_empty() {
        return None;
    }
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let message = format!(
        "Sluice refuses the Pod ({}): {}. {}",
        entry.reason,
        refusals::error(entry),
        entry.remedy
    );
    Some(Event {
        metadata: ObjectMeta {
            namespace: some(&pod.namespace),
            generate_name: Some(format!("{}.", pod.name)),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: some("v1"),
            kind: some("Pod"),
            namespace: some(&pod.namespace),
            name: some(&pod.name),
            uid: some(&pod.uid),
            ..ObjectReference::default()
        },
        type_: some("Warning"),
        reason: some(REASON),
        message: Some(cut(&message)),
        count: i32::try_from(*count).ok(),
        first_timestamp: time(entry.first),
        last_timestamp: time(entry.last),
        source: Some(EventSource {
            component: some("sluiced"),
            host: some(node),
        }),
        reporting_component: some("sluice/sluiced"),
        reporting_instance: some(node),
        ..Event::default()
    })
}

/// A message of at most [`MESSAGE`] bytes.
fn cut(message: &str) -> String {
    let end = message.floor_char_boundary(MESSAGE);
    message[..end].to_owned()
}

fn time(millis: u64) -> Option<Time> {
    let time = SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
    Timestamp::try_from(time).ok().map(Time)
}

#[cfg(test)]
mod tests {
    use sluice_api::PodName;

    use super::*;

    fn entry(name: &str) -> RefusedAdd {
        RefusedAdd {
            first: 1_000,
            last: 61_000,
            count: 3,
            pod: PodName {
                namespace: "shop".into(),
                name: name.into(),
                uid: "7".into(),
            },
            container_id: "c".into(),
            code: 100,
            reason: "pod_settings".into(),
            message: "ä".repeat(2000),
            details: String::new(),
            remedy: "change it".into(),
        }
    }

    #[test]
    fn event_names_the_pod_and_is_bounded() {
        let event = event(&entry("cart"), "here").unwrap();
        assert_eq!(event.metadata.generate_name.as_deref(), Some("cart."));
        assert_eq!(event.involved_object.uid.as_deref(), Some("7"));
        assert_eq!(event.count, Some(3));
        let message = event.message.unwrap();
        assert!(message.starts_with("Sluice refuses the Pod (pod_settings): ä"));
        assert!(message.len() <= MESSAGE);
        assert_eq!(event.last_timestamp, time(61_000));
    }

    #[test]
    fn pod_without_name_gets_no_event() {
        assert!(event(&entry(""), "here").is_none());
    }
}
