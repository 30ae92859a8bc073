//! Connections on one node, from socket to socket: a message is put into the receive queue of the
//! connection's other end, and the TCP stack is left out.
//!
//! What keeps this from changing what applications see:
//!
//! * **Order**: a direction begins with TCP, and is redirected from a message on before which the
//!   reader has read everything. It may leave for TCP at any time and never comes back.
//! * **Bounds**: a direction has a budget of bytes, which a message of the other one renews as soon as
//!   the reader's queue is empty. When it is spent, the connection goes back to TCP and its
//!   back-pressure, and its sockets out of the map.
//! * **Calls**: of redirected bytes only `recvmsg(2)` and `poll(2)` know. So nothing is redirected to
//!   an application that blocks in its calls, or that splices.
//! * **Identity**: a socket is found by its connection and the network namespaces that it belongs to,
//!   not by addresses alone. Between Pods, each end's address must be in `local_pod_ips` as that of
//!   the Pod whose namespace the socket is in.
//!
//! A socket becomes a candidate in `connect`, when its namespace and its owner are known, and is
//! enrolled when the connection is established, the only moment at which the kernel takes one.

use core::hint::black_box;

use aya_ebpf::{
    bindings::{
        BPF_ANY, BPF_F_INGRESS, BPF_SOCK_OPS_RTT_CB_FLAG, bpf_sock, bpf_sock_ops,
        sk_action::{SK_DROP, SK_PASS},
        sk_msg_md,
    },
    cty::c_void,
    helpers::{
        bpf_map_delete_elem, bpf_msg_redirect_hash, bpf_sk_storage_delete, bpf_sk_storage_get,
        bpf_sock_hash_update, bpf_sock_ops_cb_flags_set,
    },
    programs::{FEntryContext, SkMsgContext},
};
use sluice_abi::{End, Flow, Lane, Pair, Passage, Reason};

use crate::{
    context::read,
    count::count,
    kernel,
    maps::{self, FLOWS, LANES, SOCK_PAIR_MAP, SPLICERS},
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

/// The connecting end is established: enrol it, if it is a candidate, has sent nothing, and suits.
#[inline(always)]
pub(crate) fn enrol_client(ops: *mut bpf_sock_ops, pair_in: impl FnOnce(u64) -> Option<Pair>) {
    let sk = read!(ops, __bindgen_anon_2.sk);
    let Some(lane) = lane(sk.cast()).filter(|_| kernel::is_known()) else {
        return;
    };
    // Data in the SYN (TCP Fast Open) went through TCP.
    let silent = read!(ops, data_segs_out) == 0;
    let Some(pair) = pair_in(lane.pair.cookie).filter(|_| silent) else {
        pass_over(sk);
        return;
    };
    // The same ports may have been used before: what is known of that connection ends here.
    let fresh = FLOWS.insert(pair, Flow::of_client(address(sk)), u64::from(BPF_ANY));
    let Some(flow) = maps::flow(pair).filter(|_| fresh.is_ok()) else {
        pass_over(sk);
        return;
    };
    let (own, _) = flow.sockets(End::CLIENT);
    if kernel::is_nonblocking(own) != Some(true) {
        count(Reason::AccelerationBlocking);
    } else if enrol(ops, (sk, own), Lane::new(pair, End::CLIENT)) {
        return;
    }
    let _absent = FLOWS.remove(pair);
    pass_over(sk);
}

/// The accepting end is established: enrol it, if the other end is.
#[inline(always)]
pub(crate) fn enrol_server(ops: *mut bpf_sock_ops, pair: Pair) {
    let sk = read!(ops, __bindgen_anon_2.sk);
    if sk.is_null() || !kernel::is_known() {
        return;
    }
    let Some(flow) = maps::flow(pair) else {
        return;
    };
    flow.meet_server(address(sk));
    // What is read back is a number to the verifier, which lets nobody count from a socket.
    let (own, _) = black_box(&mut *flow).sockets(End::PROXY);
    if !enrol(ops, (sk, own), Lane::new(pair, End::PROXY)) {
        flow.leave();
        pass_over(sk);
    }
}

/// `false` if the socket cannot be taken: the kernel refuses upper layers (kTLS), and there may be no
/// memory.
#[inline(always)]
fn enrol(ops: *mut bpf_sock_ops, (sk, own): (*mut bpf_sock, u64), mut lane: Lane) -> bool {
    if kernel::lends_pages(own) || !keep(sk, lane) {
        return false;
    }
    let map = (&raw const SOCK_PAIR_MAP).cast_mut().cast();
    // SAFETY: the context is the kernel's, the key is on the stack for the call.
    let status =
        unsafe { bpf_sock_hash_update(ops, map, (&raw mut lane).cast(), u64::from(BPF_ANY)) };
    if status != 0 {
        count(Reason::AccelerationRefused);
        return false;
    }
    follow(ops);
    true
}

/// Lets the kernel tell of acknowledged data, at most once in a round trip. It never ends, because
/// others may have asked for it as well.
#[inline(always)]
fn follow(ops: *mut bpf_sock_ops) {
    let flags = read!(ops, bpf_sock_ops_cb_flags) | BPF_SOCK_OPS_RTT_CB_FLAG;
    // SAFETY: the context is the kernel's. Flags that it does not know it leaves out.
    let _unknown = unsafe { bpf_sock_ops_cb_flags_set(ops, flags.cast_signed()) };
}

/// A message is sent on an enrolled socket.
#[inline(always)]
pub(crate) fn send(ctx: &SkMsgContext) -> u32 {
    if !kernel::is_known() {
        return SK_PASS;
    }
    let Some(lane) = lane(read!(ctx.msg, __bindgen_anon_3.sk).cast()) else {
        return SK_PASS;
    };
    let Some(flow) = maps::flow(lane.pair) else {
        // Evicted: TCP goes on where the redirected bytes ended.
        return SK_PASS;
    };
    let size = read!(ctx.msg, size);
    renew(&lane, flow, size);
    let goes = match flow.take(lane.end, size) {
        Passage::Redirect => is_heard(&lane, flow),
        Passage::Begin => is_heard(&lane, flow) && may_begin(&lane, flow),
        Passage::Spent => {
            count(Reason::AccelerationSpent);
            false
        }
        Passage::Tcp => false,
        Passage::Nowhere => return SK_DROP,
    };
    if goes {
        redirect(ctx.msg, lane);
    }
    SK_PASS
}

/// Renews the budget of a direction if its reader has taken everything out of its queue.
#[inline(always)]
fn renew(lane: &Lane, flow: &mut Flow, size: u32) {
    if !flow.may_renew(lane.end, size) {
        return;
    }
    let (_, other) = flow.sockets(lane.end);
    if !kernel::has_unread(other) {
        flow.renew(lane.end);
    }
}

/// Whether the application at the other end would find what is put into its queue. Proxies would.
#[inline(always)]
fn is_heard(lane: &Lane, flow: &mut Flow) -> bool {
    if !lane.is_within_a_pod() {
        return true;
    }
    let (_, other) = flow.sockets(lane.end);
    match kernel::is_nonblocking(other) {
        Some(true) => true,
        Some(false) => {
            leave(flow, Reason::AccelerationBlocking);
            false
        }
        // It was not accepted yet.
        None => false,
    }
}

/// Whether a direction may be redirected from this message on.
#[inline(always)]
fn may_begin(lane: &Lane, flow: &mut Flow) -> bool {
    let (own, other) = flow.sockets(lane.end);
    // One that blocks while it reads would be told `EAGAIN` when it is woken for nothing.
    if lane.is_within_a_pod() && kernel::is_nonblocking(own) != Some(true) {
        leave(flow, Reason::AccelerationBlocking);
        return false;
    }
    if !kernel::has_read_all(other, own) {
        return false;
    }
    // Before the message is on its way: whoever takes the sockets out of the map asks for it.
    flow.begin(lane.end);
    count(Reason::Accelerated);
    true
}

/// Lets TCP have a connection, and tells why.
#[inline(always)]
fn leave(flow: &mut Flow, why: Reason) {
    flow.leave();
    count(why);
}

/// Puts the message into the other end's queue; if there is none, TCP carries it, and all after it.
#[inline(always)]
fn redirect(msg: *mut sk_msg_md, lane: Lane) {
    let mut peer = lane.other();
    let map = (&raw const SOCK_PAIR_MAP).cast_mut().cast();
    // SAFETY: the context is the kernel's, the key is on the stack for the call.
    let verdict = unsafe {
        bpf_msg_redirect_hash(msg, map, (&raw mut peer).cast(), u64::from(BPF_F_INGRESS))
    };
    if verdict != i64::from(SK_PASS)
        && let Some(flow) = maps::flow(lane.pair)
    {
        leave(flow, Reason::AccelerationPeerMissing);
    }
}

/// What an enrolled socket sent by TCP was acknowledged: if its connection has left, both ends are taken
/// out of the map, which would go on to copy every message once more than TCP alone does.
///
/// What is in a queue when its socket leaves the map is lost, so nothing may be in one, or on its way
/// to one.
#[inline(always)]
pub(crate) fn settle(ops: *mut bpf_sock_ops) {
    if !kernel::is_known() {
        return;
    }
    let sk = read!(ops, __bindgen_anon_2.sk);
    let Some(lane) = lane(sk.cast()) else {
        return;
    };
    let Some(flow) = maps::flow(lane.pair) else {
        return;
    };
    if !flow.has_left() {
        return;
    }
    if is_busy(flow, lane.end) || is_busy(flow, lane.other().end) {
        return;
    }
    // The other end may be told at the same time: one of them does it.
    if FLOWS.remove(lane.pair).is_err() {
        return;
    }
    take_out(lane.other());
    take_out(lane);
    pass_over(sk);
    count(Reason::AccelerationLeft);
}

/// Whether something is unread at an end, or is being redirected from it: by a call that began before the
/// connection left.
#[inline(always)]
fn is_busy(flow: &mut Flow, end: End) -> bool {
    let (own, _) = flow.sockets(end);
    kernel::has_unread(own) || (flow.may_be_redirecting(end) && !kernel::is_idle(own))
}

/// Takes a socket out of the map, if it is there.
#[inline(always)]
fn take_out(mut lane: Lane) {
    let map = (&raw const SOCK_PAIR_MAP).cast_mut().cast();
    // SAFETY: the key is on the stack for the call.
    let _gone = unsafe { bpf_map_delete_elem(map, (&raw mut lane).cast()) };
}

/// An application is about to splice from a TCP socket: the kernel does not look into the queue of
/// redirected messages then. If there are some, the connection cannot go on; if not, TCP carries what
/// comes. No application of the Pod is accelerated any more.
#[inline(always)]
pub(crate) fn spliced(ctx: &FEntryContext) {
    if !kernel::is_known() {
        return;
    }
    let sk = kernel::socket_of(ctx.arg::<*const c_void>(0));
    let Some(lane) = lane(sk) else {
        return;
    };
    if lane.is_within_a_pod() {
        let _full = SPLICERS.insert(lane.pair.cookie, 0, 0);
    }
    let Some(flow) = maps::flow(lane.pair) else {
        return;
    };
    if !flow.is_leaving() {
        leave(flow, Reason::AccelerationSpliced);
    }
    let (own, _) = flow.sockets(lane.end);
    if kernel::has_unread(own) {
        flow.break_off();
        count(Reason::AccelerationBroken);
    }
}

/// Whether an application in a network namespace splices.
#[inline(always)]
pub(crate) fn splices(cookie: u64) -> bool {
    SPLICERS.get_ptr(cookie).is_some()
}

/// Whether a socket is an end of an accelerated connection.
#[inline(always)]
pub(crate) fn is_enrolled(sk: *mut bpf_sock) -> bool {
    lane(sk.cast()).is_some_and(|lane| lane.pair.is_known())
}

/// A socket's address in the kernel.
#[inline(always)]
fn address(sk: *mut bpf_sock) -> u64 {
    sk.expose_provenance() as u64
}

/// The lane of a socket, if it has one.
#[inline(always)]
fn lane(sk: *mut c_void) -> Option<Lane> {
    if sk.is_null() {
        return None;
    }
    // SAFETY: the storage belongs to the socket, which lives as long as the program runs on it.
    unsafe {
        let found = bpf_sk_storage_get(lanes(), sk, core::ptr::null_mut(), 0);
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
