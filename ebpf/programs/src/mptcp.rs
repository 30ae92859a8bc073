//! MPTCP: the programs see the first subflow in `connect`, but the caller holds the MPTCP connection.

use aya_ebpf::{bindings::bpf_sock, helpers::bpf_skc_to_mptcp_sock};

/// Whether the kernel has `bpf_skc_to_mptcp_sock` (Linux 5.19, with MPTCP). The daemon sets it before
/// it loads the programs; if it is zero, the verifier does not reach the call of the missing helper.
#[unsafe(no_mangle)]
static HAS_MPTCP: u32 = 0;

/// The MPTCP connection of a subflow, or null.
#[inline(always)]
pub(crate) fn connection(sk: *mut bpf_sock) -> *mut bpf_sock {
    if sk.is_null() || !is_known() {
        return core::ptr::null_mut();
    }
    // SAFETY: `sk` comes from a context. The connection outlives its subflow.
    unsafe { bpf_skc_to_mptcp_sock(sk.cast()).cast() }
}

/// Whether the kernel has that helper. Then it has the older ones for other kinds of sockets as well.
#[inline(always)]
pub(crate) fn is_known() -> bool {
    // SAFETY: a constant of the object, which the daemon may have overwritten.
    unsafe { (&raw const HAS_MPTCP).read_volatile() != 0 }
}
