//! Pending Pods, of which only the addresses are known. The first connection from one of these
//! addresses resolves the Pod's network namespace.

use aya_ebpf::programs::SockAddrContext;
use sluice_abi::{Addr, NetnsEntry, Reason, maps::MAX_PENDING_PODS};

use crate::{
    context::{self, Family},
    count::count,
    maps::{self, NETNS_FOUND, PENDING_PODS, PROCESS_IP},
};

/// The pending Pod of an unknown caller. One lookup if no Pod is pending.
///
/// The Pod's entry and its lists use a provisional cookie. A copy of the entry becomes that of the
/// caller's namespace, until the daemon replaces it by a complete one. Any user may own namespaces with
/// such an address, so the ring's capacity limits the number of copies: beyond, each connection is
/// compared again.
#[inline(always)]
pub(crate) fn resolve<F: Family>(
    ctx: &SockAddrContext,
    cookie: u64,
) -> Option<&'static NetnsEntry> {
    let provisional = match_pending::<F>(ctx)?;
    let netns = maps::netns_entry(provisional)?;
    if NETNS_FOUND.output(cookie, 0).is_ok() {
        PROCESS_IP.insert(cookie, netns, 0).ok()?;
        count(Reason::PodNetnsFound);
    }
    Some(netns)
}

/// The provisional cookie of the Pod with the caller's address: a socket can bind only to an address of its
/// network namespace. Callers that stay within their namespace, or that selected a source, are not tested.
#[inline(always)]
fn match_pending<F: Family>(ctx: &SockAddrContext) -> Option<u64> {
    if *PENDING_PODS.get(0)? == 0 {
        return None;
    }
    let dst = context::destination::<F>(ctx).addr;
    let chosen = !F::source(context::socket(ctx)).is_unspecified();
    if chosen || dst.connects_to_loopback() || can_bind_nonlocal::<F>(ctx, dst) {
        return None;
    }
    for slot in 0..MAX_PENDING_PODS {
        let provisional = *PENDING_PODS.get(slot)?;
        if provisional == 0 {
            return None;
        }
        let addr =
            maps::netns_entry(provisional).map_or(Addr::UNSPECIFIED, |netns| netns.addr_for(dst));
        if !addr.is_unspecified() && F::bind(ctx.sock_addr, addr) {
            return Some(provisional);
        }
    }
    None
}

/// Whether the caller may bind to foreign addresses (`ip_nonlocal_bind`, `IP_FREEBIND`): then a bind
/// proves nothing, and the socket stays unchanged.
#[inline(always)]
fn can_bind_nonlocal<F: Family>(ctx: &SockAddrContext, dst: Addr) -> bool {
    let anywhere = F::bind(ctx.sock_addr, dst.unassigned());
    if anywhere {
        let _unbound = F::bind(ctx.sock_addr, Addr::UNSPECIFIED);
    }
    anywhere
}
