//! MPTCP: the programs see the first subflow connect, and the caller holds the connection to which
//! that subflow belongs.

use aya_ebpf::{bindings::bpf_sock, helpers::bpf_skc_to_mptcp_sock};

/// Whether the kernel tells the two apart (Linux 5.19, with MPTCP). Written by the daemon before the programs
/// are loaded; where it is zero, the verifier never comes to the call that the kernel lacks.
#[unsafe(no_mangle)]
static HAS_MPTCP: u32 = 0;

/// The connection that a socket is a subflow of, or null.
#[inline(always)]
pub(crate) fn connection(sk: *mut bpf_sock) -> *mut bpf_sock {
    // SAFETY: a constant of the object, which the daemon may have overwritten.
    if sk.is_null() || unsafe { (&raw const HAS_MPTCP).read_volatile() } == 0 {
        return core::ptr::null_mut();
    }
    // SAFETY: `sk` comes from a context. The connection outlives its subflow.
    unsafe { bpf_skc_to_mptcp_sock(sk.cast()).cast() }
}
