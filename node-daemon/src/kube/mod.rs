//! The Kubernetes API: the only module that talks to it.

pub(crate) mod manifest;
mod pods;
pub(crate) mod successor;

pub(crate) use pods::{Cluster, Error};
