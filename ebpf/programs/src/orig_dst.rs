//! Reads of the original destination: by the client (`getpeername`) and by the proxy
//! (`SO_ORIGINAL_DST`).

use aya_ebpf::{
    bindings::{bpf_sock, bpf_sockopt},
    programs::{SockAddrContext, SockoptContext},
};
use sluice_abi::{Endpoint, Port, Reason, SockRole};

use crate::{
    ALLOW,
    context::{self, AF_INET, AF_INET6, Family, TCP, read},
    count::count,
    dst_alias,
    endpoint::Ends,
    maps::{self, ORIGINAL_DST},
    sk_storage::SocketStorage as _,
};

/// `SOL_IP`.
const SOL_IP: i32 = 0;
/// `SOL_IPV6`.
const SOL_IPV6: i32 = 41;
/// `SO_ORIGINAL_DST`, and `IP6T_SO_ORIGINAL_DST`.
const SO_ORIGINAL_DST: i32 = 80;

/// Shows the original destination as the peer to the client of a redirected connection. The proxy's
/// peer is the client, which never has an alias address.
#[inline(always)]
pub(crate) fn rewrite_peer<F: Family>(ctx: &SockAddrContext) -> i32 {
    let peer = context::destination::<F>(ctx);
    let dst = dst_alias::lookup(ctx, peer).or_else(|| client_orig_dst(ctx, peer));
    if let Some(dst) = dst
        && F::can_represent(dst.addr)
    {
        context::set_destination::<F>(ctx, dst);
    }
    ALLOW
}

/// The original destination of a connection that this socket opened. A socket that queried a DNS server
/// keeps that server when it connects elsewhere.
#[inline(always)]
fn client_orig_dst(ctx: &SockAddrContext, peer: Endpoint) -> Option<Endpoint> {
    let orig_dst = ORIGINAL_DST.load(context::socket(ctx))?;
    let is_current = if orig_dst.role.const_eq(SockRole::DNS_CLIENT) {
        let netns = maps::netns_entry(context::netns_cookie(ctx))?;
        peer.addr.is_loopback() && peer.port.const_eq(netns.pod.dns_port)
    } else {
        !orig_dst.role.const_eq(SockRole::SERVER)
    };
    is_current.then_some(orig_dst.dst)
}

/// Answers `SO_ORIGINAL_DST`; does not change other options.
#[inline(always)]
pub(crate) fn getsockopt(ctx: &SockoptContext) -> i32 {
    let level = read!(ctx.sockopt, level);
    let ours =
        read!(ctx.sockopt, optname) == SO_ORIGINAL_DST && (level == SOL_IP || level == SOL_IPV6);
    let answered = ours
        && match original_dst(ctx) {
            Some(to) if level == SOL_IP => write_sockaddr_in(ctx.sockopt, to),
            Some(to) => write_sockaddr_in6(ctx.sockopt, to),
            None => false,
        };
    if !answered {
        context::pass_long_optval(ctx.sockopt);
    }
    ALLOW
}

/// The original destination of a TCP socket, if it is known.
#[inline(always)]
fn original_dst(ctx: &SockoptContext) -> Option<Endpoint> {
    let sk = read!(ctx.sockopt, __bindgen_anon_1.sk);
    if read!(sk, protocol) != TCP {
        return None;
    }
    if let Some(to) = stored_dst(ctx, sk) {
        count(Reason::OrigDstFromState);
        return Some(to);
    }
    // The kernel's own result has priority if NAT rules in the Pod rewrote the connection.
    if read!(ctx.sockopt, retval) == 0 || !caller_is_proxy(ctx, sk) {
        return None;
    }
    count(Reason::OrigDstFromSockaddr);
    Some(Ends::local(sk))
}

/// From the alias address, which is the proxy's local address and the client's peer; or from socket
/// storage.
#[inline(always)]
fn stored_dst(ctx: &SockoptContext, sk: *mut bpf_sock) -> Option<Endpoint> {
    dst_alias::lookup(ctx, Ends::local(sk))
        .or_else(|| dst_alias::lookup(ctx, Ends::remote(sk)))
        .or_else(|| ORIGINAL_DST.load(sk).map(|orig_dst| orig_dst.dst))
}

/// Whether the caller is the proxy of a meshed Pod: only the proxy accepts connections that `sk_lookup`
/// assigned, whose local address is the original destination.
#[inline(always)]
fn caller_is_proxy(ctx: &SockoptContext, sk: *const bpf_sock) -> bool {
    let Some(netns) = maps::netns_entry(context::netns_cookie(ctx)) else {
        return false;
    };
    let (uid, gid) = context::current_uid_gid();
    let pod = &netns.pod;
    pod.is_proxy_owner(uid, gid) || pod.mark_matches(read!(sk, mark))
}

/// `struct sockaddr_in`: 16 bytes, the padding zero.
#[inline(always)]
fn write_sockaddr_in(sockopt: *mut bpf_sockopt, to: Endpoint) -> bool {
    let Some(addr) = to.addr.as_v4() else {
        return false;
    };
    write_sockaddr(sockopt, [sockaddr_head(AF_INET, to.port), addr, 0, 0])
}

/// `struct sockaddr_in6`: 28 bytes; no flow information, no scope.
#[inline(always)]
fn write_sockaddr_in6(sockopt: *mut bpf_sockopt, to: Endpoint) -> bool {
    let [a, b, c, d] = to.addr.words();
    write_sockaddr(
        sockopt,
        [sockaddr_head(AF_INET6, to.port), 0, a, b, c, d, 0],
    )
}

/// Family (host order) and port (network order), as in the first four bytes.
#[inline(always)]
fn sockaddr_head(family: u16, port: Port) -> u32 {
    let [a, b] = family.to_ne_bytes();
    let [c, d] = port.to_be().to_ne_bytes();
    u32::from_ne_bytes([a, b, c, d])
}

/// Writes the result and makes the call succeed. `false` if the caller's buffer is too small.
#[inline(always)]
fn write_sockaddr<const WORDS: usize>(sockopt: *mut bpf_sockopt, name: [u32; WORDS]) -> bool {
    let start = read!(sockopt, __bindgen_anon_2.optval).cast::<u32>();
    let end = read!(sockopt, __bindgen_anon_3.optval_end).cast::<u32>();
    if start.wrapping_add(WORDS) > end {
        return false;
    }
    for (index, word) in name.iter().enumerate() {
        // SAFETY: the comparison above is the bounds check that the verifier requires.
        unsafe { start.add(index).write_volatile(*word) };
    }
    context::set_optlen(sockopt, context::bytes(&name));
    // SAFETY: a context field that this program type may write.
    unsafe { (&raw mut (*sockopt).retval).write_volatile(0) };
    true
}
