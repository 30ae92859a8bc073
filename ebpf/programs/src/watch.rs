//! Telling whoever watches of each decision. Nobody does, as a rule: that costs one look-up.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use sluice_abi::{Event, Reason, Told};

use crate::{
    count::count,
    maps::{EVENTS, TOLD, WATCHED},
};

/// Whether somebody watches. The daemon says until when, so that it ends with the daemon.
#[inline(always)]
pub(crate) fn is_on() -> bool {
    WATCHED.get(0).is_some_and(|until| {
        // SAFETY: takes nothing.
        *until != 0 && unsafe { bpf_ktime_get_ns() } < *until
    })
}

/// Tells of one decision, unless there are too many.
///
/// A function of its own: every decision ends here.
#[inline(never)]
pub(crate) fn tell(event: &Event) {
    if !may_tell() || EVENTS.output(event, 0).is_err() {
        count(Reason::EventsLeftOut);
    }
}

#[inline(always)]
fn may_tell() -> bool {
    let Some(told) = TOLD.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: takes nothing.
    let second = unsafe { bpf_ktime_get_ns() } / 1_000_000_000;
    // SAFETY: this CPU's own slot; a program that interrupts this one may lose a count.
    unsafe {
        let Some(more) = (*told).one_more(second, Told::MOST) else {
            return false;
        };
        *told = more;
    }
    true
}
