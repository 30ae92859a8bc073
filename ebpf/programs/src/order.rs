//! The order among cgroup programs. Other programs at the cgroup root, such as the socket load balancer
//! of a CNI, replace a Service's address by that of a backend. The kernel runs the programs of a cgroup
//! before those of its ancestors (`compute_effective_progs`), so copies of `connect` and `sendmsg` are
//! attached to the children of the root. The root copy serves the processes outside every
//! child; it must not decide again about an address that a load balancer has replaced.
//!
//! The child copy stores the socket's cookie in [`DECIDED`], and the root copy of the same call
//! consumes it. Both run on one CPU, with the socket locked. If another task preempts the call in
//! between and its socket has the same slot, the root copy decides again.

use aya_ebpf::{
    EbpfContext, btf_maps::ProgramArray, helpers::bpf_get_socket_cookie, programs::SockAddrContext,
};
use sluice_abi::maps::DECIDED_SLOTS;

use crate::{
    ALLOW, DENY, context,
    maps::{self, DECIDED},
};

/// The level of the cgroup at which a copy of a program is attached.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// A child of the root: runs before every program of the root.
    Child,
    /// The root: runs for every process, after the programs of its child.
    Root,
}

/// Continues with the program in `deciding`, unless the child copy has decided about this call. The verifier
/// explores that program once for both levels.
///
/// The daemon stores the program before it attaches this one. Without it, the calls of meshed Pods are refused.
#[inline(always)]
pub(crate) fn continue_once(
    ctx: &SockAddrContext,
    level: Level,
    deciding: &ProgramArray<1>,
) -> i32 {
    if level.is_decided(ctx) {
        return ALLOW;
    }
    // SAFETY: this program holds nothing that the other one would have to release.
    unsafe { deciding.tail_call(ctx, 0) };
    if maps::netns_entry(context::netns_cookie(ctx)).is_some() {
        DENY
    } else {
        ALLOW
    }
}

impl Level {
    /// Whether the child copy has decided about this call. In the child copy this records the decision.
    #[inline(always)]
    pub(crate) fn is_decided(self, ctx: &impl EbpfContext) -> bool {
        // SAFETY: the context is the kernel's, and alive during the call.
        let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
        #[expect(clippy::cast_possible_truncation, reason = "the index of a slot")]
        let index = cookie as u32 % DECIDED_SLOTS;
        let Some(slot) = DECIDED.get_ptr_mut(index) else {
            return false;
        };
        // SAFETY: this CPU's own slot, read and written as a whole.
        unsafe {
            if self == Self::Child {
                slot.write_volatile(cookie);
                return false;
            }
            let is_decided = slot.read_volatile() == cookie;
            slot.write_volatile(0);
            is_decided
        }
    }
}
