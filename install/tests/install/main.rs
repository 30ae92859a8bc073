//! The built installer on hosts that are directories of their own.
#![expect(clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod chain;
#[cfg(feature = "failpoints")]
mod crash;
mod errors;
mod golden;
mod host;
mod layouts;
mod reconcile;
mod status;
