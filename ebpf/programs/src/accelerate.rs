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
use sluice_abi::{ConnKey, Flow, Reason, SendVerdict, SockKey, SockRole};

use crate::{
    context::read,
    count::count,
    kread,
    maps::{self, ACCEL_FLOWS, ACCEL_SOCK, SOCK_PAIR_MAP, SPLICE_NETNS},
};

/// Marks a socket that connects as a candidate. The rest of its lane is not known yet.
#[inline(always)]
pub(crate) fn mark_candidate(sk: *mut bpf_sock, cookie: u64) {
    set_sock_key(sk, SockKey::pending(cookie));
}

/// Takes the mark away, if there is one.
#[inline(always)]
pub(crate) fn clear_candidate(sk: *mut bpf_sock) {
    // SAFETY: `sk` comes from a context; absence is an answer.
    let _absent = unsafe { bpf_sk_storage_delete(accel_sock(), sk.cast()) };
}

/// The connecting end is established: enrol it, if it is a candidate, has sent nothing, and suits.
#[inline(always)]
pub(crate) fn add_client_to_sockhash(
    ops: *mut bpf_sock_ops,
    conn_in: impl FnOnce(u64) -> Option<ConnKey>,
) {
    let sk = read!(ops, __bindgen_anon_2.sk);
    let Some(sock_key) = sock_key(sk.cast()).filter(|_| kread::offsets_valid()) else {
        return;
    };
    // Data in the SYN (TCP Fast Open) went through TCP.
    let silent = read!(ops, data_segs_out) == 0;
    let Some(conn) = conn_in(sock_key.conn.cookie).filter(|_| silent) else {
        clear_candidate(sk);
        return;
    };
    // The same ports may have been used before: what is known of that connection ends here.
    let fresh = ACCEL_FLOWS.insert(conn, Flow::new(sock_addr(sk)), u64::from(BPF_ANY));
    let Some(flow) = maps::flow(conn).filter(|_| fresh.is_ok()) else {
        clear_candidate(sk);
        return;
    };
    let (own, _) = flow.sockets(SockRole::CLIENT);
    if kread::is_nonblocking(own) != Some(true) {
        count(Reason::AccelSkippedBlocking);
    } else if add_to_sockhash(ops, (sk, own), SockKey::new(conn, SockRole::CLIENT)) {
        return;
    }
    let _absent = ACCEL_FLOWS.remove(conn);
    clear_candidate(sk);
}

/// The accepting end is established: enrol it, if the other end is.
#[inline(always)]
pub(crate) fn add_server_to_sockhash(ops: *mut bpf_sock_ops, conn: ConnKey) {
    let sk = read!(ops, __bindgen_anon_2.sk);
    if sk.is_null() || !kread::offsets_valid() {
        return;
    }
    let Some(flow) = maps::flow(conn) else {
        return;
    };
    flow.set_server_sock(sock_addr(sk));
    // What is read back is a number to the verifier, which lets nobody count from a socket.
    let (own, _) = black_box(&mut *flow).sockets(SockRole::SERVER);
    if !add_to_sockhash(ops, (sk, own), SockKey::new(conn, SockRole::SERVER)) {
        flow.start_drain();
        clear_candidate(sk);
    }
}

/// `false` if the socket cannot be taken: the kernel refuses upper layers (kTLS), and there may be no
/// memory.
#[inline(always)]
fn add_to_sockhash(
    ops: *mut bpf_sock_ops,
    (sk, own): (*mut bpf_sock, u64),
    mut sock_key: SockKey,
) -> bool {
    if kread::has_so_zerocopy(own) || !set_sock_key(sk, sock_key) {
        return false;
    }
    let map = (&raw const SOCK_PAIR_MAP).cast_mut().cast();
    // SAFETY: the context is the kernel's, the key is on the stack for the call.
    let status =
        unsafe { bpf_sock_hash_update(ops, map, (&raw mut sock_key).cast(), u64::from(BPF_ANY)) };
    if status != 0 {
        count(Reason::AccelSockhashFailed);
        return false;
    }
    enable_rtt_cb(ops);
    true
}

/// Lets the kernel tell of acknowledged data, at most once in a round trip. It never ends, because
/// others may have asked for it as well.
#[inline(always)]
fn enable_rtt_cb(ops: *mut bpf_sock_ops) {
    let flags = read!(ops, bpf_sock_ops_cb_flags) | BPF_SOCK_OPS_RTT_CB_FLAG;
    // SAFETY: the context is the kernel's. Flags that it does not know it leaves out.
    let _unknown = unsafe { bpf_sock_ops_cb_flags_set(ops, flags.cast_signed()) };
}

/// A message is sent on an enrolled socket.
#[inline(always)]
pub(crate) fn send(ctx: &SkMsgContext) -> u32 {
    if !kread::offsets_valid() {
        return SK_PASS;
    }
    let Some(sock_key) = sock_key(read!(ctx.msg, __bindgen_anon_3.sk).cast()) else {
        return SK_PASS;
    };
    let Some(flow) = maps::flow(sock_key.conn) else {
        // Evicted: TCP goes on where the redirected bytes ended.
        return SK_PASS;
    };
    let size = read!(ctx.msg, size);
    renew(&sock_key, flow, size);
    let goes = match flow.account(sock_key.role, size) {
        SendVerdict::Redirect => peer_is_nonblocking(&sock_key, flow),
        SendVerdict::StartRedirect => {
            peer_is_nonblocking(&sock_key, flow) && can_start(&sock_key, flow)
        }
        SendVerdict::WindowExceeded => {
            count(Reason::AccelStoppedWindow);
            false
        }
        SendVerdict::Pass => false,
        SendVerdict::Drop => return SK_DROP,
    };
    if goes {
        redirect(ctx.msg, sock_key);
    }
    SK_PASS
}

/// Renews the budget of a direction if its reader has taken everything out of its queue.
#[inline(always)]
fn renew(sock_key: &SockKey, flow: &mut Flow, size: u32) {
    if !flow.may_renew(sock_key.role, size) {
        return;
    }
    let (_, other) = flow.sockets(sock_key.role);
    if !kread::has_unread(other) {
        flow.renew(sock_key.role);
    }
}

/// Whether the application at the other end would find what is put into its queue. Proxies would.
#[inline(always)]
fn peer_is_nonblocking(sock_key: &SockKey, flow: &mut Flow) -> bool {
    if !sock_key.is_intra_pod() {
        return true;
    }
    let (_, other) = flow.sockets(sock_key.role);
    match kread::is_nonblocking(other) {
        Some(true) => true,
        Some(false) => {
            drain(flow, Reason::AccelSkippedBlocking);
            false
        }
        // It was not accepted yet.
        None => false,
    }
}

/// Whether a direction may be redirected from this message on.
#[inline(always)]
fn can_start(sock_key: &SockKey, flow: &mut Flow) -> bool {
    let (own, other) = flow.sockets(sock_key.role);
    // One that blocks while it reads would be told `EAGAIN` when it is woken for nothing.
    if sock_key.is_intra_pod() && kread::is_nonblocking(own) != Some(true) {
        drain(flow, Reason::AccelSkippedBlocking);
        return false;
    }
    if !kread::has_read_all(other, own) {
        return false;
    }
    // Before the message is on its way: whoever takes the sockets out of the map asks for it.
    flow.mark_redirected(sock_key.role);
    count(Reason::AccelStarted);
    true
}

/// Lets TCP have a connection, and tells why.
#[inline(always)]
fn drain(flow: &mut Flow, why: Reason) {
    flow.start_drain();
    count(why);
}

/// Puts the message into the other end's queue; if there is none, TCP carries it, and all after it.
#[inline(always)]
fn redirect(msg: *mut sk_msg_md, sock_key: SockKey) {
    let mut peer = sock_key.peer();
    let map = (&raw const SOCK_PAIR_MAP).cast_mut().cast();
    // SAFETY: the context is the kernel's, the key is on the stack for the call.
    let verdict = unsafe {
        bpf_msg_redirect_hash(msg, map, (&raw mut peer).cast(), u64::from(BPF_F_INGRESS))
    };
    if verdict != i64::from(SK_PASS)
        && let Some(flow) = maps::flow(sock_key.conn)
    {
        drain(flow, Reason::AccelStoppedNoPeer);
    }
}

/// What an enrolled socket sent by TCP was acknowledged: if its connection has left, both ends are taken
/// out of the map, which would go on to copy every message once more than TCP alone does.
///
/// What is in a queue when its socket leaves the map is lost, so nothing may be in one, or on its way
/// to one.
#[inline(always)]
pub(crate) fn remove_if_drained(ops: *mut bpf_sock_ops) {
    if !kread::offsets_valid() {
        return;
    }
    let sk = read!(ops, __bindgen_anon_2.sk);
    let Some(sock_key) = sock_key(sk.cast()) else {
        return;
    };
    let Some(flow) = maps::flow(sock_key.conn) else {
        return;
    };
    if !flow.poll_drained() {
        return;
    }
    if has_inflight(flow, sock_key.role) || has_inflight(flow, sock_key.peer().role) {
        return;
    }
    // The other end may be told at the same time: one of them does it.
    if ACCEL_FLOWS.remove(sock_key.conn).is_err() {
        return;
    }
    sockhash_delete(sock_key.peer());
    sockhash_delete(sock_key);
    clear_candidate(sk);
    count(Reason::AccelDrained);
}

/// Whether something is unread at an end, or is being redirected from it: by a call that began before the
/// connection left.
#[inline(always)]
fn has_inflight(flow: &mut Flow, role: SockRole) -> bool {
    let (own, _) = flow.sockets(role);
    kread::has_unread(own) || (flow.was_redirected(role) && !kread::is_idle(own))
}

/// Takes a socket out of the map, if it is there.
#[inline(always)]
fn sockhash_delete(mut sock_key: SockKey) {
    let map = (&raw const SOCK_PAIR_MAP).cast_mut().cast();
    // SAFETY: the key is on the stack for the call.
    let _gone = unsafe { bpf_map_delete_elem(map, (&raw mut sock_key).cast()) };
}

/// An application is about to splice from a TCP socket: the kernel does not look into the queue of
/// redirected messages then. If there are some, the connection cannot go on; if not, TCP carries what
/// comes. No application of the Pod is accelerated any more.
#[inline(always)]
pub(crate) fn on_splice_read(ctx: &FEntryContext) {
    if !kread::offsets_valid() {
        return;
    }
    let sk = kread::sock_from_socket(ctx.arg::<*const c_void>(0));
    let Some(sock_key) = sock_key(sk) else {
        return;
    };
    if sock_key.is_intra_pod() {
        let _full = SPLICE_NETNS.insert(sock_key.conn.cookie, 0, 0);
    }
    let Some(flow) = maps::flow(sock_key.conn) else {
        return;
    };
    if !flow.is_draining() {
        drain(flow, Reason::AccelStoppedSplice);
    }
    let (own, _) = flow.sockets(sock_key.role);
    if kread::has_unread(own) {
        flow.abort();
        count(Reason::AccelAborted);
    }
}

/// Whether an application in a network namespace splices.
#[inline(always)]
pub(crate) fn netns_splices(cookie: u64) -> bool {
    SPLICE_NETNS.get_ptr(cookie).is_some()
}

/// Whether a socket is an end of an accelerated connection.
#[inline(always)]
pub(crate) fn is_in_sockhash(sk: *mut bpf_sock) -> bool {
    sock_key(sk.cast()).is_some_and(|sock_key| sock_key.conn.is_complete())
}

/// A socket's address in the kernel.
#[inline(always)]
fn sock_addr(sk: *mut bpf_sock) -> u64 {
    sk.expose_provenance() as u64
}

/// The lane of a socket, if it has one.
#[inline(always)]
fn sock_key(sk: *mut c_void) -> Option<SockKey> {
    if sk.is_null() {
        return None;
    }
    // SAFETY: the storage belongs to the socket, which lives as long as the program runs on it.
    unsafe {
        let found = bpf_sk_storage_get(accel_sock(), sk, core::ptr::null_mut(), 0);
        found.cast::<SockKey>().as_ref().copied()
    }
}

/// Stores the lane of a socket. `false` if there is no memory for it.
#[inline(always)]
fn set_sock_key(sk: *mut bpf_sock, sock_key: SockKey) -> bool {
    const CREATE: u64 = 1; // BPF_SK_STORAGE_GET_F_CREATE
    if sk.is_null() {
        return false;
    }
    let mut initial = sock_key;
    // SAFETY: as in `sock_key`; `initial` is copied by the helper.
    unsafe {
        let value = (&raw mut initial).cast::<c_void>();
        let slot = bpf_sk_storage_get(accel_sock(), sk.cast(), value, CREATE).cast::<SockKey>();
        let Some(slot) = slot.as_mut() else {
            return false;
        };
        *slot = sock_key;
    }
    true
}

#[inline(always)]
fn accel_sock() -> *mut c_void {
    (&raw const ACCEL_SOCK).cast_mut().cast()
}
