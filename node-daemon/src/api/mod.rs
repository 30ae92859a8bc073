//! The daemon's unix socket: who may speak, how long, how much, and about what.

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
