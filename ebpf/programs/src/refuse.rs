//! Refusals of a system call with the error that the kernel itself would return.

use aya_ebpf::helpers::generated::bpf_set_retval;

use crate::DENY;

/// `EINVAL`.
const EINVAL: i32 = 22;

/// Whether programs can set the result of a call (Linux 5.18). The daemon sets it before it loads the
/// programs; the verifier does not reach what it excludes.
#[unsafe(no_mangle)]
static HAS_SET_RETVAL: u32 = 0;

/// Refuses with `EINVAL`, or with `EPERM` on an older kernel.
#[inline(always)]
pub(crate) fn with_einval() -> i32 {
    // SAFETY: a constant of the object, which the daemon may have overwritten.
    if unsafe { (&raw const HAS_SET_RETVAL).read_volatile() } != 0 {
        // SAFETY: the helper has no pointers.
        let _always_succeeds = unsafe { bpf_set_retval(-EINVAL) };
    }
    DENY
}
