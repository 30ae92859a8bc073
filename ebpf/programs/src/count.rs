//! The counters: one for each reason and CPU.

use sluice_abi::Reason;

use crate::maps::COUNTERS;

/// Counts one decision.
#[inline(always)]
pub(crate) fn count(reason: Reason) {
    if let Some(counter) = COUNTERS.get_ptr_mut(reason as u32) {
        // SAFETY: the pointer is to this CPU's slot, and a program does not migrate between CPUs. A
        // program that preempts this one may lose a count, never more.
        unsafe { *counter += 1 };
    }
}
