//! Detects whether another daemon follows this one, which is the case while its `DaemonSet` exists.
//!
//! A terminating Pod does not know the cause: an upgrade looks like the deletion of the
//! installation. The daemon therefore queries the API server when it stops. The service account is
//! often deleted together with the `DaemonSet`; the API server then does not authenticate the
//! daemon, nor would it a successor, which needs the same account.

use std::time::Duration;

use k8s_openapi::api::apps::v1::DaemonSet;
use kube::{Api, Client, Config};
use serde::Deserialize;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

/// Timeout of one request.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);
/// Pause between two requests.
const PAUSE: Duration = Duration::from_secs(1);
/// Timeout of all requests. Longer than the API server caches the token of a deleted account (10
/// s).
const TOTAL_TIMEOUT: Duration = Duration::from_secs(25);
/// The number of 401 answers that prove the deletion of the account rather than a stale token,
/// which is read again for each request.
const UNAUTHORIZED_LIMIT: usize = 3;

/// The name of a `DaemonSet`, written `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Name {
    namespace: String,
    name: String,
}

/// The name is invalid.
#[derive(Debug, thiserror::Error)]
#[error("\"{0}\" is no DaemonSet: write namespace/name")]
pub(crate) struct NotAName(String);

impl TryFrom<String> for Name {
    type Error = NotAName;

    fn try_from(text: String) -> Result<Self, NotAName> {
        match text.split_once('/') {
            Some((namespace, name))
                if !namespace.is_empty() && !name.is_empty() && !name.contains('/') =>
            {
                Ok(Self {
                    namespace: namespace.to_owned(),
                    name: name.to_owned(),
                })
            }
            _ => Err(NotAName(text)),
        }
    }
}

/// The API server's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// It exists.
    Exists,
    /// It does not exist, or is being deleted.
    Deleted,
    /// The account is unknown (401).
    Unauthorized,
    /// No usable answer.
    Unknown,
}

/// Whether a successor is expected. `true` in case of doubt, because the data path then stays.
pub(crate) async fn will_restart(set: &Name) -> bool {
    let end = Instant::now() + TOTAL_TIMEOUT;
    let mut answers = Vec::new();
    loop {
        answers.push(ask(set).await);
        if let Some(restarts) = decide(&answers) {
            info!(set = set.name, restarts, "DaemonSet checked");
            return restarts;
        }
        if Instant::now() + PAUSE > end {
            warn!(
                set = set.name,
                "the API server returned no usable answer about the DaemonSet; the data path stays. \
                 To remove Sluice, run `sluiced detach` and `sluice-install uninstall`"
            );
            return true;
        }
        sleep(PAUSE).await;
    }
}

/// The conclusion from the answers so far, if any.
fn decide(answers: &[Answer]) -> Option<bool> {
    match answers.last()? {
        Answer::Exists => Some(true),
        Answer::Deleted => Some(false),
        Answer::Unauthorized => {
            let last = answers.iter().rev().take(UNAUTHORIZED_LIMIT);
            let all = last.clone().all(|answer| *answer == Answer::Unauthorized);
            (all && last.len() == UNAUTHORIZED_LIMIT).then_some(false)
        }
        Answer::Unknown => None,
    }
}

async fn ask(set: &Name) -> Answer {
    match timeout(ATTEMPT_TIMEOUT, get(set)).await {
        Ok(Ok(Some(found))) if found.metadata.deletion_timestamp.is_none() => Answer::Exists,
        Ok(Ok(_)) => Answer::Deleted,
        Ok(Err(Error::Api(kube::Error::Api(status)))) if status.code == 401 => Answer::Unauthorized,
        Ok(Err(error)) => {
            warn!(%error, "API server request failed");
            Answer::Unknown
        }
        Err(_) => Answer::Unknown,
    }
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("no service account of a Pod is here")]
    Account(#[from] kube::config::InClusterError),
    #[error(transparent)]
    Api(#[from] kube::Error),
}

/// Creates a client for each request, which reads the token again.
async fn get(set: &Name) -> Result<Option<DaemonSet>, Error> {
    let client = Client::try_from(Config::incluster()?)?;
    let sets: Api<DaemonSet> = Api::namespaced(client, &set.namespace);
    Ok(sets.get_opt(&set.name).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_a_namespace() {
        let name = Name::try_from("kube-system/sluice".to_owned()).unwrap();
        assert_eq!((&*name.namespace, &*name.name), ("kube-system", "sluice"));
        for wrong in ["sluice", "/sluice", "kube-system/", "a/b/c", ""] {
            assert!(Name::try_from(wrong.to_owned()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_certain_answers_end_the_data_path() {
        use Answer::{Deleted, Exists, Unauthorized, Unknown};
        for (answers, restarts) in [
            (vec![Exists], Some(true)),
            (vec![Deleted], Some(false)),
            (vec![Unknown], None),
            (vec![Unknown, Unknown, Deleted], Some(false)),
            (vec![Unauthorized], None),
            (vec![Unauthorized, Unauthorized], None),
            (vec![Unauthorized, Unauthorized, Unauthorized], Some(false)),
            (
                vec![Unauthorized, Unknown, Unauthorized, Unauthorized],
                None,
            ),
            (vec![Unauthorized, Unauthorized, Exists], Some(true)),
            (vec![], None),
        ] {
            assert_eq!(decide(&answers), restarts, "{answers:?}");
        }
    }
}
