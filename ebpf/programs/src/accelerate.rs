//! Connections on one node, from socket to socket: a message is put into the receive queue of the
//! connection's other end, and the TCP stack is left out.
//!
//! Three things keep this from changing what applications see. **Order**: a direction is redirected
//! only while all its earlier bytes were; it may leave for TCP at any time and never comes back.
//! **Bounds**: a direction has a budget of bytes, which a message of the other one renews; when it
//! is spent, TCP and its back-pressure take over. **Identity**: a socket is found by its connection
//! and the network namespaces that it belongs to, not by addresses alone.
//!
//! A socket becomes a candidate in `connect`, when its namespace and its owner are known, and is
//! enrolled when the connection is established, before its first byte.

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_F_INGRESS, bpf_sock, bpf_sock_ops, sk_action::SK_PASS, sk_msg_md},
    cty::c_void,
    helpers::{
        bpf_msg_redirect_hash, bpf_sk_storage_delete, bpf_sk_storage_get, bpf_sock_hash_update,
    },
    programs::SkMsgContext,
};
use sluice_abi::{End, Flow, Lane, Pair, Passage, Reason};

use crate::{
    context::read,
    count::count,
    maps::{FLOWS, LANES, SOCK_PAIR_MAP},
};

/// Marks a socket that connects as a candidate. The rest of its lane is not known yet.
#[inline(always)]
pub(crate) fn nominate(sk: *mut bpf_sock, cookie: u64) {
    keep(sk, Lane::candidate(cookie));
}

/// Takes the mark away, if there is one.
#[inline(always)]
pub(crate) fn pass_over(sk: *mut bpf_sock) {
    // SAFETY: `sk` comes from a context; absence is an answer.
    let _absent = unsafe { bpf_sk_storage_delete(lanes(), sk.cast()) };
}

/// The connecting end is established: enrol it, if it is a candidate and has sent nothing.
#[inline(always)]
pub(crate) fn enrol_client(ops: *mut bpf_sock_ops, pair_in: impl FnOnce(u64) -> Option<Pair>) {
    let sk = read!(ops, __bindgen_anon_2.sk);
    let Some(lane) = lane(sk) else {
        return;
    };
    // Data in the SYN (TCP Fast Open) went through TCP.
    let silent = read!(ops, data_segs_out) == 0;
    let Some(pair) = pair_in(lane.pair.cookie).filter(|_| silent) else {
        pass_over(sk);
        return;
    };
    // The same ports may have been used before: what is known of that connection ends here.
    let fresh = FLOWS.insert(pair, Flow::default(), u64::from(BPF_ANY));
    if fresh.is_ok() {
        enrol(ops, sk, Lane::new(pair, End::CLIENT));
    }
}

/// The accepting end is established: enrol it, if the other end is.
#[inline(always)]
pub(crate) fn enrol_server(ops: *mut bpf_sock_ops, pair: Pair) {
    if FLOWS.get_ptr(pair).is_some() {
        let sk = read!(ops, __bindgen_anon_2.sk);
        enrol(ops, sk, Lane::new(pair, End::PROXY));
    }
}

#[inline(always)]
fn enrol(ops: *mut bpf_sock_ops, sk: *mut bpf_sock, mut lane: Lane) {
    if !keep(sk, lane) {
        return;
    }
    let map = (&raw const SOCK_PAIR_MAP).cast_mut().cast();
    // SAFETY: the context is the kernel's, the key is on the stack for the call.
    let status =
        unsafe { bpf_sock_hash_update(ops, map, (&raw mut lane).cast(), u64::from(BPF_ANY)) };
    if status != 0 {
        // A socket with an upper layer of its own (kTLS), or no memory.
        pass_over(sk);
        count(Reason::AccelerationRefused);
    }
}

/// A message is sent on an enrolled socket.
#[inline(always)]
pub(crate) fn send(ctx: &SkMsgContext) -> u32 {
    let Some(lane) = lane(read!(ctx.msg, __bindgen_anon_3.sk)) else {
        return SK_PASS;
    };
    let Some(flow) = FLOWS.get_ptr_mut(lane.pair) else {
        // Evicted: TCP goes on where the redirected bytes ended.
        return SK_PASS;
    };
    // SAFETY: the map's values live as long as the program runs. Each direction's state is
    // written by its sender alone, whose socket is locked; a lost renewal of the other's budget
    // costs speed, not order.
    let flow = unsafe { &mut *flow };
    match flow.take(lane.end, read!(ctx.msg, size)) {
        Passage::Redirect => redirect(ctx.msg, lane, flow),
        Passage::Spent => count(Reason::AccelerationSpent),
        Passage::Tcp => {}
    }
    SK_PASS
}

/// Puts the message into the other end's queue; if there is none, TCP carries it, and all after it.
#[inline(always)]
fn redirect(msg: *mut sk_msg_md, lane: Lane, flow: &mut Flow) {
    let mut peer = lane.other();
    let map = (&raw const SOCK_PAIR_MAP).cast_mut().cast();
    // SAFETY: the context is the kernel's, the key is on the stack for the call.
    let verdict = unsafe {
        bpf_msg_redirect_hash(msg, map, (&raw mut peer).cast(), u64::from(BPF_F_INGRESS))
    };
    if verdict == i64::from(SK_PASS) {
        if flow.redirected(lane.end) {
            count(Reason::Accelerated);
        }
    } else {
        flow.leave(lane.end);
        count(Reason::AccelerationPeerMissing);
    }
}

/// The lane of a socket, if it has one.
#[inline(always)]
fn lane(sk: *mut bpf_sock) -> Option<Lane> {
    if sk.is_null() {
        return None;
    }
    // SAFETY: the storage belongs to the socket, which lives as long as the program runs on it.
    unsafe {
        let found = bpf_sk_storage_get(lanes(), sk.cast(), core::ptr::null_mut(), 0);
        found.cast::<Lane>().as_ref().copied()
    }
}

/// Stores the lane of a socket. `false` if there is no memory for it.
#[inline(always)]
fn keep(sk: *mut bpf_sock, lane: Lane) -> bool {
    const CREATE: u64 = 1; // BPF_SK_STORAGE_GET_F_CREATE
    if sk.is_null() {
        return false;
    }
    let mut initial = lane;
    // SAFETY: as in `lane`; `initial` is copied by the helper.
    unsafe {
        let value = (&raw mut initial).cast::<c_void>();
        let slot = bpf_sk_storage_get(lanes(), sk.cast(), value, CREATE).cast::<Lane>();
        let Some(slot) = slot.as_mut() else {
            return false;
        };
        *slot = lane;
    }
    true
}

#[inline(always)]
fn lanes() -> *mut c_void {
    (&raw const LANES).cast_mut().cast()
}
