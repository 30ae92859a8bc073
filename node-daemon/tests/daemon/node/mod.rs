//! Test support: the daemon under test, and namespaces that act as Pods.

mod daemon;
mod pod;

pub(crate) use daemon::Daemon;
pub(crate) use pod::Pod;
