//! How the allocator treats what is needed for a moment.
#![expect(unsafe_code, reason = "a call of the C library")]

/// Bytes from which on a block is given back to the kernel when it is freed (mallopt(3); where glibc
/// begins).
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 128 * 1024;

/// Lets large blocks be given back always. At the start the kernel's BTF is read, which has megabytes;
/// glibc takes a block of that size for a sign that more of them come, and keeps it: 24 MiB in place of
/// 11.
pub(crate) fn tune_malloc() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: two numbers, of which the C library refuses what it does not know. No other thread runs.
        let _refused = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE) };
    }
}
