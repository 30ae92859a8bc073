//! The part of a Pod's manifest that interception needs, beyond the annotations.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Labels and containers of a Pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Manifest {
    /// The Pod's Kubernetes namespace.
    pub namespace: String,
    /// The Pod's labels.
    pub labels: BTreeMap<String, String>,
    /// The labels of the Pod's Kubernetes namespace that select a mesh; absent if the mesh is not
    /// selected by labels.
    pub namespace_labels: BTreeMap<String, String>,
    /// The Pod's service account.
    pub service_account: String,
    /// The Pod shares the node's network namespace.
    pub host_network: bool,
    /// Containers of every role, init containers first.
    pub containers: Vec<Container>,
}

/// One container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Container {
    /// Its name.
    pub name: String,
    /// The phase of the Pod in which it runs.
    pub role: ContainerRole,
    /// `runAsUser` of the container, or of the Pod; absent if the image decides.
    pub uid: Option<u32>,
    /// `runAsGroup` of the container, or of the Pod; absent if the image decides.
    pub gid: Option<u32>,
    /// Its arguments, with the command of an init container before them; only for containers of a mesh.
    pub args: Vec<String>,
    /// Its environment, without values from references; only for containers of a mesh.
    pub env: BTreeMap<String, String>,
}

/// The role of a container in the Pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ContainerRole {
    /// An application container, or a classic sidecar.
    #[default]
    Application,
    /// An init container: runs to completion before the application.
    Init,
    /// A native sidecar: an init container with `restartPolicy: Always`.
    NativeSidecar,
}

impl Manifest {
    /// The container with this name, in any role.
    #[must_use]
    pub fn container(&self, name: &str) -> Option<&Container> {
        self.containers.iter().find(|one| one.name == name)
    }
}
