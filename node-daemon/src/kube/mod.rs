//! The Kubernetes API: the only module that talks to it.

pub(crate) mod daemonset;
pub(crate) mod manifest;
mod pods;

pub(crate) use pods::{Cluster, Error};
