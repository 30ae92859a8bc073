//! The latest refused ADDs: for `sluiced pods --refused`, for a counter by reason, and for Events.
//!
//! The runtime repeats a refused ADD every few seconds: attempts for the same Pod and reason are one
//! entry.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use sluice_api::{AddRequest, ApiError, PodName, RefusedAdd};
use tokio::sync::mpsc;
use tracing::{debug, warn};

/// The maximum number of entries.
const CAPACITY: usize = 100;
/// Repeated attempts of an entry are reported again after this time.
const REPEAT: Duration = Duration::from_mins(10);

/// The reason of a refused ADD.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Refusal {
    /// Neither the runtime nor the API server provides the Pod's annotations.
    AnnotationsUnavailable,
    /// The API server does not provide the Pod's spec or labels, which the configuration requires.
    SpecUnavailable,
    /// ztunnel did not accept the Pod.
    Ztunnel,
    /// An annotation or another setting of the Pod.
    PodSettings,
    /// Its lists need more than a Pod's share of a map.
    Share,
    /// Its addresses.
    Address,
    /// Its network namespace.
    Netns,
    /// The kernel.
    Kernel,
    /// The daemon panicked.
    Internal,
    /// Its record cannot be written.
    Record,
    /// The ADD was not answered in time.
    Timeout,
    /// The daemon is stopping.
    Stopping,
}

impl Refusal {
    /// Every reason.
    pub(crate) const ALL: [Self; 12] = [
        Self::AnnotationsUnavailable,
        Self::SpecUnavailable,
        Self::Ztunnel,
        Self::PodSettings,
        Self::Share,
        Self::Address,
        Self::Netns,
        Self::Kernel,
        Self::Internal,
        Self::Record,
        Self::Timeout,
        Self::Stopping,
    ];

    /// The value of the metric's label.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::AnnotationsUnavailable => "annotations_unavailable",
            Self::SpecUnavailable => "spec_unavailable",
            Self::Ztunnel => "ztunnel",
            Self::PodSettings => "pod_settings",
            Self::Share => "share",
            Self::Address => "address",
            Self::Netns => "netns",
            Self::Kernel => "kernel",
            Self::Internal => "internal",
            Self::Record => "record",
            Self::Timeout => "timeout",
            Self::Stopping => "stopping",
        }
    }

    /// The remedy.
    pub(crate) fn remedy(self) -> &'static str {
        match self {
            Self::AnnotationsUnavailable => {
                "check the plugin's entry with `sluice-install status`, the runtime's version, and the daemon's \
                 access to the API server"
            }
            Self::SpecUnavailable => {
                "check the daemon's access to the API server; only proxy-user = \"pod-spec\" and ambient mode need it"
            }
            Self::Ztunnel => "check that ztunnel runs on this node and connects to ztunnel-socket",
            Self::PodSettings => {
                "change the Pod's annotations; docs/reference/annotations.md lists the supported values"
            }
            Self::Share => {
                "shorten the Pod's lists of ports and networks: use ranges and wider networks"
            }
            Self::Address => {
                "check the IPAM plugin's state: `sluiced pods` shows the Pod that has the address"
            }
            Self::Netns => {
                "the runtime retries with a new sandbox; check that no other tool enters Pods of this node"
            }
            Self::Kernel => {
                "`sluiced status` shows missing programs, `sluiced check-kernel` what the kernel supports"
            }
            Self::Internal => {
                "a fault of the daemon: report it with the archive of `sluiced bug-report`"
            }
            Self::Record => "check the space and the permissions of the directory of --state",
            Self::Timeout => {
                "the runtime retries; if this repeats, check the load of the node and the API server"
            }
            Self::Stopping => "none: the runtime retries, and the next daemon accepts the Pod",
        }
    }
}

/// The Pod of an ADD.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    pod: PodName,
    container_id: String,
}

impl Subject {
    /// The Pod of a request.
    pub(crate) fn of(request: &AddRequest) -> Self {
        Self {
            pod: request.pod.clone(),
            container_id: request.attachment.container_id.clone(),
        }
    }

    /// A Pod without a container.
    #[cfg(test)]
    pub(crate) fn named(pod: PodName) -> Self {
        Self {
            pod,
            container_id: String::new(),
        }
    }

    /// Each attempt has another container.
    fn is(&self, entry: &RefusedAdd) -> bool {
        let named = !self.pod.name.is_empty();
        if named {
            self.pod == entry.pod
        } else {
            self.container_id == entry.container_id
        }
    }
}

/// A shared handle of the latest refused ADDs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Refusals {
    entries: Arc<Mutex<Entries>>,
    reports: Option<mpsc::Sender<RefusedAdd>>,
}

#[derive(Debug, Default)]
struct Entries {
    counts: [u64; Refusal::ALL.len()],
    /// The oldest first, with the time at which it was reported.
    latest: VecDeque<(RefusedAdd, SystemTime)>,
}

impl Refusals {
    /// Likewise, with a queue for reports. The queue is never waited for: beyond its size, reports are
    /// dropped.
    pub(crate) fn reported_to(reports: mpsc::Sender<RefusedAdd>) -> Self {
        Self {
            reports: Some(reports),
            ..Self::default()
        }
    }

    /// Records and logs a refused ADD. Reports it, unless it repeats a recent one.
    pub(crate) fn record(&self, subject: &Subject, refusal: Refusal, api_error: ApiError) {
        let (entry, is_new) = self.add(subject, refusal, api_error, SystemTime::now());
        let PodName {
            namespace, name, ..
        } = &entry.pod;
        warn!(
            pod = %format_args!("{namespace}/{name}"),
            container_id = entry.container_id,
            code = entry.code,
            reason = entry.reason,
            error = error(&entry),
            remedy = entry.remedy,
            "pod refused"
        );
        if let Some(reports) = self.reports.as_ref().filter(|_| is_new)
            && reports.try_send(entry).is_err()
        {
            debug!("the queue of reports is full; one refused pod gets no Event");
        }
    }

    fn add(
        &self,
        subject: &Subject,
        refusal: Refusal,
        api_error: ApiError,
        now: SystemTime,
    ) -> (RefusedAdd, bool) {
        let mut entries = self.lock();
        entries.counts[refusal as usize] += 1;
        let same = |(entry, _): &(RefusedAdd, SystemTime)| {
            subject.is(entry)
                && entry.reason == refusal.label()
                && entry.message == api_error.message
        };
        let before = entries.latest.iter().position(same);
        let before = before.and_then(|index| entries.latest.remove(index));
        let (first, count, reported) = match before {
            Some((entry, reported)) => (entry.first, entry.count, Some(reported)),
            None => (millis(now), 0, None),
        };
        let entry = RefusedAdd {
            first,
            last: millis(now),
            count: count + 1,
            pod: subject.pod.clone(),
            container_id: subject.container_id.clone(),
            code: api_error.code,
            reason: refusal.label().to_owned(),
            message: api_error.message,
            details: api_error.details,
            remedy: refusal.remedy().to_owned(),
        };
        let recent = reported.filter(|at| now.duration_since(*at).is_ok_and(|age| age < REPEAT));
        let is_new = recent.is_none();
        entries
            .latest
            .push_back((entry.clone(), recent.unwrap_or(now)));
        let surplus = entries.latest.len().saturating_sub(CAPACITY);
        entries.latest.drain(..surplus);
        (entry, is_new)
    }

    /// The latest entries, the latest first.
    pub(crate) fn latest(&self) -> Vec<RefusedAdd> {
        let entries = self.lock();
        entries
            .latest
            .iter()
            .rev()
            .map(|(entry, _)| entry.clone())
            .collect()
    }

    /// The number of refused ADDs for each reason.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (Refusal, u64)> {
        Refusal::ALL.into_iter().zip(self.lock().counts)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Entries> {
        // Nothing panics under this lock.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The error of an entry with its causes.
pub(crate) fn error(entry: &RefusedAdd) -> String {
    match &*entry.details {
        "" => entry.message.clone(),
        details => format!("{}: {details}", entry.message),
    }
}

fn millis(time: SystemTime) -> u64 {
    let since_1970 = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(name: &str, container: &str) -> Subject {
        Subject {
            pod: PodName {
                namespace: "shop".into(),
                name: name.into(),
                uid: "7".into(),
            },
            container_id: container.into(),
        }
    }

    fn api_error() -> ApiError {
        ApiError {
            code: 100,
            message: "annotation x".into(),
            details: String::new(),
        }
    }

    #[test]
    fn repeated_attempts_are_one_entry() {
        let refusals = Refusals::default();
        let begin = SystemTime::UNIX_EPOCH;
        let add = |name: &str, container: &str, seconds| {
            let now = begin + Duration::from_secs(seconds);
            refusals
                .add(
                    &subject(name, container),
                    Refusal::PodSettings,
                    api_error(),
                    now,
                )
                .1
        };
        assert!(add("cart", "a", 0));
        assert!(!add("cart", "b", 5));
        assert!(add("till", "c", 6));
        assert!(add("cart", "d", 700), "reported again later");
        let latest = refusals.latest();
        let seen: Vec<_> = latest
            .iter()
            .map(|entry| (&*entry.pod.name, entry.count, entry.first, entry.last))
            .collect();
        assert_eq!(seen, [("cart", 3, 0, 700_000), ("till", 1, 6000, 6000)]);
        let counted = refusals
            .counts()
            .find(|(refusal, _)| *refusal == Refusal::PodSettings);
        assert_eq!(counted, Some((Refusal::PodSettings, 4)));
    }

    #[test]
    fn number_of_entries_is_bounded() {
        let refusals = Refusals::default();
        for index in 0..CAPACITY + 5 {
            let subject = subject(&index.to_string(), "");
            refusals.add(&subject, Refusal::Netns, api_error(), SystemTime::now());
        }
        let latest = refusals.latest();
        assert_eq!(latest.len(), CAPACITY);
        assert_eq!(latest[0].pod.name, (CAPACITY + 4).to_string());
    }
}
