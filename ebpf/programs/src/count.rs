//! The counters: one for each reason and CPU, and a few for each Pod and CPU.

use sluice_abi::{PodCounter, Reason};

use crate::maps::{COUNTERS, POD_COUNTERS};

/// Counts one decision.
#[inline(always)]
pub(crate) fn count(reason: Reason) {
    count_number(reason as u32);
}

/// As [`count`], by the reason's number.
#[inline(always)]
pub(crate) fn count_number(reason: u32) {
    if let Some(counter) = COUNTERS.get_ptr_mut(reason) {
        // SAFETY: the pointer is to this CPU's slot, and a program does not migrate between CPUs. A
        // program that preempts this one may lose a count, never more.
        unsafe { *counter += 1 };
    }
}

/// Counts one decision about a Pod, if the daemon has made an entry for it.
#[inline(always)]
pub(crate) fn count_for_pod(cookie: u64, counter: PodCounter) {
    if let Some(counters) = POD_COUNTERS.get_ptr_mut(cookie) {
        // SAFETY: as above; the kernel frees a removed entry after the program.
        unsafe { (*counters).add(counter) };
    }
}
