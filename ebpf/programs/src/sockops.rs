//! TCP socket events: they carry the original destination from the client's socket to the proxy's, and
//! detect the proxy's listeners.

use aya_ebpf::{
    bindings::{
        BPF_NOEXIST, BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB,
        BPF_SOCK_OPS_RTT_CB, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_TCP_CONNECT_CB,
        BPF_SOCK_OPS_TCP_LISTEN_CB, bpf_sock_ops,
    },
    helpers::bpf_sock_hash_update,
    programs::SockOpsContext,
};
use sluice_abi::{
    Addr, ConnKey, Event, ListenerKey, NetnsEntry, OrigDst, PodConfig, PodFlags, Reason, SockRole,
};

use crate::{
    accelerate, before_proxy, bind, conn_rate,
    context::{self, AF_INET, AF_INET6, read},
    count::count,
    dst_alias,
    endpoint::Ends,
    inbound,
    maps::{self, DNS_CAPTURE, ORIGINAL_DST, PAIR_ORIGINAL_DST, PROXY_LISTENERS},
    node_conn, original_source,
    sk_storage::SocketStorage as _,
};

/// Dispatches every call of the `sock_ops` program.
#[inline(always)]
pub(crate) fn handle(ctx: &SockOpsContext) {
    match read!(ctx.ops, op) {
        BPF_SOCK_OPS_TCP_CONNECT_CB => {
            accelerate::remove_reconnecting(ctx.ops);
            publish_orig_dst(ctx);
            node_conn::connect(ctx);
        }
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => {
            active_established(ctx);
            node_conn::established(ctx);
        }
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => passive_established(ctx),
        BPF_SOCK_OPS_TCP_LISTEN_CB => register_listener(ctx),
        BPF_SOCK_OPS_STATE_CB => {
            node_conn::state_changed(ctx);
            count_ended(ctx);
        }
        BPF_SOCK_OPS_RTT_CB => accelerate::remove_if_drained(ctx.ops),
        _ => {}
    }
}

/// The client's socket has its source port, and no packet was sent yet: publishes the original
/// destination under the connection's addresses.
#[inline(always)]
fn publish_orig_dst(ctx: &SockOpsContext) {
    let server = Ends::remote(ctx.ops);
    // Almost every connection of the node returns here.
    if !uses_orig_dst_storage(server.addr) {
        return;
    }
    let Some(orig_dst) = ORIGINAL_DST.load(read!(ctx.ops, __bindgen_anon_2.sk)) else {
        return;
    };
    let conn = ConnKey {
        cookie: context::netns_cookie(ctx),
        client: Ends::local(ctx.ops),
        server,
    };
    let _full = PAIR_ORIGINAL_DST.insert(conn, orig_dst.dst, 0);
}

/// A server socket is established in a meshed Pod.
#[inline(always)]
fn passive_established(ctx: &SockOpsContext) {
    let cookie = context::netns_cookie(ctx);
    let Some(netns) = maps::netns_entry(cookie) else {
        return;
    };
    let conn = ConnKey {
        cookie,
        client: Ends::remote(ctx.ops),
        server: Ends::local(ctx.ops),
    };
    let pod = &netns.pod;
    let port = conn.server.port;
    let to_proxy = port.const_eq(pod.outbound_port)
        || port.const_eq(pod.inbound_port)
        || port.const_eq(pod.dns_port);
    if to_proxy && uses_orig_dst_storage(conn.server.addr) {
        take_orig_dst(ctx, conn);
    }
    if pod.flags.has(PodFlags::ACCELERATE_PROXIES) && !keeps_source(ctx, pod) {
        if is_intra_pod(netns, conn.client.addr) {
            if pod.flags.has(PodFlags::ACCELERATE_ALL) {
                accelerate::add_server_to_sockhash(ctx.ops, conn);
            }
        } else if is_home_of(pod, conn.server.addr) && inbound::would_redirect(pod, port) {
            accelerate::add_server_to_sockhash(ctx.ops, ConnKey { cookie: 0, ..conn });
        }
    }
}

/// Whether the proxy opened this connection from its client's address: both ends are in the Pod, and the
/// addresses are those of a connection between Pods.
#[inline(always)]
fn keeps_source(ctx: &SockOpsContext, pod: &PodConfig) -> bool {
    let sk = read!(ctx.ops, __bindgen_anon_2.sk);
    pod.source_mark != 0 && !sk.is_null() && read!(sk, mark) == pod.source_mark
}

/// Whether connections to this address keep their destination in socket storage: an alias address
/// identifies it without.
#[inline(always)]
fn uses_orig_dst_storage(server: Addr) -> bool {
    server.is_loopback() && !server.is_alias()
}

/// Whether the peer of a socket in a Pod is in the same Pod.
#[inline(always)]
fn is_intra_pod(netns: &NetnsEntry, peer: Addr) -> bool {
    peer.is_loopback() || peer.is_passthrough_source() || netns.owns(peer)
}

/// Whether an address belongs to this Pod node-wide. The addresses of a network namespace do not count:
/// an untrusted process may configure another Pod's address.
#[inline(always)]
fn is_home_of(pod: &PodConfig, addr: Addr) -> bool {
    maps::pod(addr).is_some_and(|owner| owner.cookie == pod.cookie)
}

/// A client socket is established: adds an acceleration candidate; between Pods, only with an address
/// of its own Pod.
#[inline(always)]
fn active_established(ctx: &SockOpsContext) {
    accelerate::add_client_to_sockhash(ctx.ops, |cookie| {
        let conn = ConnKey {
            cookie,
            client: Ends::local(ctx.ops),
            server: Ends::remote(ctx.ops),
        };
        let own = cookie != 0
            || maps::netns_entry(context::netns_cookie(ctx))
                .is_some_and(|one| is_home_of(&one.pod, conn.client.addr));
        own.then_some(conn)
    });
}

/// A client socket changes its state: counts the end of an accelerated connection for its destination. A Pod
/// that is still pending counts its connections under another cookie, and their ends not at all.
#[inline(always)]
fn count_ended(ctx: &SockOpsContext) {
    let Some(begin) = accelerate::begin_of_ending(ctx.ops) else {
        return;
    };
    let remote = Ends::remote(ctx.ops);
    let stored = || {
        let stored = ORIGINAL_DST.load(read!(ctx.ops, __bindgen_anon_2.sk));
        stored.filter(|_| uses_orig_dst_storage(remote.addr))
    };
    let to = dst_alias::lookup(ctx, remote).or_else(|| stored().map(|one| one.dst));
    conn_rate::ended(context::netns_cookie(ctx), to.unwrap_or(remote), begin);
}

/// The proxy's socket is established: moves the published destination into its storage, which lives as
/// long as the connection and cannot be evicted.
#[inline(always)]
fn take_orig_dst(ctx: &SockOpsContext, conn: ConnKey) {
    // SAFETY: the value is copied at once; the key is unique to this connection.
    let Some(to) = (unsafe { PAIR_ORIGINAL_DST.get(conn) }).copied() else {
        count(Reason::OrigDstMissing);
        return;
    };
    let orig_dst = OrigDst {
        dst: to,
        role: SockRole::SERVER,
    };
    if ORIGINAL_DST.store(read!(ctx.ops, __bindgen_anon_2.sk), orig_dst) {
        let _absent = PAIR_ORIGINAL_DST.remove(conn);
    }
}

/// A socket starts to listen: registers the proxy's inbound listener for `sk_lookup`, or starts DNS
/// capture for the proxy's resolver. The port alone proves nothing: the proxy must have bound the
/// socket.
#[inline(always)]
fn register_listener(ctx: &SockOpsContext) {
    let cookie = context::netns_cookie(ctx);
    let Some(netns) = maps::netns_entry(cookie) else {
        return;
    };
    let port = Ends::local(ctx.ops).port;
    if !netns.pod.reserves(port, false) {
        return;
    }
    if bind::is_by_validator(read!(ctx.ops, __bindgen_anon_2.sk)) {
        return;
    }
    if !bind::is_by_proxy(read!(ctx.ops, __bindgen_anon_2.sk)) {
        // The socket was bound before its Pod was enrolled, or the kernel selected the port.
        bind::report(netns, port, context::TCP, Event::NO_UID);
        count(Reason::ForeignListener);
        return;
    }
    if port.const_eq(netns.pod.dns_port) {
        let _full = DNS_CAPTURE.insert(cookie, 0, 0);
    }
    if port.const_eq(netns.pod.outbound_port) {
        before_proxy::close(&netns.pod);
    }
    if !port.const_eq(netns.pod.inbound_port) {
        return;
    }
    original_source::mark_listener(ctx, &netns.pod);
    register_inbound(ctx, cookie);
}

/// Registers the proxy's inbound listener in a free slot of its family.
#[inline(always)]
fn register_inbound(ctx: &SockOpsContext, cookie: u64) {
    let family = if read!(ctx.ops, family) == u32::from(AF_INET) {
        AF_INET
    } else {
        AF_INET6
    };
    for slot in 0..ListenerKey::SLOTS {
        if store_listener(ctx.ops, ListenerKey::new(cookie, family, slot)) {
            count(Reason::ListenerAdded);
            return;
        }
    }
    count(Reason::ListenerSlotsFull);
}

/// Stores the socket in a slot of `proxy_listeners`, if the slot is free.
#[inline(always)]
fn store_listener(ops: *mut bpf_sock_ops, mut key: ListenerKey) -> bool {
    let map = (&raw const PROXY_LISTENERS).cast_mut().cast();
    // SAFETY: the context is the kernel's; the key stays on the stack during the call.
    let status =
        unsafe { bpf_sock_hash_update(ops, map, (&raw mut key).cast(), u64::from(BPF_NOEXIST)) };
    status == 0
}
