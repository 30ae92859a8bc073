//! The daemon's unix socket: permissions, limits, timeouts and routes. And the HTTP port for collectors.

mod attempt;
mod error;
mod lobby;
mod metrics;
mod process;
mod respond;
mod routes;
mod scrape;
mod server;
mod socket;

pub(crate) use routes::{Handler, Sources};
pub(crate) use scrape::serve_metrics;
pub(crate) use server::serve;
pub(crate) use socket::Socket;
