//! Pods in the API server: one whose annotations the runtime does not pass, and at start the Pods
//! of this node. No watch is needed: the relevant fields of a running Pod do not change.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, time::Duration};

use http_body_util::Limited;
use hyper::Response;
use k8s_openapi::api::core::v1::{Namespace, Pod, PodTemplateSpec};
use kube::{
    Api, Client, Config,
    api::{ListParams, Patch, PatchParams},
    client::ClientBuilder,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::json;
use sluice_api::{AddRequest, PodName, text::Printable};
use tokio::time::{Instant, sleep, timeout_at};
use tower::util::MapResponseLayer;
use tracing::{debug, info, warn};

use super::manifest;
use crate::pods::{Annotations, ListedPod};

/// Timeout of all requests for one Pod: less than the plugin's total of 5 s.
const ADD_TIMEOUT: Duration = Duration::from_secs(3);
/// Timeout of the list of this node's Pods. Nothing waits for it.
const LIST_TIMEOUT: Duration = Duration::from_mins(2);
/// Pause before the second request; doubled before each further one, up to the longest.
const PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// The maximum size of an answer in bytes. etcd accepts 1.5 MB for an object.
const MAX_ANSWER: usize = 16 << 20;
/// The annotation of a static Pod's mirror object: the uid that the runtime knows.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// The annotation by which istiod knows an enrolled Pod of ambient mode.
const REDIRECTION: &str = "ambient.istio.io/redirection";
/// Objects in one page of a list, which is the daemon's largest memory use.
const PART: u32 = 50;

/// A handle of the API server.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    kubeconfig: Option<PathBuf>,
    /// Whether labels of Kubernetes namespaces are read as well.
    namespaces: bool,
}

/// A request to the API server failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// No API server is configured.
    #[error(
        "no API server can be asked: the daemon has no service account, and `kubeconfig` is not set"
    )]
    NoAccess,
    /// The request does not name a Pod.
    #[error("the runtime does not name the Pod")]
    NoName,
    /// The kubeconfig.
    #[error("the kubeconfig cannot be used")]
    Kubeconfig(#[from] kube::config::KubeconfigError),
    /// The files of the service account.
    #[error("the service account cannot be used")]
    Account(#[from] kube::config::InClusterError),
    /// The connection failed, or the answer cannot be parsed.
    #[error("the API server returned no usable answer")]
    Api(#[source] kube::Error),
    /// The API server returned an error.
    #[error("the API server says {code}: {message}")]
    Refused {
        /// The HTTP status.
        code: u16,
        /// The server's message.
        message: String,
    },
    /// The Pod was deleted and recreated, or is not created yet.
    #[error("the API server knows another Pod of that name, with uid {uid}")]
    UidMismatch {
        /// The uid of the other Pod.
        uid: String,
    },
    /// The timeout expired.
    #[error("the API server does not answer in time")]
    Timeout,
}

impl Error {
    /// Whether a retry may succeed.
    fn is_retryable(&self) -> bool {
        match self {
            Self::NoAccess | Self::NoName => false,
            Self::Refused { code, .. } => *code != 403,
            _ => true,
        }
    }
}

impl From<kube::Error> for Error {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::Refused {
                code: status.code,
                message: [status.message, status.reason]
                    .into_iter()
                    .find(|text| !text.is_empty())
                    .unwrap_or_default(),
            },
            other => Self::Api(other),
        }
    }
}

impl Cluster {
    /// Uses a kubeconfig, or the service account of the daemon's Pod.
    pub(crate) fn new(kubeconfig: Option<PathBuf>) -> Self {
        Self {
            kubeconfig,
            namespaces: false,
        }
    }

    /// Also reads the labels of the Pods' Kubernetes namespaces.
    pub(crate) fn with_namespaces(self) -> Self {
        Self {
            namespaces: true,
            ..self
        }
    }

    /// Adds the manifest, and the annotations if the runtime did not pass them.
    ///
    /// # Errors
    ///
    /// If the API server does not return them after retries. The request is then unchanged.
    pub(crate) async fn fetch_annotations(&self, request: &mut AddRequest) -> Result<(), Error> {
        let PodName {
            namespace,
            name,
            uid,
        } = &request.pod;
        if namespace.is_empty() || name.is_empty() {
            return Err(Error::NoName);
        }
        let found = retry_until(ADD_TIMEOUT, || async {
            let client = self.client().await?;
            let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
            let found = pods.get(name).await?;
            let known = self::uid(&found);
            if !uid.is_empty() && !known.is_empty() && known != *uid {
                return Err(Error::UidMismatch { uid: known });
            }
            let labels = if self.namespaces {
                let found = Api::<Namespace>::all(client).get(namespace).await?;
                found.metadata.labels.unwrap_or_default()
            } else {
                BTreeMap::new()
            };
            Ok((found, labels))
        });
        let (found, labels) = found.await?;
        let known = self::uid(&found);
        let (annotations, mut manifest) = manifest::of(template(found));
        manifest.namespace_labels = manifest::selecting(labels);
        debug!(pod = %format_args!("{namespace}/{name}"), "the API server returned its manifest");
        if request.pod.uid.is_empty() {
            request.pod.uid = known;
        }
        request.annotations.get_or_insert(annotations);
        request.manifest = Some(manifest);
        Ok(())
    }

    /// Marks a Pod as enrolled in ambient mode: istiod then announces it to other nodes as reachable
    /// through HBONE. Retries for two minutes; nothing waits for it.
    pub(crate) async fn annotate_enrolled(&self, pod: &PodName) {
        let patch = json!({ "metadata": { "annotations": { REDIRECTION: "enabled" } } });
        let done = retry_until(LIST_TIMEOUT, || async {
            let pods: Api<Pod> = Api::namespaced(self.client().await?, &pod.namespace);
            // The subresource needs fewer rights, and changes metadata as well.
            let params = PatchParams::default();
            pods.patch_status(&pod.name, &params, &Patch::Merge(&patch))
                .await?;
            Ok(())
        });
        match done.await {
            Ok(()) | Err(Error::Refused { code: 404, .. }) => {}
            Err(error) => warn!(
                pod = %format_args!("{}/{}", Printable::new(&pod.namespace), Printable::new(&pod.name)),
                error = &error as &dyn std::error::Error,
                "failed to annotate an enrolled pod; other nodes reach it without HBONE (does the \
                 service account have the verb patch on pods/status?)"
            ),
        }
    }

    /// The Pods of a node that have a netns of their own.
    ///
    /// # Errors
    ///
    /// If no API server can be reached, or after two minutes without an answer.
    pub(crate) async fn list_pods_on_node(&self, node: &str) -> Result<Vec<ListedPod>, Error> {
        let found = retry_until(LIST_TIMEOUT, || self.list(node)).await;
        match &found {
            Ok(pods) => info!(node, pods = pods.len(), "listed"),
            Err(Error::NoAccess) => {}
            Err(error) => warn!(
                node,
                error = error as &dyn std::error::Error,
                "failed to list the pods of this node; running pods get the mesh defaults"
            ),
        }
        found
    }

    /// The number of Pods of a node, without retries and logs.
    pub(crate) async fn try_list(&self, node: &str) -> Result<usize, Error> {
        self.list(node).await.map(|pods| pods.len())
    }

    async fn list(&self, node: &str) -> Result<Vec<ListedPod>, Error> {
        let pods: Api<Pod> = Api::all(self.client().await?);
        let mut params = ListParams::default()
            .fields(&format!("spec.nodeName={node}"))
            .limit(PART);
        let mut found = Vec::new();
        let labels = self.namespace_labels().await?;
        loop {
            let part = pods.list(&params).await?;
            let listed = part.items.into_iter().filter_map(listed_pod);
            found.extend(listed.map(|mut one| {
                if let Some(manifest) = &mut one.manifest {
                    let labels = labels.get(&one.pod.namespace).cloned();
                    manifest.namespace_labels = labels.unwrap_or_default();
                }
                one
            }));
            params.continue_token = part.metadata.continue_.filter(|token| !token.is_empty());
            if params.continue_token.is_none() {
                return Ok(found);
            }
        }
    }

    /// The labels of each Kubernetes namespace that select a mesh.
    async fn namespace_labels(&self) -> Result<BTreeMap<String, Annotations>, Error> {
        let mut found = BTreeMap::new();
        if !self.namespaces {
            return Ok(found);
        }
        let namespaces: Api<Namespace> = Api::all(self.client().await?);
        let mut params = ListParams::default().limit(PART);
        loop {
            let part = namespaces.list(&params).await?;
            found.extend(part.items.into_iter().filter_map(|one| {
                let labels = manifest::selecting(one.metadata.labels?);
                Some((one.metadata.name?, labels))
            }));
            params.continue_token = part.metadata.continue_.filter(|token| !token.is_empty());
            if params.continue_token.is_none() {
                return Ok(found);
            }
        }
    }

    /// Creates a client for each request, which reads the token again: it is rotated every hour.
    pub(super) async fn client(&self) -> Result<Client, Error> {
        let config = match &self.kubeconfig {
            Some(path) => {
                let file = Kubeconfig::read_from(path)?;
                Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?
            }
            None if std::env::var_os("KUBERNETES_SERVICE_HOST").is_none() => {
                return Err(Error::NoAccess);
            }
            None => Config::incluster()?,
        };
        let bounded = MapResponseLayer::new(|response: Response<_>| {
            response.map(|body| Limited::new(body, MAX_ANSWER))
        });
        Ok(ClientBuilder::try_from(config)?
            .with_layer(&bounded)
            .build())
    }
}

/// Repeats a request until it succeeds, or the timeout expires.
async fn retry_until<T, Answer>(time: Duration, ask: impl Fn() -> Answer) -> Result<T, Error>
where
    Answer: Future<Output = Result<T, Error>>,
{
    let end = Instant::now() + time;
    let mut pause = PAUSE;
    let mut last = Error::Timeout;
    while let Ok(answer) = timeout_at(end, ask()).await {
        match answer {
            Err(error) if error.is_retryable() => last = error,
            answer => return answer,
        }
        if Instant::now() + pause > end {
            break;
        }
        sleep(pause).await;
        pause = (2 * pause).min(MAX_PAUSE);
    }
    Err(last)
}

/// The uid of a Pod on the node. The mirror object of a static Pod has another one.
fn uid(pod: &Pod) -> String {
    let annotations = pod.metadata.annotations.as_ref();
    let of_static = annotations.and_then(|all| all.get(MIRROR));
    of_static
        .or(pod.metadata.uid.as_ref())
        .cloned()
        .unwrap_or_default()
}

/// The part of a Pod that a template has as well.
fn template(pod: Pod) -> PodTemplateSpec {
    PodTemplateSpec {
        metadata: Some(pod.metadata),
        spec: pod.spec,
    }
}

/// The relevant fields of a Pod, if it has a netns of its own.
fn listed_pod(pod: Pod) -> Option<ListedPod> {
    let status = pod.status.clone()?;
    let ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    let addresses: Vec<IpAddr> = (status.pod_ips.into_iter().flatten())
        .filter_map(|one| one.ip.parse().ok())
        .collect();
    let name = PodName {
        namespace: pod.metadata.namespace.clone().unwrap_or_default(),
        name: pod.metadata.name.clone().unwrap_or_default(),
        uid: uid(&pod),
    };
    let (annotations, manifest) = manifest::of(template(pod));
    (!manifest.host_network && !ended && !addresses.is_empty()).then_some(ListedPod {
        pod: name,
        addresses,
        annotations,
        manifest: Some(manifest),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(spec: &serde_json::Value, status: &serde_json::Value) -> Option<ListedPod> {
        let metadata = json!({ "namespace": "shop", "name": "cart", "uid": "7" });
        let pod = json!({ "metadata": metadata, "spec": spec, "status": status });
        listed_pod(serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn static_pod_has_the_uid_that_the_node_knows() {
        let annotations = json!({ "kubernetes.io/config.mirror": "0f3a" });
        let metadata = json!({ "name": "proxy", "uid": "7", "annotations": annotations });
        let mirror: Pod = serde_json::from_value(json!({ "metadata": metadata })).unwrap();
        assert_eq!(uid(&mirror), "0f3a");
    }

    #[test]
    fn host_network_pods_are_not_listed() {
        let spec = json!({ "containers": [] });
        let running =
            json!({ "phase": "Running", "podIPs": [{ "ip": "10.0.0.7" }, { "ip": "fd00::7" }] });
        let found = of(&spec, &running).unwrap();
        assert_eq!(found.pod.name, "cart");
        let addresses: [IpAddr; 2] = ["10.0.0.7", "fd00::7"].map(|ip| ip.parse().unwrap());
        assert_eq!(found.addresses, addresses);
        for (spec, status) in [
            (json!({ "containers": [], "hostNetwork": true }), running),
            (spec.clone(), json!({ "phase": "Pending" })),
            (
                spec.clone(),
                json!({ "phase": "Failed", "podIPs": [{ "ip": "10.0.0.7" }] }),
            ),
            (
                spec,
                json!({ "phase": "Succeeded", "podIPs": [{ "ip": "10.0.0.7" }] }),
            ),
        ] {
            assert!(of(&spec, &status).is_none());
        }
    }
}
