//! The Pods that ztunnel serves.

use std::{collections::BTreeMap, os::fd::OwnedFd, path::PathBuf};

use super::zds::WorkloadInfo;
use crate::netns::{self, Netns};

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

impl Workload {
    /// The identity that ztunnel gets.
    pub(super) fn info(&self) -> WorkloadInfo {
        WorkloadInfo {
            name: self.name.clone(),
            namespace: self.namespace.clone(),
            service_account: self.service_account.clone(),
        }
    }

    /// The descriptor of its network namespace, if the path still leads to it.
    pub(super) async fn open(&self) -> Option<OwnedFd> {
        let Self { netns, path, .. } = self.clone();
        let opened = tokio::task::spawn_blocking(move || {
            let opened = Netns::open(&path).ok()?;
            (opened.id() == netns).then(|| opened.into_descriptor())
        });
        opened.await.ok().flatten()
    }

    /// A workload in a namespace with this cookie.
    #[cfg(test)]
    pub(super) fn with_cookie(cookie: u64) -> Self {
        Self {
            name: "cart".to_owned(),
            namespace: "shop".to_owned(),
            service_account: "default".to_owned(),
            netns: netns::Id::with_cookie(cookie),
            path: PathBuf::new(),
        }
    }
}
