//! Addresses that remember: whoever meets the proxy at one of them was going to one destination.
//!
//! An entry is written once, and neither changed nor evicted for as long as the Pod is meshed. So
//! no connection, be it open, on its way or still to come, can be told another's destination, and
//! nothing need be kept for each of them.

use aya_ebpf::{EbpfContext, bindings::BPF_NOEXIST};
use sluice_abi::{Addr, AliasUsage, Endpoint, Meeting, Port};

use crate::{
    context,
    maps::{ALIAS_USAGE, DESTINATIONS},
};

/// Where connections to `asked` meet the proxy that listens at `port`. `None` if each choice is
/// another destination's, the Pod's share is used up, or the map is full.
#[inline(always)]
pub(crate) fn place(cookie: u64, asked: Endpoint, port: Port) -> Option<Endpoint> {
    let found = find(cookie, asked, port);
    if found.is_none()
        && let Some(usage) = usage(cookie)
    {
        // SAFETY: as in `insert`.
        unsafe { (*usage).fallbacks += 1 };
    }
    found
}

#[inline(always)]
fn find(cookie: u64, asked: Endpoint, port: Port) -> Option<Endpoint> {
    for choice in 0..Addr::MEETING_CHOICES {
        let place = Endpoint::new(asked.addr.meeting(asked.port, choice), port);
        let meeting = Meeting::at(cookie, place)?;
        if keep(meeting, asked)?.same(asked) {
            return Some(place);
        }
    }
    None
}

/// The destination of a meeting: `asked`, if it has had none. `None` if there is no room.
#[inline(always)]
fn keep(meeting: Meeting, asked: Endpoint) -> Option<Endpoint> {
    recall(meeting).or_else(|| insert(meeting, asked))
}

/// Inserts within the Pod's share. Two CPUs that count at the same moment can lose a count, and each can
/// exceed the share by one entry; the daemon corrects the count.
#[inline(always)]
fn insert(meeting: Meeting, asked: Endpoint) -> Option<Endpoint> {
    let usage = usage(meeting.cookie)?;
    // SAFETY: the entry is valid until the program ends, and its words are read and written whole.
    if unsafe { *usage }.is_full() {
        return None;
    }
    if DESTINATIONS
        .insert(meeting, asked, u64::from(BPF_NOEXIST))
        .is_err()
    {
        // Another CPU may have come first.
        return recall(meeting);
    }
    // SAFETY: as above.
    unsafe { (*usage).held += 1 };
    Some(asked)
}

/// What the Pod uses of `destinations`. `None` if the map is full.
#[inline(always)]
fn usage(cookie: u64) -> Option<*mut AliasUsage> {
    ALIAS_USAGE.get_ptr_mut(cookie).or_else(|| {
        // Another CPU may come first.
        let _present = ALIAS_USAGE.insert(cookie, AliasUsage::default(), u64::from(BPF_NOEXIST));
        ALIAS_USAGE.get_ptr_mut(cookie)
    })
}

#[inline(always)]
fn recall(meeting: Meeting) -> Option<Endpoint> {
    // SAFETY: nobody changes an entry; the daemon removes those of Pods that are gone.
    unsafe { DESTINATIONS.get(meeting) }.copied()
}

/// Where the connections were going that meet the proxy here, if this is such a place.
#[inline(always)]
pub(crate) fn destination(ctx: &impl EbpfContext, place: Endpoint) -> Option<Endpoint> {
    // First, because it costs next to nothing.
    if !place.addr.is_meeting() {
        return None;
    }
    recall(Meeting::at(context::netns_cookie(ctx), place)?)
}
