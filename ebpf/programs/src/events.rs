//! Telling whoever watches of each decision. Nobody does, as a rule: that costs one look-up.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use sluice_abi::{Event, RateWindow, Reason};

use crate::{
    count::count,
    maps::{EVENT_RATE, EVENTS, MONITOR_UNTIL},
};

/// Whether somebody watches. The daemon says until when, so that it ends with the daemon.
#[inline(always)]
pub(crate) fn enabled() -> bool {
    MONITOR_UNTIL.get(0).is_some_and(|until| {
        // SAFETY: takes nothing.
        *until != 0 && unsafe { bpf_ktime_get_ns() } < *until
    })
}

/// Tells of one decision, unless there are too many.
///
/// A function of its own: every decision ends here.
#[inline(never)]
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
    // SAFETY: takes nothing.
    let second = unsafe { bpf_ktime_get_ns() } / 1_000_000_000;
    // SAFETY: this CPU's own slot; a program that interrupts this one may lose a count.
    unsafe {
        let Some(more) = (*window).try_acquire(second, RateWindow::MAX_EVENTS_PER_SEC) else {
            return false;
        };
        *window = more;
    }
    true
}
