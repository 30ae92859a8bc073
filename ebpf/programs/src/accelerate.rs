//! Acceleration of connections on one node: a `sk_msg` program redirects a message to the receive queue
//! of the peer socket and bypasses the TCP stack.
//!
//! Guarantees to applications:
//!
//! * **Order**: a direction starts with TCP. Redirection starts with a message before which the
//!   receiver has read everything. It may return to TCP at any time and is never redirected again.
//! * **Bounds**: a direction has a window in bytes. A message of the other direction resets it once
//!   the receive queue is empty. When the window is exceeded, the connection returns to TCP and its
//!   back-pressure, and its sockets leave the map.
//! * **Calls**: only `recvmsg(2)` and `poll(2)` read redirected bytes. So nothing is redirected to
//!   an application that uses blocking sockets, or that calls `splice(2)`.
//! * **Identity**: the ends of a connection find each other by its addresses and the network namespaces
//!   of its ends, not by the addresses alone. Between Pods, `local_pod_ips` must map each end's address
//!   to the Pod of the socket's namespace.
//!
//! A socket becomes a candidate in `connect`, where its namespace and its owner are known. It joins the
//! sockhash when the connection is established, the only time at which the kernel permits it.

use core::hint::black_box;

use aya_ebpf::{
    bindings::{
        BPF_ANY, BPF_F_INGRESS, BPF_NOEXIST, BPF_SOCK_OPS_RTT_CB_FLAG, BPF_SOCK_OPS_STATE_CB_FLAG,
        BPF_TCP_CLOSE_WAIT, BPF_TCP_ESTABLISHED, bpf_sock, bpf_sock_ops,
        sk_action::{SK_DROP, SK_PASS},
        sk_msg_md,
    },
    cty::c_void,
    helpers::{
        bpf_ktime_get_ns, bpf_map_delete_elem, bpf_msg_redirect_hash, bpf_sock_hash_update,
        bpf_sock_ops_cb_flags_set,
    },
    programs::{FEntryContext, SkMsgContext},
};
use sluice_abi::{AccelSock, ConnKey, Flow, Reason, SendVerdict, SockKey, SockRole};

use crate::{
    context::read,
    count::count,
    kread,
    maps::{self, ACCEL_CONNS, ACCEL_FLOWS, ACCEL_SOCK, SOCK_PAIR_MAP, SPLICE_NETNS},
    sk_storage::SocketStorage as _,
};

/// Marks a connecting socket as a candidate. The addresses of its connection are not known yet. A socket
/// that had an accelerated connection before keeps its key until [`remove_reconnecting`].
#[inline(always)]
pub(crate) fn mark_candidate(sk: *mut bpf_sock, cookie: u64) {
    let candidate = AccelSock::candidate(cookie);
    if let Some(end) = ACCEL_SOCK.get_or_insert(sk, candidate)
        && !end.is_enrolled()
    {
        *end = candidate;
    }
}

/// Removes the mark of a connecting socket, if there is one.
#[inline(always)]
pub(crate) fn clear_candidate(sk: *mut bpf_sock) {
    if ACCEL_SOCK.load(sk).is_some_and(|end| !end.is_enrolled()) {
        ACCEL_SOCK.remove(sk);
    }
}

/// A socket connects. `connect(2)` with `AF_UNSPEC` has ended its earlier connection and left it in the
/// sockhash: a message of the earlier peer would reach the queue of the new connection, whose reader would
/// also read what is left there.
#[inline(always)]
pub(crate) fn remove_reconnecting(ops: *mut bpf_sock_ops) {
    // Enrolled sockets have this flag, and almost no other socket has it.
    if read!(ops, bpf_sock_ops_cb_flags) & BPF_SOCK_OPS_RTT_CB_FLAG == 0 {
        return;
    }
    let sk = read!(ops, __bindgen_anon_2.sk);
    if let Some(end) = ACCEL_SOCK.load(sk)
        && end.is_enrolled()
    {
        remove_end(sk, end);
    }
}

/// Removes an end, and returns its connection to TCP. The kernel drops what the end's queue holds.
#[inline(always)]
fn remove_end(sk: *mut bpf_sock, end: AccelSock) {
    if let Some(flow) = maps::flow(end.key) {
        flow.start_drain();
    }
    sockhash_delete(end.key);
    ACCEL_SOCK.remove(sk);
}

/// The client end is established: adds it to the sockhash if it is a suitable candidate that has sent
/// no data.
#[inline(always)]
pub(crate) fn add_client_to_sockhash(
    ops: *mut bpf_sock_ops,
    conn_in: impl FnOnce(u64) -> Option<ConnKey>,
) {
    let sk = read!(ops, __bindgen_anon_2.sk);
    let Some(candidate) = ACCEL_SOCK.load(sk).filter(|_| kread::offsets_valid()) else {
        return;
    };
    if candidate.is_enrolled() {
        // Another program's flags have hidden it from `remove_reconnecting`.
        remove_end(sk, candidate);
        return;
    }
    // Data in the SYN (TCP Fast Open) went through TCP.
    let silent = read!(ops, data_segs_out) == 0;
    let Some(conn) = conn_in(candidate.netns_cookie).filter(|_| silent) else {
        clear_candidate(sk);
        return;
    };
    // SAFETY: the helper has no arguments.
    let key = SockKey::client(unsafe { bpf_ktime_get_ns() });
    if !add_candidate(ops, AccelSock::new(key, candidate.netns_cookie), conn) {
        // An earlier connection may have used the same ports.
        let _absent = ACCEL_CONNS.remove(conn);
        ACCEL_SOCK.remove(sk);
    }
}

/// Adds the client end to the sockhash, and its connection to `accel_conns`, where the server end finds it.
#[inline(always)]
fn add_candidate(ops: *mut bpf_sock_ops, end: AccelSock, conn: ConnKey) -> bool {
    let sk = read!(ops, __bindgen_anon_2.sk);
    let flow = Flow::new(sock_addr(sk));
    // Two processors may enroll in the same nanosecond: the number is the first one's.
    let named = ACCEL_FLOWS.insert(end.key.number(), flow, u64::from(BPF_NOEXIST));
    if named.is_err() {
        return false;
    }
    let added = ACCEL_CONNS
        .insert(conn, end.key, u64::from(BPF_ANY))
        .is_ok()
        && add_client(ops, sk, end);
    if !added {
        let _absent = ACCEL_FLOWS.remove(end.key.number());
    }
    added
}

#[inline(always)]
fn add_client(ops: *mut bpf_sock_ops, sk: *mut bpf_sock, end: AccelSock) -> bool {
    let Some(flow) = maps::flow(end.key) else {
        return false;
    };
    let (own, _) = flow.sockets(SockRole::CLIENT);
    if kread::is_nonblocking(own) != Some(true) {
        count(Reason::AccelSkippedBlocking);
        return false;
    }
    add_to_sockhash(ops, (sk, own), end)
}

/// The server end is established: adds it to the sockhash if the client end is in it.
#[inline(always)]
pub(crate) fn add_server_to_sockhash(ops: *mut bpf_sock_ops, conn: ConnKey) {
    let sk = read!(ops, __bindgen_anon_2.sk);
    if sk.is_null() || !kread::offsets_valid() {
        return;
    }
    // SAFETY: the value is copied at once.
    let Some(client) = (unsafe { ACCEL_CONNS.get(conn) }).copied() else {
        return;
    };
    let end = AccelSock::new(client.peer(), conn.cookie);
    let Some(flow) = maps::flow(end.key) else {
        return;
    };
    if !flow.set_server_sock(sock_addr(sk)) {
        return;
    }
    // The verifier must see a scalar here: it permits no arithmetic on a socket pointer.
    let (own, _) = black_box(&mut *flow).sockets(SockRole::SERVER);
    if !add_to_sockhash(ops, (sk, own), end) {
        flow.start_drain();
        ACCEL_SOCK.remove(sk);
    }
}

/// `false` if the kernel does not accept the socket: an upper-layer protocol (kTLS), or no memory.
#[inline(always)]
fn add_to_sockhash(
    ops: *mut bpf_sock_ops,
    (sk, own): (*mut bpf_sock, u64),
    end: AccelSock,
) -> bool {
    if kread::has_so_zerocopy(own) || !ACCEL_SOCK.store(sk, end) {
        return false;
    }
    let mut key = end.key;
    let map = (&raw const SOCK_PAIR_MAP).cast_mut().cast();
    // SAFETY: the context is the kernel's; the key stays on the stack during the call.
    let status =
        unsafe { bpf_sock_hash_update(ops, map, (&raw mut key).cast(), u64::from(BPF_ANY)) };
    if status != 0 {
        count(Reason::AccelSockhashFailed);
        return false;
    }
    enable_callbacks(ops, end.key.role());
    true
}

/// Enables the RTT callback, at most one for each round trip, and for the client end that of state changes.
/// They are never disabled, because other programs may have enabled them as well.
#[inline(always)]
fn enable_callbacks(ops: *mut bpf_sock_ops, role: SockRole) {
    let mut flags = read!(ops, bpf_sock_ops_cb_flags) | BPF_SOCK_OPS_RTT_CB_FLAG;
    if role.const_eq(SockRole::CLIENT) {
        flags |= BPF_SOCK_OPS_STATE_CB_FLAG;
    }
    // SAFETY: the context is the kernel's. The kernel ignores flags that it does not support.
    let _unknown = unsafe { bpf_sock_ops_cb_flags_set(ops, flags.cast_signed()) };
}

/// The nanoseconds of the monotonic clock at which the connection of an accelerated client was made, if it
/// ends with this change of its state. `None` also for a client that has removed itself from the sockhash.
#[inline(always)]
pub(crate) fn begin_of_ending(ops: *mut bpf_sock_ops) -> Option<u64> {
    // The state before the change. `args[0]` has it as well, but is also the reply of another program.
    if read!(ops, state) != BPF_TCP_ESTABLISHED {
        return None;
    }
    let end = ACCEL_SOCK.load(read!(ops, __bindgen_anon_2.sk))?;
    let is_client = end.is_enrolled() && end.key.role().const_eq(SockRole::CLIENT);
    is_client.then(|| end.key.number())
}

/// `sk_msg` verdict: an accelerated socket sends a message.
#[inline(always)]
pub(crate) fn send(ctx: &SkMsgContext) -> u32 {
    if !kread::offsets_valid() {
        return SK_PASS;
    }
    let sk = read!(ctx.msg, __bindgen_anon_3.sk);
    // Without a connection, or after `shutdown(SHUT_WR)`, TCP has the answer.
    if sk.is_null() || !may_send(read!(sk, state)) {
        return SK_PASS;
    }
    let Some(end) = ACCEL_SOCK.get_mut(sk) else {
        return SK_PASS;
    };
    let Some(flow) = maps::flow(end.key) else {
        // The flow was evicted: TCP continues where the redirected bytes ended.
        return SK_PASS;
    };
    let size = read!(ctx.msg, size);
    renew(end, flow, size);
    let goes = match flow.account(end.key.role(), &mut end.window, size) {
        SendVerdict::Redirect => peer_is_nonblocking(end, flow),
        SendVerdict::StartRedirect => peer_is_nonblocking(end, flow) && can_start(end, flow),
        SendVerdict::WindowExceeded => {
            count(Reason::AccelStoppedWindow);
            false
        }
        SendVerdict::Pass => false,
        SendVerdict::Drop => return SK_DROP,
    };
    if goes {
        redirect(ctx.msg, end.key);
    }
    SK_PASS
}

/// Whether TCP takes data in this state of a socket.
#[inline(always)]
const fn may_send(state: u32) -> bool {
    state == BPF_TCP_ESTABLISHED || state == BPF_TCP_CLOSE_WAIT
}

/// Resets the window of a direction if its receive queue is empty.
#[inline(always)]
fn renew(end: &mut AccelSock, flow: &mut Flow, size: u32) {
    let role = end.key.role();
    if !flow.may_renew(role, end.window, size) {
        return;
    }
    let (_, other) = flow.sockets(role);
    if !kread::has_unread(other) {
        flow.renew(role, &mut end.window);
    }
}

/// Whether the peer application would read redirected data from its queue. Proxies always do.
#[inline(always)]
fn peer_is_nonblocking(end: &mut AccelSock, flow: &mut Flow) -> bool {
    if !end.is_intra_pod() {
        return true;
    }
    if end.peer_f_flags == 0 {
        let (_, other) = flow.sockets(end.key.role());
        let Some(addr) = kread::f_flags_addr(other) else {
            // The peer is not accepted yet.
            return false;
        };
        end.peer_f_flags = addr;
    }
    if !kread::has_o_nonblock(end.peer_f_flags) {
        drain(flow, Reason::AccelSkippedBlocking);
        return false;
    }
    true
}

/// Whether redirection of a direction may start with this message.
#[inline(always)]
fn can_start(end: &AccelSock, flow: &mut Flow) -> bool {
    let role = end.key.role();
    let (own, other) = flow.sockets(role);
    // A blocking reader would get `EAGAIN` on a spurious wakeup.
    if end.is_intra_pod() && kread::is_nonblocking(own) != Some(true) {
        drain(flow, Reason::AccelSkippedBlocking);
        return false;
    }
    if !kread::has_read_all(other, own) {
        return false;
    }
    // Must precede the redirect: the removal of the sockets from the map reads this state.
    flow.mark_redirected(role);
    count(Reason::AccelStarted);
    true
}

/// Moves a connection to TCP, and counts the reason.
#[inline(always)]
fn drain(flow: &mut Flow, why: Reason) {
    flow.start_drain();
    count(why);
}

/// Redirects the message to the peer's queue. Without a peer, TCP carries this and every later message.
#[inline(always)]
fn redirect(msg: *mut sk_msg_md, key: SockKey) {
    let mut peer = key.peer();
    let map = (&raw const SOCK_PAIR_MAP).cast_mut().cast();
    // SAFETY: the context is the kernel's; the key stays on the stack during the call.
    let verdict = unsafe {
        bpf_msg_redirect_hash(msg, map, (&raw mut peer).cast(), u64::from(BPF_F_INGRESS))
    };
    if verdict != i64::from(SK_PASS)
        && let Some(flow) = maps::flow(key)
    {
        drain(flow, Reason::AccelStoppedNoPeer);
    }
}

/// TCP data of an accelerated socket was acknowledged: if its connection is drained, both sockets leave
/// the map, which would otherwise copy every message once more than TCP alone.
///
/// A socket that leaves the map loses the content of its queue, so both queues must be empty, without a
/// message in flight to one.
#[inline(always)]
pub(crate) fn remove_if_drained(ops: *mut bpf_sock_ops) {
    if !kread::offsets_valid() {
        return;
    }
    let sk = read!(ops, __bindgen_anon_2.sk);
    let Some(AccelSock { key, .. }) = ACCEL_SOCK.load(sk) else {
        return;
    };
    let Some(flow) = maps::flow(key) else {
        return;
    };
    if !flow.poll_drained() {
        return;
    }
    if has_inflight(flow, key.role()) || has_inflight(flow, key.peer().role()) {
        return;
    }
    // The same callback may run for the peer at the same time: one of the two removes the sockets.
    if ACCEL_FLOWS.remove(key.number()).is_err() {
        return;
    }
    sockhash_delete(key.peer());
    sockhash_delete(key);
    ACCEL_SOCK.remove(sk);
    count(Reason::AccelDrained);
}

/// Whether an end has unread data, or a call that began before the drain still redirects from it.
#[inline(always)]
fn has_inflight(flow: &mut Flow, role: SockRole) -> bool {
    let (own, _) = flow.sockets(role);
    kread::has_unread(own) || (flow.was_redirected(role) && !kread::is_idle(own))
}

/// Removes a socket from the sockhash, if it is there.
#[inline(always)]
fn sockhash_delete(mut key: SockKey) {
    let map = (&raw const SOCK_PAIR_MAP).cast_mut().cast();
    // SAFETY: the key is on the stack for the call.
    let _gone = unsafe { bpf_map_delete_elem(map, (&raw mut key).cast()) };
}

/// An application calls `splice(2)` on a TCP socket, which does not read the queue of redirected
/// messages. If there are some, the connection is aborted; if not, TCP carries the later messages. No
/// application of the Pod is accelerated any more.
#[inline(always)]
pub(crate) fn on_splice_read(ctx: &FEntryContext) {
    if !kread::offsets_valid() {
        return;
    }
    let sk = kread::sock_from_socket(ctx.arg::<*const c_void>(0));
    let Some(end) = ACCEL_SOCK.load(sk) else {
        return;
    };
    if end.is_intra_pod() {
        let _full = SPLICE_NETNS.insert(end.netns_cookie, 0, 0);
    }
    let Some(flow) = maps::flow(end.key) else {
        return;
    };
    if !flow.is_draining() {
        drain(flow, Reason::AccelStoppedSplice);
    }
    let (own, _) = flow.sockets(end.key.role());
    if kread::has_unread(own) {
        flow.abort();
        count(Reason::AccelAborted);
    }
}

/// Whether an application in a network namespace calls `splice(2)`.
#[inline(always)]
pub(crate) fn netns_splices(cookie: u64) -> bool {
    SPLICE_NETNS.get_ptr(cookie).is_some()
}

/// Whether a socket is an end of an accelerated connection.
#[inline(always)]
pub(crate) fn is_in_sockhash(sk: *mut bpf_sock) -> bool {
    ACCEL_SOCK.load(sk).is_some_and(|end| end.is_enrolled())
}

/// The kernel address of a socket.
#[inline(always)]
fn sock_addr(sk: *mut bpf_sock) -> u64 {
    sk.expose_provenance() as u64
}
