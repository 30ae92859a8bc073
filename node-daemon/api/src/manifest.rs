//! The part of a Pod's manifest on which interception depends, beyond the annotations.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Labels and containers of a Pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Manifest {
    /// The Pod's labels.
    pub labels: BTreeMap<String, String>,
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
    /// When it runs.
    pub role: ContainerRole,
    /// `runAsUser`, of the container or else of the Pod; absent if the image decides.
    pub uid: Option<u32>,
    /// `runAsGroup`, likewise.
    pub gid: Option<u32>,
    /// Its arguments; only of containers of a mesh.
    pub args: Vec<String>,
    /// Its environment, without what is filled in at run time; only of containers of a mesh.
    pub env: BTreeMap<String, String>,
}

/// When a container runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ContainerRole {
    /// One of the Pod's own, or a sidecar beside them.
    #[default]
    Application,
    /// Before them, to its end.
    Init,
    /// From before their start to after their end: `restartPolicy: Always`.
    NativeSidecar,
}

impl Manifest {
    /// The container of a name, of whatever role.
    #[must_use]
    pub fn container(&self, name: &str) -> Option<&Container> {
        self.containers.iter().find(|one| one.name == name)
    }
}
