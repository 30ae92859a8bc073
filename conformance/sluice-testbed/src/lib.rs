//! Bricks of every test that needs a real kernel: network namespaces, cgroups, a private bpffs,
//! processes, CNI networks, and the agents that run inside the namespaces. Also the checkout: the built
//! binaries and the pages of the documentation.
//!
//! The tests of the daemon and of the plugin, the parity suite, the benchmark and the end-to-end tests
//! are built from them. The crate does not depend on Sluice's product crates.
#![forbid(unsafe_code)]
#![expect(
    clippy::missing_errors_doc,
    reason = "a test prints the error, and no caller distinguishes one from another"
)]
#![expect(
    clippy::must_use_candidate,
    reason = "internal crate: every caller is in this repository"
)]

pub mod agent;
pub mod bpffs;
pub mod bulk_netns;
pub mod cgroup;
pub mod cni;
pub mod envoy;
pub mod http;
pub mod interrupt;
pub mod mountinfo;
pub mod netns;
pub mod pages;
pub mod process;
pub mod terminal;
pub mod workspace;
