//! The Kubernetes API: the only module with a client of it.

pub(crate) mod daemonset;
pub(crate) mod manifest;
mod pods;

pub(crate) use pods::{Cluster, Error};
