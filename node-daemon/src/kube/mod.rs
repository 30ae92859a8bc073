//! The Kubernetes API: the only module with a client of it.

pub(crate) mod daemonset;
pub(crate) mod manifest;
mod pods;

pub(crate) use pods::{Cluster, Error};

/// The manifests that `sluiced decide` reads.
pub(crate) use k8s_openapi::api::core::v1::{Namespace, PodTemplateSpec};
