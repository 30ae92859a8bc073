//! The proxy's connections to its own Pod from the addresses of its clients: pins them to `lo`, or
//! refuses them.
//!
//! A socket that is pinned to `lo` and carries the Pod's source mark takes the Pod's own route, a local
//! default route over `lo`. The inbound hook then sees the interface `lo`, and the kernel gives the mark
//! to the accepted socket (`tcp_fwmark_accept`), so the replies take the same route back.

use aya_ebpf::{
    EbpfContext,
    bindings::bpf_sock,
    helpers::bpf_setsockopt,
    programs::{SockAddrContext, SockOpsContext},
};
use sluice_abi::{Endpoint, Facts, NetnsEntry, PodConfig, SourceVerdict, original_source};

use crate::{
    context::{self, Family, read},
    filter::{self, is_pod_addr},
    inbound, owner,
};

/// `SOL_SOCKET`.
const SOL_SOCKET: i32 = 1;
/// `SO_BINDTODEVICE`.
const SO_BINDTODEVICE: i32 = 25;
/// `SO_MARK`.
const SO_MARK: i32 = 36;

/// The decision on a connection, or `None` if the outbound rules decide. Almost every socket has
/// neither a source address nor a mark, and returns at once.
#[inline(always)]
pub(crate) fn decide<F: Family>(
    ctx: &SockAddrContext,
    netns: &NetnsEntry,
    dst: Endpoint,
) -> Option<SourceVerdict> {
    let pod = &netns.pod;
    let sk = context::socket(ctx);
    let source = F::source(sk);
    let marked = pod.source_mark != 0 && read!(sk, mark) == pod.source_mark;
    let facts = Facts::opaque(pod.cookie).with_opaque(Facts::MARKED, marked);
    let marked = facts.has(Facts::MARKED);
    if (source.is_unspecified() && !marked) || !is_by_proxy(pod, sk, marked) {
        return None;
    }
    let to_loopback = dst.addr.connects_to_loopback();
    let local_source =
        source.is_unspecified() || source.is_loopback() || source.is_passthrough_source();
    let foreign_source = !local_source && !is_pod_addr(netns, source);
    let redirected =
        inbound::would_redirect(pod, dst.port) && !filter::bypasses_from(pod, source, 0);
    let facts = facts
        .with_opaque(Facts::BY_PROXY, true)
        .with_opaque(Facts::FOREIGN_SOURCE, foreign_source)
        .with_opaque(Facts::LOCAL, !to_loopback && is_pod_addr(netns, dst.addr))
        .with_opaque(Facts::TO_LOOPBACK, to_loopback)
        .with_opaque(Facts::INBOUND_REDIRECTED, redirected)
        .with_opaque(Facts::TO_LISTENER, dst.port.const_eq(pod.inbound_port));
    original_source(pod, facts)
}

/// Whether the proxy opens the connection. Where a mark identifies the proxy, the source mark replaces
/// it on a socket that connects again.
#[inline(always)]
fn is_by_proxy(pod: &PodConfig, sk: *const bpf_sock, marked: bool) -> bool {
    let (uid, gid) = owner::judged(sk, |uid, gid| pod.is_proxy_owner(uid, gid));
    pod.is_proxy_owner(uid, gid)
        || pod.mark_matches(read!(sk, mark))
        || (marked && pod.mark_mask != 0)
}

/// Routes the socket's packets over `lo`. `false` if the kernel refuses: the socket may be bound to
/// another interface.
#[inline(always)]
pub(crate) fn pin_to_loopback(ctx: &SockAddrContext, mark: u32) -> bool {
    let mut device = *b"lo\0\0";
    let mut mark = mark.to_ne_bytes();
    set_option(ctx, SO_MARK, &mut mark) && set_option(ctx, SO_BINDTODEVICE, &mut device)
}

/// Gives the proxy's inbound listener a mark of its own, unless it has one.
#[inline(always)]
pub(crate) fn mark_listener(ctx: &SockOpsContext, pod: &PodConfig) {
    let sk = read!(ctx.ops, __bindgen_anon_2.sk);
    if pod.source_mark != 0 && !sk.is_null() && read!(sk, mark) == 0 {
        let mut mark = PodConfig::LISTENER_MARK.to_ne_bytes();
        let _keeps_none = set_option(ctx, SO_MARK, &mut mark);
    }
}

/// Sets a socket option of four bytes.
#[inline(always)]
fn set_option(ctx: &impl EbpfContext, name: i32, value: &mut [u8; 4]) -> bool {
    // SAFETY: the context is the kernel's; `value` has four bytes and stays on the stack during the
    // call.
    let status =
        unsafe { bpf_setsockopt(ctx.as_ptr(), SOL_SOCKET, name, value.as_mut_ptr().cast(), 4) };
    status == 0
}
