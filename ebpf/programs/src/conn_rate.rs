//! The connection rate limit: short-lived connections do not benefit from acceleration, which costs two
//! map entries in advance.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use sluice_abi::{ConnRateKey, Endpoint, RateWindow, Reason};

use crate::{count::count, maps::CONN_RATE};

/// Whether one more connection to a destination may be accelerated.
#[inline(always)]
pub(crate) fn within_limit(cookie: u64, to: Endpoint) -> bool {
    let key = ConnRateKey { cookie, to, pad: 0 };
    // SAFETY: the helper has no arguments.
    let second = unsafe { bpf_ktime_get_ns() } / 1_000_000_000;
    let Some(window) = CONN_RATE.get_ptr_mut(key) else {
        let first = RateWindow { second, count: 1 };
        let _full = CONN_RATE.insert(key, first, 0);
        return true;
    };
    // SAFETY: map values outlive the program. Concurrent increments may lose a count.
    unsafe {
        let Some(more) = ConnRateKey::try_acquire(*window, second) else {
            count(Reason::AccelSkippedRate);
            return false;
        };
        *window = more;
    }
    true
}
