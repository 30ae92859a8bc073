//! Moments in a TCP socket's life that carry the original destination from the client's socket
//! to the proxy's, and that tell where the proxy listens.

use aya_ebpf::{
    bindings::{
        BPF_NOEXIST, BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB,
        BPF_SOCK_OPS_RTT_CB, BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_SOCK_OPS_TCP_LISTEN_CB, bpf_sock_ops,
    },
    helpers::bpf_sock_hash_update,
    programs::SockOpsContext,
};
use sluice_abi::{
    Addr, End, Endpoint, Event, ListenerKey, Original, Pair, Pod, PodFlags, Port, Process, Reason,
};

use crate::{
    accelerate, bind,
    context::{self, AF_INET, AF_INET6, read, read_addr},
    count::count,
    inbound,
    maps::{self, LISTENERS, PAIR_ORIGINAL_DST, RESOLVERS},
};

/// Every call of the `sock_ops` program.
#[inline(always)]
pub(crate) fn on(ctx: &SockOpsContext) {
    match read!(ctx.ops, op) {
        BPF_SOCK_OPS_TCP_CONNECT_CB => publish(ctx),
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => connected(ctx),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => accepted(ctx),
        BPF_SOCK_OPS_TCP_LISTEN_CB => listen(ctx),
        BPF_SOCK_OPS_RTT_CB => accelerate::settle(ctx.ops),
        _ => {}
    }
}

/// The client's socket has its source port now, and no packet has left: publish what it asked
/// for under the connection's addresses.
#[inline(always)]
fn publish(ctx: &SockOpsContext) {
    let proxy = remote(ctx.ops);
    // Nearly every connection of the node ends here.
    if !is_remembered_alone(proxy.addr) {
        return;
    }
    let Some(original) = context::recall(read!(ctx.ops, __bindgen_anon_2.sk)) else {
        return;
    };
    let pair = Pair {
        cookie: context::netns_cookie(ctx),
        client: local(ctx.ops),
        proxy,
    };
    let _full = PAIR_ORIGINAL_DST.insert(pair, original.to, 0);
}

/// A socket is accepted in a meshed Pod.
#[inline(always)]
fn accepted(ctx: &SockOpsContext) {
    let cookie = context::netns_cookie(ctx);
    let Some(process) = maps::process(cookie) else {
        return;
    };
    let pair = Pair {
        cookie,
        client: remote(ctx.ops),
        proxy: local(ctx.ops),
    };
    let pod = &process.pod;
    let port = pair.proxy.port;
    let to_proxy =
        port.same(pod.outbound_port) || port.same(pod.inbound_port) || port.same(pod.dns_port);
    if to_proxy && is_remembered_alone(pair.proxy.addr) {
        claim(ctx, pair);
    }
    if pod.flags.has(PodFlags::ACCELERATE_PROXIES) {
        if is_inside(process, pair.client.addr) {
            if pod.flags.has(PodFlags::ACCELERATE_ALL) {
                accelerate::enrol_server(ctx.ops, pair);
            }
        } else if is_home_of(pod, pair.proxy.addr) && inbound::is_steered(pod, port) {
            accelerate::enrol_server(ctx.ops, Pair { cookie: 0, ..pair });
        }
    }
}

/// Whether what was diverted to this address remembers its destination by itself: that of others is
/// told by the address.
#[inline(always)]
fn is_remembered_alone(proxy: Addr) -> bool {
    proxy.is_loopback() && !proxy.is_meeting()
}

/// Whether the peer of a socket in a Pod is in the Pod as well.
#[inline(always)]
fn is_inside(process: &Process, peer: Addr) -> bool {
    peer.is_loopback() || peer.is_passthrough_source() || process.owns(peer)
}

/// Whether an address is this Pod's on the whole node. What a network namespace says of itself does not
/// count: a stranger may give itself the address of another Pod.
#[inline(always)]
fn is_home_of(pod: &Pod, addr: Addr) -> bool {
    maps::pod(addr).is_some_and(|owner| owner.cookie == pod.cookie)
}

/// A socket's connection is established. A candidate for acceleration is enrolled; between Pods,
/// only with an address that is its own Pod's.
#[inline(always)]
fn connected(ctx: &SockOpsContext) {
    accelerate::enrol_client(ctx.ops, |cookie| {
        let pair = Pair {
            cookie,
            client: local(ctx.ops),
            proxy: remote(ctx.ops),
        };
        let own = cookie != 0
            || maps::process(context::netns_cookie(ctx))
                .is_some_and(|one| is_home_of(&one.pod, pair.client.addr));
        own.then_some(pair)
    });
}

/// The proxy's socket is established: move the published destination into its storage, where it
/// lives as long as the connection and cannot be evicted.
#[inline(always)]
fn claim(ctx: &SockOpsContext, pair: Pair) {
    // SAFETY: the value is copied at once; the key is of this connection alone.
    let Some(to) = (unsafe { PAIR_ORIGINAL_DST.get(pair) }).copied() else {
        count(Reason::PairMissing);
        return;
    };
    let original = Original {
        to,
        end: End::PROXY,
    };
    if context::remember(read!(ctx.ops, __bindgen_anon_2.sk), original) {
        let _absent = PAIR_ORIGINAL_DST.remove(pair);
    }
}

/// A socket begins to listen: if it is the proxy's inbound listener, `sk_lookup` must find it; if
/// it is the proxy's resolver, queries are captured from now on. The port alone proves nothing: the
/// proxy must have bound the socket.
#[inline(always)]
fn listen(ctx: &SockOpsContext) {
    let cookie = context::netns_cookie(ctx);
    let Some(process) = maps::process(cookie) else {
        return;
    };
    let port = local(ctx.ops).port;
    if !process.pod.reserves(port, false) {
        return;
    }
    if !bind::is_by_proxy(read!(ctx.ops, __bindgen_anon_2.sk)) {
        // Bound before its Pod was known, or by a kernel that chose the port.
        bind::report(process, port, context::TCP, Event::NOBODY);
        count(Reason::ForeignListener);
        return;
    }
    if port.same(process.pod.dns_port) {
        let _full = RESOLVERS.insert(cookie, 0, 0);
    }
    if !port.same(process.pod.inbound_port) {
        return;
    }
    let family = if read!(ctx.ops, family) == u32::from(AF_INET) {
        AF_INET
    } else {
        AF_INET6
    };
    for place in 0..ListenerKey::PLACES {
        if register(ctx.ops, ListenerKey::new(cookie, family, place)) {
            count(Reason::ListenerAdded);
            return;
        }
    }
    count(Reason::ListenerLost);
}

/// Puts the socket into a place of `listeners`, if the place is free.
#[inline(always)]
fn register(ops: *mut bpf_sock_ops, mut key: ListenerKey) -> bool {
    let map = (&raw const LISTENERS).cast_mut().cast();
    // SAFETY: the context is the kernel's, the key is on the stack for the call.
    let status =
        unsafe { bpf_sock_hash_update(ops, map, (&raw mut key).cast(), u64::from(BPF_NOEXIST)) };
    status == 0
}

#[inline(always)]
fn local(ops: *const bpf_sock_ops) -> Endpoint {
    let addr = read_addr!(ops, local_ip4, local_ip6);
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a port, in host byte order"
    )]
    let port = Port::new(read!(ops, local_port) as u16);
    Endpoint::new(addr, port)
}

#[inline(always)]
fn remote(ops: *const bpf_sock_ops) -> Endpoint {
    let addr = read_addr!(ops, remote_ip4, remote_ip6);
    // Network byte order as 32 bits: on little-endian machines the port is in the upper half.
    #[expect(clippy::cast_possible_truncation, reason = "the other half is zero")]
    let port = Port::new(u32::from_be(read!(ops, remote_port)) as u16);
    Endpoint::new(addr, port)
}
