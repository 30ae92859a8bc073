//! The known facts about a Pod at the time of the decision: its annotations, and the rest of the
//! manifest if the API server was queried.

use sluice_api::{AddRequest, Container, INTERCEPT, Manifest};

use super::{Annotations, Error, parse};
use crate::pods::{ListedPod, mesh::Mesh};

/// A Pod, as far as it is known.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Subject<'a> {
    /// Its Kubernetes namespace, if the runtime passed it.
    pub(crate) namespace: Option<&'a str>,
    /// Its annotations; `None` if neither the runtime nor the API server stated them.
    pub(crate) annotations: Option<&'a Annotations>,
    /// The rest of its manifest.
    pub(crate) manifest: Option<&'a Manifest>,
}

impl<'a> From<Option<&'a Annotations>> for Subject<'a> {
    fn from(annotations: Option<&'a Annotations>) -> Self {
        Self {
            annotations,
            ..Self::default()
        }
    }
}

impl<'a> From<&'a AddRequest> for Subject<'a> {
    fn from(request: &'a AddRequest) -> Self {
        Self {
            namespace: Some(&request.pod.namespace),
            annotations: request.annotations.as_ref(),
            manifest: request.manifest.as_ref(),
        }
    }
}

impl<'a> From<&'a ListedPod> for Subject<'a> {
    fn from(pod: &'a ListedPod) -> Self {
        Self {
            namespace: Some(&pod.pod.namespace),
            annotations: Some(&pod.annotations),
            manifest: pod.manifest.as_ref(),
        }
    }
}

/// A Pod with known annotations, and the mesh of its node.
#[derive(Clone, Copy)]
pub(super) struct PodAnnotations<'a> {
    pub(super) mesh: &'static Mesh,
    pub(super) annotations: &'a Annotations,
    pub(super) manifest: Option<&'a Manifest>,
}

impl<'a> PodAnnotations<'a> {
    /// The trimmed value of an annotation.
    pub(super) fn annotation(&self, key: &str) -> Option<&'a str> {
        self.annotations.get(key).map(|value| value.trim())
    }

    /// The value of a label, or else of the annotation of that name. It is not trimmed: injectors and
    /// CNI plugins compare the whole text.
    pub(super) fn label_or_annotation(&self, key: &str) -> Option<&'a str> {
        let label = self.label(key);
        label.or_else(|| self.annotations.get(key).map(String::as_str))
    }

    /// The value of a label, if the manifest is known and has it.
    pub(super) fn label(&self, key: &str) -> Option<&'a str> {
        self.manifest?.labels.get(key).map(String::as_str)
    }

    /// A container, if the manifest is known and has it.
    pub(super) fn container(&self, name: &str) -> Option<&'a Container> {
        self.manifest?.container(name)
    }

    /// Whether the containers are known and none has this name. A Pod has at least one container:
    /// an empty list states nothing.
    pub(super) fn lacks_container(&self, name: &str) -> bool {
        let lacks = |all: &Manifest| !all.containers.is_empty() && all.container(name).is_none();
        self.manifest.is_some_and(lacks)
    }

    /// The operator's override of the decision.
    pub(super) fn overruled(&self) -> Result<Option<bool>, Error> {
        match self.annotation(INTERCEPT) {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(other) => Err(Error::Item {
                key: INTERCEPT,
                item: other.to_owned(),
                allowed: "true or false",
            }),
        }
    }

    /// A user or group in one of Sluice's own annotations.
    pub(super) fn own_id(&self, key: &'static str) -> Result<Option<u32>, Error> {
        let stated = self.annotations.get(key);
        stated.map(|id| parse::parse_id(key, id)).transpose()
    }
}
