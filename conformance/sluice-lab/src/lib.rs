//! A mesh on this machine: a node with Pods in namespaces and a cgroup of its own, real proxies, and one
//! of the backends that redirect the Pods' connections.
#![forbid(unsafe_code)]
#![expect(
    clippy::missing_errors_doc,
    reason = "a test prints the error, and no caller distinguishes one from another"
)]
#![expect(
    clippy::must_use_candidate,
    reason = "internal crate: every caller is in this repository"
)]

pub mod backend;
pub mod balancer;
mod binaries;
pub mod bpf_objects;
mod lab;
pub mod mesh;
mod pod;
pub mod pod_annotations;
pub mod proxy;
pub mod servers;
mod users;

pub use binaries::Binaries;
pub use lab::{Caller, Lab};
pub use pod::{Pod, PodSpec};
pub use users::{APPLICATION, CLIENT, PROXY};
