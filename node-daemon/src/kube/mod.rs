//! The Kubernetes API: the only module that talks to it.

mod pods;
pub(crate) mod successor;

pub(crate) use pods::{Cluster, Error};
