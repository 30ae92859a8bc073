//! Does another daemon come after this one? As long as there is the `DaemonSet` that started it.
//!
//! A Pod that ends is told nothing about why: an upgrade and the deletion of the whole look the
//! same. So the daemon asks when it is told to stop. Whoever deletes the `DaemonSet` often deletes
//! its service account too, and at once; then the daemon is a stranger to the API server, and a
//! successor, which needs that account, could not start either.

use std::time::Duration;

use k8s_openapi::api::apps::v1::DaemonSet;
use kube::{Api, Client, Config};
use serde::Deserialize;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

/// For one question.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);
/// Between two questions.
const PAUSE: Duration = Duration::from_secs(1);
/// For all of them. Longer than the API server remembers an account that was deleted (10 s).
const TOTAL_TIMEOUT: Duration = Duration::from_secs(25);
/// As often must the API server say that it does not know us, for that to be no mishap with the
/// token, which is read again each time.
const UNAUTHORIZED_LIMIT: usize = 3;

/// The name of a `DaemonSet`, written `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Name {
    namespace: String,
    name: String,
}

/// The name cannot be understood.
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

/// What the API server said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// It is there.
    Exists,
    /// It is not, or it is being deleted.
    Deleted,
    /// Who asks? (401)
    Unauthorized,
    /// Nothing of use.
    Unknown,
}

/// Whether a successor is to be expected. When in doubt it is, because then nothing is removed
/// that a Pod needs.
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

/// What follows from the answers so far, if anything.
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

/// With a client of its own each time: that reads the token again.
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
    fn only_a_clear_answer_ends_the_data_path() {
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
