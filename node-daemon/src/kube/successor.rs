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
const ATTEMPT: Duration = Duration::from_secs(3);
/// Between two questions.
const PAUSE: Duration = Duration::from_secs(1);
/// For all of them. Longer than the API server remembers an account that was deleted (10 s).
const PATIENCE: Duration = Duration::from_secs(25);
/// As often must the API server say that it does not know us, for that to be no mishap with the
/// token, which is read again each time.
const STRANGER: usize = 3;

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
    There,
    /// It is not, or it is being deleted.
    Gone,
    /// Who asks? (401)
    Stranger,
    /// Nothing of use.
    Nothing,
}

/// Whether a successor is to be expected. When in doubt it is, because then nothing is removed
/// that a Pod needs.
pub(crate) async fn is_expected(set: &Name) -> bool {
    let end = Instant::now() + PATIENCE;
    let mut said = Vec::new();
    loop {
        said.push(ask(set).await);
        if let Some(expected) = conclude(&said) {
            info!(
                set = set.name,
                expected, "asked whether another daemon comes"
            );
            return expected;
        }
        if Instant::now() + PAUSE > end {
            warn!(
                set = set.name,
                "the API server does not tell whether another daemon comes: the data path stays; \
                 if Sluice was to be removed, run `sluiced detach` and `sluice-install uninstall`"
            );
            return true;
        }
        sleep(PAUSE).await;
    }
}

/// What follows from the answers so far, if anything.
fn conclude(said: &[Answer]) -> Option<bool> {
    match said.last()? {
        Answer::There => Some(true),
        Answer::Gone => Some(false),
        Answer::Stranger => {
            let last = said.iter().rev().take(STRANGER);
            let all = last.clone().all(|answer| *answer == Answer::Stranger);
            (all && last.len() == STRANGER).then_some(false)
        }
        Answer::Nothing => None,
    }
}

async fn ask(set: &Name) -> Answer {
    match timeout(ATTEMPT, get(set)).await {
        Ok(Ok(Some(found))) if found.metadata.deletion_timestamp.is_none() => Answer::There,
        Ok(Ok(_)) => Answer::Gone,
        Ok(Err(Error::Api(kube::Error::Api(status)))) if status.code == 401 => Answer::Stranger,
        Ok(Err(error)) => {
            warn!(%error, "the API server was asked in vain");
            Answer::Nothing
        }
        Err(_) => Answer::Nothing,
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
        use Answer::{Gone, Nothing, Stranger, There};
        for (said, expected) in [
            (vec![There], Some(true)),
            (vec![Gone], Some(false)),
            (vec![Nothing], None),
            (vec![Nothing, Nothing, Gone], Some(false)),
            (vec![Stranger], None),
            (vec![Stranger, Stranger], None),
            (vec![Stranger, Stranger, Stranger], Some(false)),
            (vec![Stranger, Nothing, Stranger, Stranger], None),
            (vec![Stranger, Stranger, There], Some(true)),
            (vec![], None),
        ] {
            assert_eq!(conclude(&said), expected, "{said:?}");
        }
    }
}
