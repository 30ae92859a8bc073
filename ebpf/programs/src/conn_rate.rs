//! The connection rate limit: short-lived connections do not benefit from acceleration, whose price is due
//! when a connection is made. Few connections to a destination with many of them are accelerated.

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

/// An accelerated connection to a destination ends. It began at `begin`, in nanoseconds of the monotonic
/// clock.
#[inline(always)]
pub(crate) fn ended(cookie: u64, to: Endpoint, begin: u64) {
    // SAFETY: the helper has no arguments.
    if !ConnRateKey::is_short(begin, unsafe { bpf_ktime_get_ns() }) {
        return;
    }
    if let Some(window) = CONN_RATE.get_ptr_mut(ConnRateKey { cookie, to, pad: 0 }) {
        // SAFETY: as above.
        unsafe { *window = ConnRateKey::with_short(*window) };
    }
}
