//! Addresses that remember: whoever meets the proxy at one of them was going to one destination.
//!
//! An entry is written once, and neither changed nor evicted for as long as the Pod is meshed. So
//! no connection, be it open, on its way or still to come, can be told another's destination, and
//! nothing need be kept for each of them.

use aya_ebpf::{EbpfContext, bindings::BPF_NOEXIST};
use sluice_abi::{Addr, Endpoint, Meeting, Port};

use crate::{context, maps::DESTINATIONS};

/// Where connections to `asked` meet the proxy that listens at `port`. `None` if each choice is
/// another destination's, or if there is no room for one more.
#[inline(always)]
pub(crate) fn place(cookie: u64, asked: Endpoint, port: Port) -> Option<Endpoint> {
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
    recall(meeting).or_else(|| {
        let kept = DESTINATIONS.insert(meeting, asked, u64::from(BPF_NOEXIST));
        // Another CPU may have come first.
        kept.map_or_else(|_| recall(meeting), |()| Some(asked))
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
