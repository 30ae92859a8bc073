//! Connections of processes in the node's netns to Pods that do not intercept them, such as the kubelet's
//! probes of ambient Pods.
//!
//! `connect` gives the client its source port before the first packet leaves. `sock_ops` then records
//! both ends, and the inbound hook of the Pod finds them. The entry lasts as long as the client's socket,
//! so a packet that another host sends with these ends is part of that connection, or is refused by the
//! node. Nothing but a socket of the node's netns makes an entry: a source address proves nothing.

use aya_ebpf::{
    bindings::{BPF_SOCK_OPS_STATE_CB_FLAG, BPF_TCP_CLOSE},
    helpers::bpf_sock_ops_cb_flags_set,
    programs::SockOpsContext,
};
use sluice_abi::{ConnKey, Endpoint, PodConfig, PodFlags, Reason};

use crate::{
    context::{self, read},
    count::count,
    endpoint::Ends,
    maps::{self, NODE_CONNS},
};

/// The cookie of the node's netns; zero, which no netns has, if no Pod lets its connections pass. The
/// daemon sets it before it loads the programs.
#[unsafe(no_mangle)]
static NODE_NETNS: u64 = 0;

/// A socket connects: records a connection of the node to such a Pod, and enables the callback that
/// reports the socket's end.
#[inline(always)]
pub(crate) fn connect(ctx: &SockOpsContext) {
    if !is_by_node(ctx) || !is_to_bypassing_pod(ctx) || NODE_CONNS.insert(ends(ctx), 0, 0).is_err()
    {
        return;
    }
    let flags = read!(ctx.ops, bpf_sock_ops_cb_flags) | BPF_SOCK_OPS_STATE_CB_FLAG;
    // SAFETY: the context is the kernel's. The kernel ignores flags that it does not support.
    let _unknown = unsafe { bpf_sock_ops_cb_flags_set(ctx.ops, flags.cast_signed()) };
}

/// The Pod accepted: counts a connection whose entry is gone already.
#[inline(always)]
pub(crate) fn established(ctx: &SockOpsContext) {
    if is_by_node(ctx) && is_to_bypassing_pod(ctx) && NODE_CONNS.get_ptr(ends(ctx)).is_none() {
        count(Reason::NodeConnEvicted);
    }
}

/// A socket changes its state, with its ends still in place: removes the entry of one that closes.
#[inline(always)]
pub(crate) fn state_changed(ctx: &SockOpsContext) {
    if read!(ctx.ops, __bindgen_anon_1.args[1]) == BPF_TCP_CLOSE && is_by_node(ctx) {
        let _absent = NODE_CONNS.remove(ends(ctx));
    }
}

/// Whether a process of the node opened this connection to a Pod that lets it pass.
#[inline(always)]
pub(crate) fn is_open(pod: &PodConfig, client: Endpoint, server: Endpoint) -> bool {
    pod.flags.has(PodFlags::BYPASS_NODE)
        && NODE_CONNS
            .get_ptr(ConnKey {
                cookie: node_netns(),
                client,
                server,
            })
            .is_some()
}

/// Whether the socket is in the node's netns.
#[inline(always)]
fn is_by_node(ctx: &SockOpsContext) -> bool {
    let node = node_netns();
    node != 0 && context::netns_cookie(ctx) == node
}

/// Whether the peer's address is that of a Pod which does not intercept the node's connections.
#[inline(always)]
fn is_to_bypassing_pod(ctx: &SockOpsContext) -> bool {
    let server = Ends::remote(ctx.ops);
    maps::pod(server.addr).is_some_and(|pod| pod.flags.has(PodFlags::BYPASS_NODE))
}

/// The connection of a socket in the node's netns.
#[inline(always)]
fn ends(ctx: &SockOpsContext) -> ConnKey {
    ConnKey {
        cookie: node_netns(),
        client: Ends::local(ctx.ops),
        server: Ends::remote(ctx.ops),
    }
}

/// The cookie of the node's netns.
#[inline(always)]
fn node_netns() -> u64 {
    // SAFETY: a constant of the object, which the daemon may have overwritten.
    unsafe { (&raw const NODE_NETNS).read_volatile() }
}
