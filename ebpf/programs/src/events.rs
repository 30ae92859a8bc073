//! Events for `sluiced monitor`. Without a monitor, each decision costs one lookup.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use sluice_abi::{Event, RateWindow, Reason};

use crate::{
    count::count,
    maps::{EVENT_RATE, EVENTS, MONITOR_UNTIL},
};

/// Whether a monitor is active. The daemon sets the end time, so events stop if the daemon stops.
#[inline(always)]
pub(crate) fn enabled() -> bool {
    MONITOR_UNTIL.get(0).is_some_and(|until| {
        // SAFETY: the helper has no arguments.
        *until != 0 && unsafe { bpf_ktime_get_ns() } < *until
    })
}

/// Emits the event of one decision, within the rate limit.
#[inline(always)]
pub(crate) fn emit(event: &Event) {
    if !rate_ok() || EVENTS.output(event, 0).is_err() {
        count(Reason::EventsDropped);
    }
}

#[inline(always)]
fn rate_ok() -> bool {
    let Some(window) = EVENT_RATE.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: the helper has no arguments.
    let second = unsafe { bpf_ktime_get_ns() } / 1_000_000_000;
    // SAFETY: this CPU's own slot; a program that preempts this one may lose a count.
    unsafe {
        let Some(more) = (*window).try_acquire(second, RateWindow::MAX_EVENTS_PER_SEC) else {
            return false;
        };
        *window = more;
    }
    true
}
