//! What a client of the benchmark prints.

use serde::{Deserialize, Serialize};

/// The observations of a client.
#[derive(Serialize, Deserialize)]
pub(crate) struct BenchResult {
    /// Round trips, calls, or bytes.
    pub(crate) count: u64,
    pub(crate) seconds: f64,
    /// Every round trip or call, in µs, sorted.
    pub(crate) micros: Vec<f64>,
}
