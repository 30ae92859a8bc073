//! Reads of kernel structures, at the offsets from the kernel's BTF.
//!
//! The argument is the kernel address of a socket, which may be freed: a read then returns garbage or
//! zero, and never faults. Callers must tolerate a wrong result about a freed socket.

use aya_ebpf::{
    bindings::bpf_sock,
    cty::c_void,
    helpers::generated::{bpf_probe_read_kernel, bpf_skc_to_tcp_sock},
};
use sluice_abi::{CredOffsets, Event, KernelOffsets};

use crate::mptcp;

/// The daemon sets the offsets before it loads the programs. If all are zero, the verifier does not
/// reach the code that uses them.
#[unsafe(no_mangle)]
static KERNEL_OFFSETS: KernelOffsets = KernelOffsets {
    valid: 0,
    write_seq: 0,
    copied_seq: 0,
    data_segs_out: 0,
    skc_flags: 0,
    zero_copy: 0,
    sk_socket: 0,
    sk_user_data: 0,
    sk: 0,
    file: 0,
    f_flags: 0,
    ingress_msg: 0,
    refcnt: 0,
    pad: 0,
};

/// As above. Without BTF all are zero.
#[unsafe(no_mangle)]
static CRED_OFFSETS: CredOffsets = CredOffsets {
    valid: 0,
    sk_socket: 0,
    file: 0,
    f_cred: 0,
    fsuid: 0,
    fsgid: 0,
};

/// `O_NONBLOCK`, on x86 and ARM (`asm-generic/fcntl.h`).
const O_NONBLOCK: u32 = 0o4000;
/// The flag of a `sk_psock` in `sk_user_data` (`SK_USER_DATA_PSOCK`), and all flags.
const IS_PSOCK: u64 = 4;
const FLAGS: u64 = 7;

/// One offset.
macro_rules! offset {
    ($member:ident) => {
        offset!(KERNEL_OFFSETS.$member)
    };
    ($offsets:ident.$member:ident) => {{
        // SAFETY: a constant of the object, which the daemon may have overwritten.
        unsafe { (&raw const $offsets.$member).read_volatile() }
    }};
}

/// Whether [`creator`] works on this kernel.
#[inline(always)]
pub(crate) fn creds_known() -> bool {
    offset!(CRED_OFFSETS.valid) != 0
}

/// UID and GID, in the initial user namespace, of the process that made a live socket: its filesystem
/// ids at that time, as the owner match of iptables has them. No user for a socket of the kernel.
#[inline(always)]
pub(crate) fn creator(sk: *const bpf_sock) -> (u32, u32) {
    // The verifier forbids arithmetic on a socket; what the helper reads is a number to it.
    let slot = sk.expose_provenance() as u64;
    let sk = read_u64((&raw const slot).expose_provenance() as u64, 0);
    let socket_ptr = read_u64(sk, offset!(CRED_OFFSETS.sk_socket));
    let file = match socket_ptr {
        0 => 0,
        _ => read_u64(socket_ptr, offset!(CRED_OFFSETS.file)),
    };
    if file == 0 {
        return (Event::NO_UID, Event::NO_UID);
    }
    let cred = read_u64(file, offset!(CRED_OFFSETS.f_cred));
    let (uid, gid) = (offset!(CRED_OFFSETS.fsuid), offset!(CRED_OFFSETS.fsgid));
    (read_u32(cred, uid), read_u32(cred, gid))
}

/// As [`creator`], for a program at a socket's address. Loads that the verifier has checked replace the calls
/// for a TCP socket: a fifth of the time.
#[inline(always)]
pub(crate) fn creator_at_call(sk: *const bpf_sock) -> (u32, u32) {
    let tcp = if mptcp::is_known() {
        // SAFETY: `sk` comes from a context.
        unsafe { bpf_skc_to_tcp_sock(sk.cast_mut().cast()) }.cast::<c_void>()
    } else {
        core::ptr::null_mut()
    };
    if tcp.is_null() {
        return creator(sk);
    }
    let socket_ptr: *const c_void = load(tcp, offset!(CRED_OFFSETS.sk_socket));
    if socket_ptr.is_null() {
        return (Event::NO_UID, Event::NO_UID);
    }
    let file: *const c_void = load(socket_ptr, offset!(CRED_OFFSETS.file));
    if file.is_null() {
        return (Event::NO_UID, Event::NO_UID);
    }
    let cred: *const c_void = load(file, offset!(CRED_OFFSETS.f_cred));
    let (uid, gid) = (offset!(CRED_OFFSETS.fsuid), offset!(CRED_OFFSETS.fsgid));
    (load(cred, uid), load(cred, gid))
}

/// Reads a member of a structure whose type the verifier knows. A bad address reads as zero.
#[inline(always)]
fn load<T>(base: *const c_void, offset: u32) -> T {
    let at = base.wrapping_byte_add(offset as usize).cast::<T>();
    // SAFETY: the verifier compares the offset with its types, and the kernel catches a fault.
    unsafe { at.read_volatile() }
}

/// Whether the offsets are known.
#[inline(always)]
pub(crate) fn offsets_valid() -> bool {
    offset!(valid) != 0
}

/// Whether `reader` has read all TCP data of `sender`, its peer, and there was some: then the way in
/// which its application reads is known.
#[inline(always)]
pub(crate) fn has_read_all(reader: u64, sender: u64) -> bool {
    read_u32(sender, offset!(data_segs_out)) != 0
        && read_u32(sender, offset!(write_seq)) == read_u32(reader, offset!(copied_seq))
}

/// Whether the socket's descriptor is nonblocking. `None` before it has one.
#[inline(always)]
pub(crate) fn is_nonblocking(socket: u64) -> Option<bool> {
    f_flags_addr(socket).map(has_o_nonblock)
}

/// The kernel address of the flags of the socket's descriptor, which does not change until the socket is
/// closed. `None` before it has one.
#[inline(always)]
pub(crate) fn f_flags_addr(socket: u64) -> Option<u64> {
    let socket_ptr = read_u64(socket, offset!(sk_socket));
    if socket_ptr == 0 {
        return None;
    }
    let file = read_u64(socket_ptr, offset!(file));
    Some(file.wrapping_add(u64::from(offset!(f_flags))))
}

/// Whether the flags of a descriptor say that it is nonblocking now.
#[inline(always)]
pub(crate) fn has_o_nonblock(f_flags_addr: u64) -> bool {
    read_u32(f_flags_addr, 0) & O_NONBLOCK != 0
}

/// Whether the application requested zero-copy completions (`SO_ZEROCOPY`).
#[inline(always)]
pub(crate) fn has_so_zerocopy(socket: u64) -> bool {
    read_u64(socket, offset!(skc_flags)) >> (offset!(zero_copy) & 63) & 1 != 0
}

/// Whether the socket's queue has redirected messages.
#[inline(always)]
pub(crate) fn has_unread(socket: u64) -> bool {
    psock(socket).is_some_and(|psock| !is_empty(psock))
}

/// Whether no call is sending or receiving on the socket.
#[inline(always)]
pub(crate) fn is_idle(socket: u64) -> bool {
    psock(socket).is_none_or(|psock| read_u32(psock, offset!(refcnt)) == 1)
}

/// The `sock` of a `struct socket`.
///
/// A direct read keeps the verifier's type, so that helpers accept the pointer.
#[inline(always)]
pub(crate) fn sock_from_socket(socket_ptr: *const c_void) -> *mut c_void {
    let at = socket_ptr.wrapping_byte_add(offset!(sk) as usize);
    // SAFETY: `socket_ptr` comes from the kernel; the verifier compares the offset with its types.
    unsafe { at.cast::<*mut c_void>().read_volatile() }
}

/// The `sk_psock` of a socket in a sockhash.
#[inline(always)]
fn psock(socket: u64) -> Option<u64> {
    let data = read_u64(socket, offset!(sk_user_data));
    (data & IS_PSOCK != 0).then_some(data & !FLAGS)
}

/// Whether the message list is empty: its head points to itself.
#[inline(always)]
fn is_empty(psock: u64) -> bool {
    let list = psock.wrapping_add(u64::from(offset!(ingress_msg)));
    read_u64(list, 0) == list
}

#[inline(always)]
fn read_u32(base: u64, offset: u32) -> u32 {
    let mut value = 0_u32;
    probe_read(base, offset, (&raw mut value).cast(), 4);
    value
}

/// Reads a pointer, or another 64-bit value.
#[inline(always)]
fn read_u64(base: u64, offset: u32) -> u64 {
    let mut value = 0_u64;
    probe_read(base, offset, (&raw mut value).cast(), 8);
    value
}

#[inline(always)]
fn probe_read(base: u64, offset: u32, to: *mut c_void, bytes: u32) {
    let from = base.wrapping_add(u64::from(offset)) as *const c_void;
    // SAFETY: `to` has `bytes` bytes; the helper reads any address, and fills with zero if it cannot
    // read it.
    let _zero = unsafe { bpf_probe_read_kernel(to, bytes, from) };
}
