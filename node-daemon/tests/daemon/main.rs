//! Integration tests: the built daemon, driven over its socket.
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests say what they expect by failing"
)]

mod alerts;
mod api_server;
mod audit;
mod balancer;
mod client;
mod cluster;
#[cfg(feature = "failpoints")]
mod crash;
mod dashboard;
mod doctor;
mod examples;
mod exclusive;
mod hardening;
mod keep_running;
mod limits;
mod manners;
mod memory;
mod monitor;
mod namespaces;
mod network_validator;
mod node;
mod order;
mod pending_pod_envoy;
mod plugin;
mod pods;
mod proxy_user;
mod refused;
mod restart;
mod scrape;
mod socket;
mod tap;
mod unit;
mod virtual_interfaces;
mod wait;
mod worst;
mod ztunnel;
