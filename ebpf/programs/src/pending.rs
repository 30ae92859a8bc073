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

/// The provisional cookie of the Pod with the caller's address.
#[inline(always)]
fn match_pending<F: Family>(ctx: &SockAddrContext) -> Option<u64> {
    for slot in 0..MAX_PENDING_PODS {
        let provisional = *PENDING_PODS.get(slot)?;
        if provisional == 0 {
            return None;
        }
        if maps::netns_entry(provisional).is_some_and(|netns| owns_addr::<F>(ctx, netns)) {
            return Some(provisional);
        }
    }
    None
}

/// Whether the caller's network namespace has a Pod's address: only then can a socket bind to it.
/// Callers that stay within their namespace, or that selected a source, are not tested.
///
/// A function of its own: if it were inlined, the verifier would explore each of its paths again for
/// each entry of the list.
#[inline(never)]
fn owns_addr<F: Family>(ctx: &SockAddrContext, netns: &NetnsEntry) -> bool {
    let dst = context::destination::<F>(ctx).addr;
    let addr = netns.addr_for(dst);
    let chosen = !F::source(context::socket(ctx)).is_unspecified();
    !dst.connects_to_loopback()
        && !addr.is_unspecified()
        && !chosen
        && F::bind(ctx.sock_addr, addr)
        && !can_bind_nonlocal::<F>(ctx, dst)
}

/// Whether the caller may bind to foreign addresses (`ip_nonlocal_bind`, `IP_FREEBIND`): then the test
/// proves nothing, and the socket stays unchanged.
#[inline(always)]
fn can_bind_nonlocal<F: Family>(ctx: &SockAddrContext, dst: Addr) -> bool {
    let anywhere = F::bind(ctx.sock_addr, dst.unassigned());
    if anywhere {
        let _unbound = F::bind(ctx.sock_addr, Addr::UNSPECIFIED);
    }
    anywhere
}
