//! Integration tests: the built daemon, driven over its socket.
#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "tests say what they expect by failing"
)]

mod api_server;
mod audit;
mod client;
mod cluster;
#[cfg(feature = "failpoints")]
mod crash;
mod doctor;
mod hardening;
mod keep_running;
mod limits;
mod monitor;
mod namespaces;
mod node;
mod order;
mod pending_pod_envoy;
mod plugin;
mod pods;
mod proxy_user;
mod socket;
mod worst;
mod ztunnel;
