//! Outbound connections of a Pod that may bypass its proxy until the proxy listens for the first time.

use sluice_abi::{PodConfig, PodFlags};

use crate::maps::BEFORE_PROXY;

/// Whether the Pod's connections bypass the proxy now. A Pod without the flag costs no lookup.
#[inline(always)]
pub(crate) fn is_open(pod: &PodConfig) -> bool {
    pod.flags.has(PodFlags::BEFORE_PROXY)
        && BEFORE_PROXY.get_ptr(pod.cookie).is_some_and(|state| {
            // SAFETY: the daemon removes an entry with its Pod alone; the read is one word.
            unsafe { (&raw const (*state).open).read_volatile() != 0 }
        })
}

/// Counts a connection that bypassed the proxy.
#[inline(always)]
pub(crate) fn count(cookie: u64) {
    if let Some(state) = BEFORE_PROXY.get_ptr_mut(cookie) {
        // SAFETY: as in `is_open`. Another CPU may count at the same time: then one count is lost.
        unsafe { (*state).count += 1 };
    }
}

/// The proxy listens: from now on its Pod's connections go to it.
#[inline(always)]
pub(crate) fn close(pod: &PodConfig) {
    if !pod.flags.has(PodFlags::BEFORE_PROXY) {
        return;
    }
    if let Some(state) = BEFORE_PROXY.get_ptr_mut(pod.cookie) {
        // SAFETY: as in `is_open`; only zero is ever written.
        unsafe { (&raw mut (*state).open).write_volatile(0) };
    }
}
