//! What a client of the benchmark prints.

use std::time::Instant;

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

impl BenchResult {
    /// The round trips or calls since `begin`, in any order.
    pub(crate) fn since(begin: Instant, mut micros: Vec<f64>) -> Self {
        let seconds = begin.elapsed().as_secs_f64();
        micros.sort_unstable_by(f64::total_cmp);
        Self {
            count: micros.len() as u64,
            seconds,
            micros,
        }
    }
}
