//! The allocator's settings for short-lived large blocks.
#![expect(unsafe_code, reason = "a call of the C library")]

/// The size in bytes from which freed blocks return to the kernel (mallopt(3); glibc's initial
/// value).
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 128 * 1024;

/// Fixes the threshold at which freed blocks return to the kernel. At start the daemon reads the
/// kernel's BTF, which has megabytes; glibc then raises its dynamic threshold and keeps such
/// blocks: 24 MiB instead of 11.
pub(crate) fn tune_malloc() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: passes two numbers, and the C library refuses unknown values. No other thread
        // runs.
        let _refused = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE) };
    }
}

/// Returns freed memory to the kernel. The start needs more than the daemon does later.
pub(crate) fn release_freed() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: the call takes a number and only changes the allocator, which locks itself.
        let _released = unsafe { libc::malloc_trim(0) };
    }
}
