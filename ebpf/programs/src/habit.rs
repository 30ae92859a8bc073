//! How often a kind of connection is made: those that are not kept have no use of acceleration, which
//! costs two entries in a map before it gives anything.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use sluice_abi::{Endpoint, Habit, Reason, Told};

use crate::{count::count, maps::HABITS};

/// Whether one more connection to a destination is worth it.
#[inline(always)]
pub(crate) fn may_last(cookie: u64, to: Endpoint) -> bool {
    let habit = Habit {
        cookie,
        to,
        zero: 0,
    };
    // SAFETY: takes nothing.
    let second = unsafe { bpf_ktime_get_ns() } / 1_000_000_000;
    let Some(so_far) = HABITS.get_ptr_mut(habit) else {
        let first = Told { second, events: 1 };
        let _full = HABITS.insert(habit, first, 0);
        return true;
    };
    // SAFETY: the map's values live as long as the program runs. Of two that count at the same time one
    // may be lost.
    unsafe {
        let Some(more) = Habit::one_more(*so_far, second) else {
            count(Reason::AccelerationShort);
            return false;
        };
        *so_far = more;
    }
    true
}
