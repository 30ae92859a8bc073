//! Reading the kernel's own structures, at the offsets that the daemon took from its BTF.
//!
//! A socket is named by its address in the kernel, which may be that of a socket that is gone: reading
//! it gives nonsense then, or zero, and never faults. Whoever asks must bear a wrong answer about a
//! socket that is gone.

use aya_ebpf::{cty::c_void, helpers::generated::bpf_probe_read_kernel};
use sluice_abi::KernelOffsets;

/// Written by the daemon before the programs are loaded. While it is all zero, the verifier never comes
/// to what asks for it.
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

/// `O_NONBLOCK`, on x86 and ARM (`asm-generic/fcntl.h`).
const O_NONBLOCK: u32 = 0o4000;
/// The flag in `sk_user_data` that says that it is a `sk_psock` (`SK_USER_DATA_PSOCK`), and all flags.
const IS_PSOCK: u64 = 4;
const FLAGS: u64 = 7;

/// One offset.
macro_rules! offset {
    ($member:ident) => {{
        // SAFETY: a constant of the object, which the daemon may have overwritten.
        unsafe { (&raw const KERNEL_OFFSETS.$member).read_volatile() }
    }};
}

/// Whether anything can be read at all.
#[inline(always)]
pub(crate) fn offsets_valid() -> bool {
    offset!(valid) != 0
}

/// Whether everything that `sender` gave to TCP was read by `reader`, the other end, and that something
/// was: then it is known how its application reads.
#[inline(always)]
pub(crate) fn has_read_all(reader: u64, sender: u64) -> bool {
    read_u32(sender, offset!(data_segs_out)) != 0
        && read_u32(sender, offset!(write_seq)) == read_u32(reader, offset!(copied_seq))
}

/// Whether calls on the socket's descriptor do not wait. `None` before it has one.
#[inline(always)]
pub(crate) fn is_nonblocking(socket: u64) -> Option<bool> {
    let socket_ptr = read_u64(socket, offset!(sk_socket));
    if socket_ptr == 0 {
        return None;
    }
    let file = read_u64(socket_ptr, offset!(file));
    Some(read_u32(file, offset!(f_flags)) & O_NONBLOCK != 0)
}

/// Whether the application asked to be told when its pages are free again (`SO_ZEROCOPY`).
#[inline(always)]
pub(crate) fn has_so_zerocopy(socket: u64) -> bool {
    read_u64(socket, offset!(skc_flags)) >> (offset!(zero_copy) & 63) & 1 != 0
}

/// Whether redirected messages wait in the socket's queue.
#[inline(always)]
pub(crate) fn has_unread(socket: u64) -> bool {
    psock(socket).is_some_and(|psock| !is_empty(psock))
}

/// Whether no call sends or receives on the socket.
#[inline(always)]
pub(crate) fn is_idle(socket: u64) -> bool {
    psock(socket).is_none_or(|psock| read_u32(psock, offset!(refcnt)) == 1)
}

/// The socket of what a descriptor holds.
///
/// It is read as the verifier knows it, so that helpers take it.
#[inline(always)]
pub(crate) fn sock_from_socket(socket_ptr: *const c_void) -> *mut c_void {
    let at = socket_ptr.wrapping_byte_add(offset!(sk) as usize);
    // SAFETY: `socket_ptr` is what the kernel handed out; the verifier compares the offset with its types.
    unsafe { at.cast::<*mut c_void>().read_volatile() }
}

/// What a sockhash knows of a socket.
#[inline(always)]
fn psock(socket: u64) -> Option<u64> {
    let data = read_u64(socket, offset!(sk_user_data));
    (data & IS_PSOCK != 0).then_some(data & !FLAGS)
}

/// Whether the list of messages leads back to where it begins.
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

/// A pointer, or another 64 bits.
#[inline(always)]
fn read_u64(base: u64, offset: u32) -> u64 {
    let mut value = 0_u64;
    probe_read(base, offset, (&raw mut value).cast(), 8);
    value
}

#[inline(always)]
fn probe_read(base: u64, offset: u32, to: *mut c_void, bytes: u32) {
    let from = base.wrapping_add(u64::from(offset)) as *const c_void;
    // SAFETY: `to` has as many bytes; the helper reads any address, and fills with zero what it cannot
    // read.
    let _zero = unsafe { bpf_probe_read_kernel(to, bytes, from) };
}
