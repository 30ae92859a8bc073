//! The Pods that ztunnel serves.

use std::{collections::BTreeMap, path::PathBuf};

use crate::netns;

/// The uid of a Pod, by which ztunnel knows it.
pub(crate) type Uid = String;

/// Pods by uid.
pub(crate) type Workloads = BTreeMap<Uid, Workload>;

/// A Pod that ztunnel serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Workload {
    /// The Pod's name.
    pub(crate) name: String,
    /// Its Kubernetes namespace.
    pub(crate) namespace: String,
    /// Its service account, which is part of its identity in the mesh.
    pub(crate) service_account: String,
    /// Its network namespace.
    pub(crate) netns: netns::Id,
    /// The path of its network namespace.
    pub(crate) path: PathBuf,
}

#[cfg(test)]
impl Workload {
    /// A workload in a namespace with this cookie.
    pub(crate) fn with_cookie(cookie: u64) -> Self {
        Self {
            name: "cart".to_owned(),
            namespace: "shop".to_owned(),
            service_account: "default".to_owned(),
            netns: netns::Id::with_cookie(cookie),
            path: PathBuf::new(),
        }
    }
}
