//! The daemon's unix socket: permissions, limits, timeouts and routes.

mod error;
mod lobby;
mod metrics;
mod respond;
mod routes;
mod server;
mod socket;

pub(crate) use routes::Handler;
pub(crate) use server::serve;
pub(crate) use socket::Socket;
