//! Socket storage (`BPF_MAP_TYPE_SK_STORAGE`): one value for each socket, which the kernel removes with
//! the socket.

use aya_ebpf::{
    btf_maps::SkStorage,
    cty::c_void,
    helpers::{bpf_sk_storage_delete, bpf_sk_storage_get},
};

/// The operations on a map of values for sockets. A socket comes from a context or from a kernel
/// structure that the verifier trusts.
#[expect(
    clippy::mut_from_ref,
    reason = "the map names the storage, and does not own the values of the sockets"
)]
pub(crate) trait SocketStorage<T> {
    /// The value of a socket. `sk` may be null (`sock_ops` without a full socket).
    fn load<S>(&'static self, sk: *mut S) -> Option<T>;
    /// The value itself, to be changed. The socket is locked, or nothing else changes the value.
    fn get_mut<S>(&'static self, sk: *mut S) -> Option<&'static mut T>;
    /// The value, created as `value` if there is none. `None` if `sk` is null, or if there is no memory.
    fn get_or_insert<S>(&'static self, sk: *mut S, value: T) -> Option<&'static mut T>;
    /// Creates or replaces the value of a socket. `false` if `sk` is null, or if there is no memory.
    fn store<S>(&'static self, sk: *mut S, value: T) -> bool;
    /// Removes the value of a socket, if there is one. `sk` is not null.
    fn remove<S>(&'static self, sk: *mut S);
}

impl<T: Copy> SocketStorage<T> for SkStorage<T> {
    #[inline(always)]
    fn load<S>(&'static self, sk: *mut S) -> Option<T> {
        if sk.is_null() {
            return None;
        }
        // SAFETY: the verifier accepts only sockets; the storage outlives the program.
        unsafe {
            let found = bpf_sk_storage_get(map(self), sk.cast(), core::ptr::null_mut(), 0);
            found.cast::<T>().as_ref().copied()
        }
    }

    #[inline(always)]
    fn get_mut<S>(&'static self, sk: *mut S) -> Option<&'static mut T> {
        if sk.is_null() {
            return None;
        }
        // SAFETY: as in `load`.
        unsafe {
            let found = bpf_sk_storage_get(map(self), sk.cast(), core::ptr::null_mut(), 0);
            found.cast::<T>().as_mut()
        }
    }

    #[inline(always)]
    fn get_or_insert<S>(&'static self, sk: *mut S, mut value: T) -> Option<&'static mut T> {
        const CREATE: u64 = 1; // BPF_SK_STORAGE_GET_F_CREATE
        if sk.is_null() {
            return None;
        }
        let initial = (&raw mut value).cast::<c_void>();
        // SAFETY: as in `load`; the helper copies the initial value.
        unsafe {
            let slot = bpf_sk_storage_get(map(self), sk.cast(), initial, CREATE);
            slot.cast::<T>().as_mut()
        }
    }

    #[inline(always)]
    fn store<S>(&'static self, sk: *mut S, value: T) -> bool {
        let Some(slot) = self.get_or_insert(sk, value) else {
            return false;
        };
        // A socket that connects again already has storage.
        *slot = value;
        true
    }

    #[inline(always)]
    fn remove<S>(&'static self, sk: *mut S) {
        // SAFETY: as in `load`; the helper accepts absent storage.
        let _absent = unsafe { bpf_sk_storage_delete(map(self), sk.cast()) };
    }
}

#[inline(always)]
fn map<T>(storage: &'static SkStorage<T>) -> *mut c_void {
    (&raw const *storage).cast_mut().cast()
}
