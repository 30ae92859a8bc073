//! How often a kind of connection is made: those that are not kept have no use of acceleration, which
//! costs two entries in a map before it gives anything.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use sluice_abi::{ConnRateKey, Endpoint, RateWindow, Reason};

use crate::{count::count, maps::CONN_RATE};

/// Whether one more connection to a destination is worth it.
#[inline(always)]
pub(crate) fn within_limit(cookie: u64, to: Endpoint) -> bool {
    let key = ConnRateKey { cookie, to, pad: 0 };
    // SAFETY: takes nothing.
    let second = unsafe { bpf_ktime_get_ns() } / 1_000_000_000;
    let Some(window) = CONN_RATE.get_ptr_mut(key) else {
        let first = RateWindow { second, count: 1 };
        let _full = CONN_RATE.insert(key, first, 0);
        return true;
    };
    // SAFETY: the map's values live as long as the program runs. Of two that count at the same time one
    // may be lost.
    unsafe {
        let Some(more) = ConnRateKey::try_acquire(*window, second) else {
            count(Reason::AccelSkippedRate);
            return false;
        };
        *window = more;
    }
    true
}
