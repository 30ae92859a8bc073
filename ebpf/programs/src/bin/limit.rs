//! The limit of acceleration: each message of each TCP connection in a cgroup goes to the queue of the
//! connection's other end, and nothing is checked. A variant of the benchmark; it is no part of the
//! daemon's object.
//!
//! It keeps neither the order of bytes nor their bounds, and mistakes equal connections of two network
//! namespaces for one. The benchmark has no such connections.
#![no_std]
#![no_main]

use aya_ebpf::{
    bindings::{
        BPF_F_INGRESS, BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB,
        bpf_sock_ops, sk_action::SK_PASS, sk_msg_md,
    },
    helpers::{bpf_msg_redirect_hash, bpf_sock_hash_update},
    macros::{map, sk_msg, sock_ops},
    maps::SockHash,
    programs::{SkMsgContext, SockOpsContext},
};

/// An address in four words in network byte order, IPv4 in its v4-mapped form, and a port in host byte
/// order.
type End = [u32; 5];
/// The local and the remote end of a socket.
type Key = [End; 2];

/// `AF_INET`.
const AF_INET: u32 = 2;
/// The third word of a v4-mapped address.
const MAPPED: u32 = 0xffff_u32.to_be();
/// `BPF_ANY`: replace an existing entry.
const REPLACE: u64 = 0;

/// Every established socket, by its ends.
#[map(name = "sockets")]
static SOCKETS: SockHash<Key> = SockHash::with_max_entries(65_536, 0);

/// Reads one field of the context.
macro_rules! read {
    ($ctx:expr, $field:ident $([$index:literal])?) => {{
        let context = $ctx.cast_const();
        // SAFETY: the kernel passes a valid context, and the verifier checks every offset. Volatile:
        // LLVM would merge neighbouring reads, which the verifier rejects.
        unsafe { (&raw const (*context).$field$([$index])?).read_volatile() }
    }};
}

/// The four words of a field.
macro_rules! read_v6 {
    ($ctx:expr, $field:ident) => {
        [
            read!($ctx, $field[0]),
            read!($ctx, $field[1]),
            read!($ctx, $field[2]),
            read!($ctx, $field[3]),
        ]
    };
}

/// Both ends, from either context. The fields of both families are read: with a read in each branch, LLVM
/// would merge them into one at a computed offset.
macro_rules! ends {
    ($ctx:expr) => {{
        let family = read!($ctx, family);
        let own = (read!($ctx, local_ip4), read_v6!($ctx, local_ip6));
        let other = (read!($ctx, remote_ip4), read_v6!($ctx, remote_ip6));
        // The remote port is 32 bits in network byte order.
        let ports = (
            read!($ctx, local_port),
            u32::from_be(read!($ctx, remote_port)),
        );
        [end(family, own, ports.0), end(family, other, ports.1)]
    }};
}

#[inline(always)]
fn end(family: u32, (v4, [a, b, c, d]): (u32, [u32; 4]), port: u32) -> End {
    if family == AF_INET {
        [0, 0, MAPPED, v4, port]
    } else {
        [a, b, c, d, port]
    }
}

/// A socket is established: it joins the map.
#[sock_ops]
fn limit_sock_ops(ctx: SockOpsContext) -> u32 {
    let ops: *mut bpf_sock_ops = ctx.ops;
    if matches!(
        read!(ops, op),
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB | BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB
    ) {
        let mut key: Key = ends!(ops);
        let map = (&raw const SOCKETS).cast_mut().cast();
        // SAFETY: the context is the kernel's; the key stays on the stack during the call.
        let _full = unsafe { bpf_sock_hash_update(ops, map, (&raw mut key).cast(), REPLACE) };
    }
    1
}

/// A message: it goes to the other end. Without one in the map, TCP carries it.
#[sk_msg]
fn limit_msg(ctx: SkMsgContext) -> u32 {
    let msg: *mut sk_msg_md = ctx.msg;
    let [own, other]: Key = ends!(msg);
    let mut key: Key = [other, own];
    let map = (&raw const SOCKETS).cast_mut().cast();
    // SAFETY: the context is the kernel's; the key stays on the stack during the call.
    let _absent =
        unsafe { bpf_msg_redirect_hash(msg, map, (&raw mut key).cast(), u64::from(BPF_F_INGRESS)) };
    SK_PASS
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
