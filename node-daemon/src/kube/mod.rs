//! The Kubernetes API: the only module that talks to it.

pub(crate) mod successor;
