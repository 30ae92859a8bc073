//! The daemon's unix socket: permissions, limits, timeouts and routes. And the HTTP port for collectors.

mod attempt;
mod error;
mod handler;
mod lobby;
mod metrics;
mod monitor;
mod process;
mod respond;
mod routes;
mod scrape;
mod server;
mod socket;

pub(crate) use handler::{Handler, Sources};
pub(crate) use scrape::serve_metrics;
pub(crate) use server::serve;
pub(crate) use socket::Socket;
